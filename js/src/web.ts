// web.ts: for browsers and their workers.

import { modelsOn } from "./models.js";

export const { unpack, loadModel, createSession } = modelsOn({
  async compileDecoder() {
    const response = await fetch(new URL("./dcc.wasm", import.meta.url));
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    const isWasm = response.headers.get("content-type") === "application/wasm"; // what compiling a stream asks for
    return isWasm ? WebAssembly.compileStreaming(response) : WebAssembly.compile(await response.arrayBuffer());
  },
  open: (source, init) => fetch(source, init),
});

export { DccError, type Reason } from "./errors.js";
export type { Progress } from "./download.js";
export type { LoadOptions, Runtime, SessionOptionsOf, UnpackOptions } from "./models.js";
