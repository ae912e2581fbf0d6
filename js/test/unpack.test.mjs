// unpack.test.mjs: models expand to the bytes that the native library gives, and bad files end in sentences.
//
// The folder in MODELS is made by make_models.py.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import test from "node:test";
import { pathToFileURL } from "node:url";

import { DccError, createSession, loadModel, unpack } from "dcc-compiler";
import * as ort from "onnxruntime-node";

import { serve } from "./server.mjs";

const FOLDER = process.env.MODELS ?? "models";
const GOOD = path.join(FOLDER, "good");
const BAD = path.join(FOLDER, "bad");
const SOME = path.join(GOOD, "torch_cnn_dynamo.session.onnx");

const denseOf = (file) => readFileSync(file.replace(/\.onnx$/, ".dense.onnx"));
const modelsIn = (folder) => readdirSync(folder).filter((name) => /^(?!.*\.dense).*\.onnx$/.test(name));

for (const name of modelsIn(GOOD)) {
  test(`${name} expands as the library expands it`, async () => {
    const file = path.join(GOOD, name);
    const dense = await unpack(readFileSync(file));
    assert.ok(denseOf(file).equals(dense));
    assert.equal(dense.buffer.byteLength, dense.length); // it holds on to no more
  });
}

for (const name of modelsIn(BAD)) {
  test(`${name} is refused`, async () => {
    const file = path.join(BAD, name);
    const sentence = new RegExp(readFileSync(file.replace(/onnx$/, "txt"), "utf8"));
    const started = performance.now();
    await assert.rejects(unpack(readFileSync(file)), (error) => {
      assert.ok(error instanceof DccError && error.reason !== "memory", String(error));
      assert.match(error.message, sentence);
      return true;
    });
    assert.ok(performance.now() - started < 10_000);
  });
}

test("cuts and changed bytes are refused or harmless", async () => {
  const bytes = readFileSync(path.join(GOOD, "annotated.session.onnx"));
  const dense = denseOf(path.join(GOOD, "annotated.session.onnx"));
  let refused = 0;
  const outcome = (model) =>
    unpack(model, { maxDecodedBytes: 1 << 22 }).then(
      () => "expanded",
      (error) => {
        assert.ok(error instanceof DccError && error.message, String(error));
        ++refused;
      },
    );
  for (let size = 0; size < bytes.length; size += 5) await outcome(bytes.subarray(0, size));
  assert.ok(refused > bytes.length / 5 - 10); // metadata stand at the end
  for (let at = 0; at < bytes.length; at += 2) {
    const changed = Uint8Array.from(bytes);
    changed[at] ^= 0x81;
    await outcome(changed);
  }
  assert.ok(refused > (bytes.length / 5 + bytes.length / 2) * 0.8);
  assert.ok(dense.equals(await unpack(bytes))); // nothing is left of what went before
});

test("files, by path and by URL", async () => {
  const steps = [];
  const dense = await loadModel(SOME, { onProgress: (step) => steps.push(step) });
  assert.ok(denseOf(SOME).equals(dense));
  const total = readFileSync(SOME).length;
  assert.deepEqual(steps[0], { loaded: 0, total, stage: "download" });
  assert.deepEqual(steps.at(-1), { loaded: total, total, stage: "unpack" });
  assert.ok(denseOf(SOME).equals(await loadModel(pathToFileURL(SOME))));
  assert.ok(denseOf(SOME).equals(await loadModel(pathToFileURL(SOME).href)));
  for (const name of ["missing.onnx", GOOD]) {
    await assert.rejects(loadModel(name), { name: "DccError", reason: "fetch", message: /cannot be read/ });
  }
});

test("URLs: sizes, pieces, errors and aborts", async () => {
  const { url, stop } = await serve([[GOOD, "/"]]);
  try {
    const name = path.basename(SOME);
    const total = readFileSync(SOME).length;
    for (const [query, expected] of [["", total], ["?encoding", undefined], ["?chunked", undefined]]) {
      const steps = [];
      const dense = await loadModel(`${url}/${name}${query}`, { onProgress: (step) => steps.push(step) });
      assert.ok(denseOf(SOME).equals(dense));
      assert.deepEqual(steps[0], { loaded: 0, total: expected, stage: "download" });
      assert.deepEqual(steps.at(-1), { loaded: total, total, stage: "unpack" });
      const loaded = steps.map((step) => step.loaded);
      assert.deepEqual(loaded, [...loaded].sort((a, b) => a - b));
    }
    await assert.rejects(loadModel(`${url}/none.onnx`), {
      reason: "fetch",
      message: `${url}/none.onnx: the server answered 404 Not Found`,
    });
    await assert.rejects(loadModel(`${url}/${name}?cut`), { reason: "fetch", message: /cannot be read/ });
    const controller = new AbortController();
    const reason = new Error("no longer wanted");
    const loading = loadModel(`${url}/${name}?slow`, { signal: controller.signal });
    setTimeout(() => controller.abort(reason), 50);
    await assert.rejects(loading, reason);
    await assert.rejects(loadModel(`${url}/${name}`, { signal: AbortSignal.abort(reason) }), reason);
  } finally {
    stop();
  }
  await assert.rejects(loadModel(`${url}/gone.onnx`), { reason: "fetch", message: /gone\.onnx cannot be read/ });
});

test("the limit", async () => {
  const limited = (maxDecodedBytes) => loadModel(SOME, { maxDecodedBytes });
  await assert.rejects(limited(1000), {
    reason: "over-limit",
    message: /torch_cnn_dynamo\.session\.onnx: .* would make the file decode to \d+ bytes.*allow more \(maxDecodedBytes\)$/,
  });
  for (const enough of [1 << 24, 1n << 40n]) assert.ok(denseOf(SOME).equals(await limited(enough)));
  for (const wrong of [0, -1, 1.5, Number.NaN, 0n]) await assert.rejects(limited(wrong), TypeError);
});

test("a session of onnxruntime-node answers as the dense model does", async () => {
  const feeds = {
    x: new ort.Tensor("float32", Float32Array.from({ length: 432 }, (_, i) => (i % 17) / 17), [1, 3, 12, 12]),
  };
  const session = await createSession(ort, SOME, { session: { intraOpNumThreads: 1 } });
  const dense = await ort.InferenceSession.create(denseOf(SOME));
  const run = async (which) => Object.values(await which.run(feeds))[0].data;
  assert.deepEqual(await run(session), await run(dense));
});
