// node.ts: for Node, where models lie in files, too.

import { createReadStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { Readable } from "node:stream";
import { fileURLToPath } from "node:url";

import { modelsOn } from "./models.js";

export const { unpack, loadModel, createSession } = modelsOn({
  async compileDecoder() {
    return WebAssembly.compile(await readFile(new URL("./dcc.wasm", import.meta.url)));
  },
  open: (source, init) => (isRemote(source) ? fetch(source, init) : openFile(source, init.signal)),
});

/** Whether `fetch` reads it. What else looks like a URL may be a path, such as C:\model.onnx. */
function isRemote(source: string | URL): boolean {
  return /^(https?|data|blob):/i.test(String(source));
}

async function openFile(source: string | URL, signal: AbortSignal | null | undefined): Promise<Response> {
  const text = String(source);
  const path = text.startsWith("file:") ? fileURLToPath(text) : text;
  const { size } = await stat(path);
  const stream = createReadStream(path, signal ? { signal } : {});
  return new Response(Readable.toWeb(stream) as ReadableStream, { headers: { "content-length": String(size) } });
}

export { DccError, type Reason } from "./errors.js";
export type { Progress } from "./download.js";
export type { LoadOptions, Runtime, SessionOptionsOf, UnpackOptions } from "./models.js";
