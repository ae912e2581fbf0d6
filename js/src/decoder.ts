// decoder.ts: calls dcc_unpack (dc_compiler/native/dcc.h) in WebAssembly.

import { DccError, type Reason } from "./errors.js";

/** Bytes of a buffer of their own, which can be transferred: onnxruntime-web does so to its worker. */
export type Bytes = Uint8Array<ArrayBuffer>;

interface Exports {
  memory: WebAssembly.Memory;
  _initialize(): void;
  malloc(size: number): number;
  dcc_unpack(
    model: number,
    size: number,
    maxDecodedBytes: bigint,
    threads: number,
    out: number,
    outSize: number,
    error: number,
    errorSize: number,
  ): number;
}

const ERROR_BYTES = 1024;
const POINTER_BYTES = 4;
const CORRUPT = 1;
const REASONS: Record<number, Reason> = { [CORRUPT]: "corrupt", 2: "not-compiled", 3: "memory", 5: "over-limit" };

/**
 * The dense model of a compiled one, whose bytes come in pieces.
 *
 * Every call has an instance, and so a memory, of its own: WebAssembly memory grows and never shrinks, but goes when
 * nothing refers to the instance any more.
 *
 * @param maxDecodedBytes 0n for the default
 */
export function decode(module: WebAssembly.Module, pieces: readonly Uint8Array[], maxDecodedBytes: bigint): Bytes {
  try {
    return run(module, pieces, maxDecodedBytes);
  } catch (error) {
    if (error instanceof DccError) throw error;
    // What the engine throws: no room for an instance, a result or a view of it, or a trap
    const reason = error instanceof RangeError ? "memory" : "corrupt";
    throw new DccError(reason, `the model could not be expanded: ${String(error)}`, { cause: error });
  }
}

function run(module: WebAssembly.Module, pieces: readonly Uint8Array[], maxDecodedBytes: bigint): Bytes {
  const decoder = instantiate(module);
  const size = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const model = allocate(decoder, size);
  let at = model;
  for (const piece of pieces) {
    new Uint8Array(decoder.memory.buffer).set(piece, at);
    at += piece.length;
  }
  const results = allocate(decoder, 2 * POINTER_BYTES + ERROR_BYTES);
  const sentence = results + 2 * POINTER_BYTES;
  const outSize = results + POINTER_BYTES;
  const code = decoder.dcc_unpack(model, size, maxDecodedBytes, 1, results, outSize, sentence, ERROR_BYTES);
  if (code !== 0) throw new DccError(REASONS[code] ?? "corrupt", text(decoder, sentence));
  const [start, length] = new Uint32Array(decoder.memory.buffer, results, 2) as unknown as [number, number];
  return new Uint8Array(decoder.memory.buffer, start, length).slice();
}

/** The few functions of a system that C's library asks for: there are no environment variables here, and no process. */
function instantiate(module: WebAssembly.Module): Exports {
  let decoder: Exports | undefined;
  const instance = new WebAssembly.Instance(module, {
    env: { emscripten_notify_memory_growth: () => {} },
    wasi_snapshot_preview1: {
      environ_sizes_get: (count: number, bytes: number) => {
        const view = new DataView(decoder!.memory.buffer);
        view.setUint32(count, 0, true);
        view.setUint32(bytes, 0, true);
        return 0;
      },
      environ_get: () => 0,
      proc_exit: (code: number) => {
        throw new Error(`the decoder ended with code ${code}`);
      },
    },
  });
  decoder = instance.exports as unknown as Exports;
  decoder._initialize();
  return decoder;
}

function allocate(decoder: Exports, size: number): number {
  const address = decoder.malloc(size) >>> 0;
  if (address === 0) throw new DccError("memory", "there is too little memory for the model");
  return address;
}

function text(decoder: Exports, address: number): string {
  const bytes = new Uint8Array(decoder.memory.buffer, address, ERROR_BYTES);
  return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
}
