// page.mjs: a board to draw on, what both networks answer, and what the compiled one saves.
import { loadModel } from "dcc-compiler";
import * as ort from "onnxruntime-web";

import { SIDE, imageOf } from "./digits.mjs";
import { compressedSize, timesOf } from "./timing.mjs";

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that plain servers do not send

const byId = (id) => document.getElementById(id);
const board = byId("board");
const pen = board.getContext("2d", { willReadFrequently: true });
const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });

// The board -----------------------------------------------------------------------------------------------------------

let last;

function placeOf(event) {
  const scale = board.width / board.clientWidth;
  return { x: event.offsetX * scale, y: event.offsetY * scale };
}

function strokeTo(place) {
  pen.strokeStyle = getComputedStyle(board).getPropertyValue("--chalk");
  pen.lineWidth = board.width / 13;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(last.x, last.y);
  pen.lineTo(place.x, place.y);
  pen.stroke();
  last = place;
}

board.addEventListener("pointerdown", (event) => {
  board.setPointerCapture(event.pointerId);
  last = placeOf(event);
  strokeTo(last);
});
board.addEventListener("pointermove", (event) => {
  if (last === undefined) return;
  for (const step of event.getCoalescedEvents?.() ?? [event]) strokeTo(placeOf(step));
});
for (const end of ["pointerup", "pointercancel"]) {
  board.addEventListener(end, () => {
    last = undefined;
    void classify();
  });
}
byId("clear").addEventListener("click", () => {
  pen.clearRect(0, 0, board.width, board.height);
  void classify();
});

// The answer ----------------------------------------------------------------------------------------------------------

const rows = Array.from({ length: 10 }, (_, digit) => {
  const row = byId("classes").appendChild(document.createElement("li"));
  const parts = ["span", "div", "span"].map((name) => row.appendChild(document.createElement(name)));
  parts[0].textContent = digit;
  parts[1].className = "track";
  return { bar: parts[1].appendChild(document.createElement("span")), text: parts[2] };
});

let sessions;

async function logitsOf(session, image) {
  const { logits } = await session.run({ x: new ort.Tensor("float32", image, [1, 1, SIDE, SIDE]) });
  return logits.data;
}

function probabilitiesOf(logits) {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((value) => value / sum);
}

const bestOf = (values) => values.indexOf(Math.max(...values));

async function classify() {
  const image = sessions && imageOf(board);
  if (!image) {
    show(undefined);
    return;
  }
  const compiled = await logitsOf(sessions.compiled, image);
  const original = await logitsOf(sessions.original, image);
  show({ compiled: probabilitiesOf(compiled), original: probabilitiesOf(original) });
  board.dispatchEvent(new CustomEvent("classified", { detail: { image, compiled, original } }));
}

function show(answers) {
  const digit = answers && bestOf(answers.compiled);
  byId("digit").textContent = digit ?? "–";
  rows.forEach(({ bar, text }, i) => {
    bar.style.width = answers ? percent.format(answers.compiled[i]) : "0";
    text.textContent = answers ? percent.format(answers.compiled[i]) : "";
  });
  if (!answers) return;
  const other = bestOf(answers.original);
  const share = percent.format(answers.original[other]);
  byId("agreement").textContent =
    other === digit
      ? `The original network says ${other}, too (${share}).`
      : `The original network says ${other} (${share}).`;
}

// What is saved -------------------------------------------------------------------------------------------------------

const kilobytes = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const size = (bytes) => `${kilobytes.format(bytes / 1000)} kB`;

/** `facts` are the bytes of each model and of the decoder, and the milliseconds that were measured. */
function showTimes(facts) {
  const seconds = (bytes) => (8e-6 * bytes) / Number(byId("bandwidth").value);
  const models = [
    { name: "Original", bytes: facts.originalBytes, decoder: 0, times: facts.times.original },
    { name: "Compiled", bytes: facts.compiledBytes, decoder: facts.decoderBytes, times: facts.times.compiled },
  ].map(({ name, bytes, decoder, times }) => ({
    name,
    bytes,
    decoder,
    parts: { model: seconds(bytes), decoder: seconds(decoder), expand: times.expand / 1e3, start: times.start / 1e3 },
  }));
  const sum = (parts) => Object.values(parts).reduce((a, b) => a + b);
  const longest = Math.max(...models.map(({ parts }) => sum(parts)));
  byId("bars").replaceChildren(
    ...models.map(({ name, bytes, decoder, parts }) => {
      const bar = document.createElement("div");
      bar.className = "bar";
      const line = bar.appendChild(document.createElement("p"));
      const sizes = decoder ? `${size(bytes)} and ${size(decoder)} of decoder` : size(bytes);
      const time = `${sum(parts).toFixed(2)} s`;
      line.append(labelled("strong", name), labelled("span", sizes, "size"), labelled("span", time, "time"));
      const stack = bar.appendChild(labelled("div", "", "stack"));
      for (const [kind, time] of Object.entries(parts)) {
        const part = stack.appendChild(labelled("span", "", kind));
        part.style.width = `${(100 * time) / longest}%`;
        part.title = `${(1000 * time).toFixed(0)} ms`;
      }
      return bar;
    }),
  );
}

function labelled(name, text, kind = "") {
  const element = document.createElement(name);
  element.textContent = text;
  element.className = kind;
  return element;
}

async function bytesOf(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: the server answered ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

async function main() {
  const compiledUrl = new URL("models/lenet5.dcc.onnx", import.meta.url);
  const dense = await loadModel(compiledUrl, {
    onProgress: ({ loaded, total }) => {
      byId("hint").textContent = `Loading ${total ? percent.format(loaded / total) : size(loaded)} …`;
    },
  });
  const compiled = await ort.InferenceSession.create(dense);
  const originalBytes = await bytesOf(new URL("models/lenet5.onnx", import.meta.url));
  const original = await ort.InferenceSession.create(originalBytes);
  sessions = { compiled, original };
  byId("hint").textContent = "Ready.";
  await classify(); // what was drawn meanwhile
  const compiledBytes = await bytesOf(compiledUrl);
  const zeros = { x: new ort.Tensor("float32", new Float32Array(SIDE * SIDE), [1, 1, SIDE, SIDE]) };
  const facts = {
    originalBytes: originalBytes.length,
    compiledBytes: compiledBytes.length,
    decoderBytes: await compressedSize(await bytesOf(new URL("dcc/dcc.wasm", import.meta.url))),
    times: await timesOf(originalBytes, compiledBytes, zeros),
  };
  showTimes(facts);
  byId("bandwidth").addEventListener("change", () => showTimes(facts));
  document.documentElement.dataset.state = "ready";
}

main().catch((error) => {
  byId("hint").textContent = error.message;
  document.documentElement.dataset.state = "failed";
});
