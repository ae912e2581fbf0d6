// measure.mjs: the decoder's size, and how fast it expands compiled models, in Node and in Chromium.
//
//     node measure.mjs [--chromium] MODEL...
//
// A model is expanded again and again for two seconds, at least three times: the first time with code that the engine
// has just compiled in haste, the best when it has taken its time. The rate is also given by processor time, of all
// threads of the process and the mean of the later rounds, which other work on the machine changes little.
import { readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, gzipSync } from "node:zlib";

const HERE = path.dirname(fileURLToPath(import.meta.url));

/**
 * Milliseconds of the first round and of the best by the clock, of the later ones by processor time, and the size. A round
 * tells its milliseconds by the clock and the size.
 */
async function repeat(round, processorTime) {
  const { took: first, size } = await round();
  const times = [];
  const before = await processorTime();
  for (const start = performance.now(); times.length < 2 || performance.now() - start < 2000; ) {
    times.push((await round()).took);
  }
  const busy = ((await processorTime()) - before) / times.length;
  return { first, best: Math.min(first, ...times), busy, size };
}

/** One round, in Node and in pages. */
async function expand(unpack, model) {
  const start = performance.now();
  const { length } = await unpack(model);
  return { took: performance.now() - start, size: length };
}

function print(where, file, { first, best, busy, size }) {
  const rates = [first, best, busy].map((time) => (time > 0 ? `${(size / time / 1000).toFixed(0)} MB/s` : "").padStart(9));
  const bytes = [readFileSync(file).length, size].map((count) => count.toLocaleString("en").padStart(12));
  console.log(where.padEnd(9), path.basename(file).padEnd(24), ...bytes, ...rates);
}

async function inNode(files) {
  const { unpack } = await import("./dist/node.js");
  const processorTime = () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  };
  for (const file of files) {
    const model = readFileSync(file);
    print("Node", file, await repeat(() => expand(unpack, model), processorTime));
  }
}

async function inChromium(files) {
  const { withBrowser } = await import("./test/browser.mjs");
  const { serve } = await import("./test/server.mjs");
  const folders = files.map((file, i) => [path.dirname(path.resolve(file)), `/${i}/`]);
  const { url, stop } = await serve([...folders, [path.join(HERE, "dist"), "/"]]);
  try {
    await withBrowser({}, async (context) => {
      const page = await context.newPage();
      await page.route(`${url}/`, (route) => route.fulfill({ contentType: "text/html", body: "<!doctype html>" }));
      await page.goto(url);
      const tools = await context.newCDPSession(page);
      await tools.send("Performance.enable");
      const processorTime = async () => {
        const { metrics } = await tools.send("Performance.getMetrics");
        return 1000 * metrics.find(({ name }) => name === "ProcessTime").value;
      };
      for (const [i, file] of files.entries()) {
        await page.evaluate(`(async () => {
          const { unpack } = await import("./web.js");
          const response = await fetch("/${i}/${encodeURIComponent(path.basename(file))}");
          const model = new Uint8Array(await response.arrayBuffer());
          globalThis.round = () => (${expand})(unpack, model);
        })()`);
        print("Chromium", file, await repeat(() => page.evaluate("round()"), processorTime));
      }
    });
  } finally {
    stop();
  }
}

const files = process.argv.slice(2).filter((word) => word !== "--chromium");
const decoder = readFileSync(path.join(HERE, "dist", "dcc.wasm"));
const sizes = [decoder, gzipSync(decoder, { level: 9 }), brotliCompressSync(decoder)];
const [plain, gzip, brotli] = sizes.map(({ length }) => length.toLocaleString("en"));
console.log(`dcc.wasm: ${plain} bytes, ${gzip} by gzip, ${brotli} by brotli`);
if (files.length > 0) {
  console.log("where".padEnd(9), "model".padEnd(24), "compiled".padStart(12), "expanded".padStart(12), "    first", "     best", "processor");
  await inNode(files);
  if (process.argv.includes("--chromium")) await inChromium(files);
}
