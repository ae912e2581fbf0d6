// measure.mjs: the decoder's size, and how fast it expands compiled models, in Node and in Chromium.
//
//     node measure.mjs [--chromium] MODEL...
//
// A model is expanded again and again for two seconds, at least three times: the first time with code that the engine
// has just compiled in haste, the best when it has taken its time.
import { readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, gzipSync } from "node:zlib";

const HERE = path.dirname(fileURLToPath(import.meta.url));

/** Runs in Node and in pages. Milliseconds of every round, and the size. */
async function expand(unpack, model) {
  const rounds = [];
  let size = 0;
  for (const start = performance.now(); rounds.length < 3 || performance.now() - start < 2000; ) {
    const before = performance.now();
    size = (await unpack(model)).length;
    rounds.push(performance.now() - before);
  }
  return { rounds, size };
}

function print(where, file, { rounds, size }) {
  const rate = (milliseconds) => `${(size / milliseconds / 1000).toFixed(0)} MB/s`.padStart(9);
  const bytes = [readFileSync(file).length, size].map((count) => count.toLocaleString("en").padStart(12));
  console.log(where.padEnd(9), path.basename(file).padEnd(24), ...bytes, rate(rounds[0]), rate(Math.min(...rounds)));
}

async function inNode(files) {
  const { unpack } = await import("./dist/node.js");
  for (const file of files) print("Node", file, await expand(unpack, readFileSync(file)));
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
      for (const [i, file] of files.entries()) {
        const source = `(async () => {
          const { unpack } = await import("./web.js");
          const response = await fetch("/${i}/${encodeURIComponent(path.basename(file))}");
          return (${expand})(unpack, new Uint8Array(await response.arrayBuffer()));
        })()`;
        print("Chromium", file, await page.evaluate(source));
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
  console.log("where".padEnd(9), "model".padEnd(24), "compiled".padStart(12), "expanded".padStart(12), "    first", "     best");
  await inNode(files);
  if (process.argv.includes("--chromium")) await inChromium(files);
}
