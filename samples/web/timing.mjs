// timing.mjs: how long it takes from bytes that have come to a first result.

import { unpack } from "dcc-compiler";
import * as ort from "onnxruntime-web";

const ROUNDS = 5;

/**
 * Median milliseconds that the original and the compiled model take to `expand` and to `start`: making a session and
 * running it once. Both in turn, so that what else happens meets both.
 */
export async function timesOf(original, compiled, feeds) {
  const rounds = { original: [], compiled: [] };
  await start(original, feeds); // compiles onnxruntime itself
  for (let round = 0; round < ROUNDS; ++round) {
    rounds.original.push({ expand: 0, start: await start(original, feeds) });
    const before = performance.now();
    const dense = await unpack(compiled);
    const expand = performance.now() - before;
    rounds.compiled.push({ expand, start: await start(dense, feeds) });
  }
  return { original: medians(rounds.original), compiled: medians(rounds.compiled) };
}

async function start(model, feeds) {
  const before = performance.now();
  const session = await ort.InferenceSession.create(model);
  await session.run(feeds);
  const took = performance.now() - before;
  await session.release();
  return took;
}

function medians(rounds) {
  const median = (key) => rounds.map((round) => round[key]).sort((a, b) => a - b)[Math.floor(rounds.length / 2)];
  return { expand: median("expand"), start: median("start") };
}

/** What a server that compresses sends for these bytes. */
export async function compressedSize(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return (await new Response(stream).arrayBuffer()).byteLength;
}
