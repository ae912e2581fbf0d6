// models.ts: compiled models to dense ones and to sessions, whatever the host.

import { type Bytes, decode } from "./decoder.js";
import { download, type Progress } from "./download.js";
import { DccError } from "./errors.js";

/** What browsers and Node do differently. */
export interface Host {
  /** Compiles dcc.wasm. */
  compileDecoder(): Promise<WebAssembly.Module>;
  open(source: string | URL, init: RequestInit): Promise<Response>;
}

export interface UnpackOptions {
  /**
   * What the file may expand to, in bytes. By default 64 MiB and 1,024 bytes for each byte of packed weights; more for a
   * file that you trust.
   */
  maxDecodedBytes?: number | bigint;
}

export interface LoadOptions extends UnpackOptions {
  onProgress?: (progress: Progress) => void;
  /** Stops the download; its reason is thrown. */
  signal?: AbortSignal;
  /** Further options of `fetch`: headers, credentials, integrity, cache. */
  fetch?: Omit<RequestInit, "signal">;
}

/** onnxruntime-web or onnxruntime-node, whatever version. */
export interface Runtime<Session, SessionOptions> {
  InferenceSession: { create(model: Uint8Array, options?: SessionOptions): Promise<Session> };
}

export interface SessionOptionsOf<SessionOptions> extends LoadOptions {
  /** Options of the session, as `InferenceSession.create` takes them. */
  session?: SessionOptions;
}

export interface Models {
  /**
   * The bytes of the standard ONNX model that a compiled model stands for.
   *
   * @throws DccError
   */
  unpack(model: Uint8Array, options?: UnpackOptions): Promise<Bytes>;

  /**
   * Reads a compiled model and expands it. In Node `source` may also be a path or a `file:` URL.
   *
   * @throws DccError, or the reason of `signal`
   */
  loadModel(source: string | URL, options?: LoadOptions): Promise<Bytes>;

  /**
   * A session of onnxruntime for a compiled model.
   *
   * @param ort the module `onnxruntime-web`, `onnxruntime-web/webgpu` or `onnxruntime-node`
   * @throws DccError, the reason of `signal`, or what onnxruntime throws
   */
  createSession<Session, SessionOptions>(
    ort: Runtime<Session, SessionOptions>,
    source: string | URL,
    options?: SessionOptionsOf<SessionOptions>,
  ): Promise<Session>;
}

export function modelsOn(host: Host): Models {
  let decoder: Promise<WebAssembly.Module> | undefined;

  /** Compiled once; anew when that failed, as a network may come back. */
  function compiledDecoder(): Promise<WebAssembly.Module> {
    decoder ??= host.compileDecoder().catch((error: unknown) => {
      decoder = undefined;
      throw new DccError("fetch", `the decoder dcc.wasm cannot be loaded: ${sentenceOf(error)}`, { cause: error });
    });
    return decoder;
  }

  async function unpack(model: Uint8Array, options: UnpackOptions = {}): Promise<Bytes> {
    const limit = limitOf(options);
    return decode(await compiledDecoder(), [model], limit);
  }

  async function loadModel(source: string | URL, options: LoadOptions = {}): Promise<Bytes> {
    const { onProgress = () => {}, signal } = options;
    const limit = limitOf(options);
    const compiling = compiledDecoder(); // while the model comes
    compiling.catch(() => {}); // waited for below, unless the download fails first
    const pieces = await read(host, source, options, onProgress);
    const module = await compiling;
    signal?.throwIfAborted();
    return named(String(source), () => decode(module, pieces, limit));
  }

  async function createSession<Session, SessionOptions>(
    ort: Runtime<Session, SessionOptions>,
    source: string | URL,
    options: SessionOptionsOf<SessionOptions> = {},
  ): Promise<Session> {
    return ort.InferenceSession.create(await loadModel(source, options), options.session);
  }

  return { unpack, loadModel, createSession };
}

async function read(
  host: Host,
  source: string | URL,
  { signal, fetch: init }: LoadOptions,
  onProgress: (progress: Progress) => void,
): Promise<Uint8Array[]> {
  signal?.throwIfAborted();
  try {
    const response = await host.open(source, signal ? { ...init, signal } : { ...init });
    return await download(response, String(source), onProgress);
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof DccError) throw error;
    throw new DccError("fetch", `${source} cannot be read: ${sentenceOf(error)}`, { cause: error });
  }
}

function sentenceOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Errors name the file, and the option that allows more. */
function named<T>(name: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof DccError)) throw error;
    const option = error.reason === "over-limit" ? " (maxDecodedBytes)" : "";
    throw new DccError(error.reason, `${name}: ${error.message}${option}`, { cause: error.cause });
  }
}

function limitOf(options: UnpackOptions): bigint {
  const { maxDecodedBytes } = options;
  if (maxDecodedBytes === undefined) return 0n;
  const isWhole = typeof maxDecodedBytes === "bigint" || Number.isSafeInteger(maxDecodedBytes);
  if (!isWhole || maxDecodedBytes <= 0) {
    throw new TypeError(`maxDecodedBytes is ${maxDecodedBytes}, but must be a whole number above 0`);
  }
  return BigInt.asUintN(64, BigInt(maxDecodedBytes));
}
