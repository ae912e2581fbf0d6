// build.mjs: puts the page, the packages it imports and both models into a folder that any web server can serve.
//
//     node build.mjs [FOLDER] [-- options of dcc compile]
//
// Without options the compiled model is samples/lenet5.smallest.onnx, with options `dcc compile` makes it.
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const ORIGINAL = path.join(HERE, "..", "lenet5.onnx");
const COMPILED = path.join(HERE, "..", "lenet5.smallest.onnx");
const PAGE = ["index.html", "page.css", "page.mjs", "digits.mjs", "timing.mjs"];
const RUNTIME = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];

const [folder = path.join(HERE, "dist"), ...options] = process.argv.slice(2).filter((word) => word !== "--");

function copy(from, names, part) {
  mkdirSync(path.join(folder, part), { recursive: true });
  for (const name of names) copyFileSync(path.join(from, name), path.join(folder, part, name));
}

function compile(output) {
  const done = spawnSync("dcc", ["compile", ORIGINAL, "-o", output, "--quiet", ...options], { stdio: "inherit" });
  if (done.error) throw new Error(`dcc cannot be run (${done.error.message}); 'pip install .' brings it`);
  if (done.status !== 0) process.exit(done.status);
}

const { resolve } = createRequire(import.meta.url);
const decoder = path.dirname(resolve("dcc-compiler/dcc.wasm"));
rmSync(folder, { recursive: true, force: true });
copy(HERE, PAGE, ".");
copy(decoder, readdirSync(decoder).filter((name) => /\.(js|wasm)$/.test(name)), "dcc");
copy(path.dirname(resolve("onnxruntime-web")), RUNTIME, "ort");
copy(path.dirname(ORIGINAL), ["lenet5.onnx"], "models");
const compiled = path.join(folder, "models", "lenet5.dcc.onnx");
if (options.length > 0) compile(compiled);
else copyFileSync(COMPILED, compiled);
const size = (name) => statSync(path.join(folder, "models", name)).size.toLocaleString("en");
console.log(`${folder}: original ${size("lenet5.onnx")} bytes, compiled ${size("lenet5.dcc.onnx")} bytes`);
