// types.ts: the package's types with those of both runtimes; `npm run check` compiles it and runs nothing.
import { DccError, type Progress, type Reason, createSession, loadModel, unpack } from "dcc-compiler";
import * as node from "onnxruntime-node";
import * as web from "onnxruntime-web";
import * as webgpu from "onnxruntime-web/webgpu";

export async function sessions(): Promise<web.InferenceSession[]> {
  const onNode: node.InferenceSession = await createSession(node, "model.dcc.onnx");
  const onWeb: web.InferenceSession = await createSession(web, new URL("https://example.org/model.dcc.onnx"), {
    onProgress: ({ loaded, total, stage }: Progress) => console.log(stage, total === undefined ? loaded : loaded / total),
    signal: AbortSignal.timeout(10_000),
    fetch: { credentials: "include" },
    session: { executionProviders: ["wasm"], graphOptimizationLevel: "all" },
  });
  const onGpu: web.InferenceSession = await createSession(webgpu, "model", {
    session: { executionProviders: ["webgpu"] },
  });
  // @ts-expect-error: no such option
  await createSession(web, "model", { maxBytes: 1 });
  // @ts-expect-error: no such option of sessions
  await createSession(web, "model", { session: { providers: ["wasm"] } });
  return [onNode, onWeb, onGpu];
}

export async function bytes(model: Uint8Array): Promise<ArrayBuffer> {
  try {
    const dense = await unpack(model, { maxDecodedBytes: 2n ** 31n });
    return dense.buffer;
  } catch (error) {
    if (!(error instanceof DccError)) throw error;
    const reason: Reason = error.reason;
    // @ts-expect-error: no such reason
    if (reason === "unknown") throw error;
    return (await loadModel("other.onnx")).buffer;
  }
}
