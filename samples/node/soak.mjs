// soak.mjs: opens a compiled model in onnxruntime-node, runs it and closes it again, many times: a server whose sessions
// come and go.
//
//     node samples/node/soak.mjs MODEL [SESSIONS [MOST]]
//
// Prints the resident memory after a tenth of the sessions (5,000 by default), when caches are filled, and after each further
// tenth. Exit code 1 when it grew by more than MOST MiB (by default 32: what Node keeps between two collections of garbage
// moves up and down) in between, or when an output changed. samples/serving/soak.py is the same in Python.
import { createSession } from "dcc-compiler";
import * as ort from "onnxruntime-node";

const [model, sessions = 5000, most = 32] = [process.argv[2], ...process.argv.slice(3).map(Number)];
if (model === undefined || !(sessions >= 10)) {
  console.error("usage: node soak.mjs MODEL [SESSIONS, 10 or more [MOST]]");
  process.exit(2);
}

/** The first output for inputs of 0.5 (float32; symbolic dimensions are 1), from a session made for it. */
async function firstOutput() {
  const session = await createSession(ort, model, { session: { intraOpNumThreads: 1 } });
  const feeds = {};
  for (const { name, shape } of session.inputMetadata) {
    const dims = shape.map((extent) => (typeof extent === "number" ? extent : 1));
    const count = dims.reduce((product, extent) => product * extent, 1);
    feeds[name] = new ort.Tensor("float32", new Float32Array(count).fill(0.5), dims);
  }
  const results = await session.run(feeds);
  const first = Float32Array.from(results[session.outputNames[0]].data);
  await session.release();
  return first;
}

const expected = await firstOutput();
const tenth = Math.floor(sessions / 10);
let filled = 0;
let now = 0;
for (let i = 1; i <= sessions; ++i) {
  const found = await firstOutput();
  if (found.length !== expected.length || found.some((value, at) => value !== expected[at])) {
    console.error(`session ${i} gives another output`);
    process.exit(1);
  }
  if (i % tenth === 0) {
    now = process.memoryUsage.rss() / 2 ** 20;
    if (i === tenth) filled = now;
    console.log(`${i.toLocaleString("en")} sessions: ${now.toFixed(1)} MiB`);
  }
}
const grown = now - filled;
console.log(`grew by ${grown.toFixed(1)} MiB from session ${tenth.toLocaleString("en")} to ${sessions.toLocaleString("en")}`);
process.exitCode = grown > most ? 1 : 0;
