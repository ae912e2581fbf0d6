// webgpu.test.mjs: a compiled model on onnxruntime-web's WebGPU provider, on an adapter in software. SITE as in page.test.mjs.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import test from "node:test";

import { withBrowser } from "./browser.mjs";
import { serve } from "./server.mjs";

const RUNTIME = path.dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));

/** Runs in the page: the logits of the compiled model by each provider, or undefined where there is no adapter. */
async function logitsByProvider() {
  if (!(await navigator.gpu?.requestAdapter())) return undefined;
  const ort = await import("/runtime/ort.webgpu.min.mjs");
  ort.env.wasm.wasmPaths = "/runtime/";
  ort.env.wasm.numThreads = 1;
  const { createSession } = await import("dcc-compiler");
  const image = Float32Array.from({ length: 784 }, (_, i) => (i % 13) / 13);
  const logits = {};
  for (const provider of ["webgpu", "wasm"]) {
    const session = await createSession(ort, "/models/lenet5.dcc.onnx", { session: { executionProviders: [provider] } });
    const results = await session.run({ x: new ort.Tensor("float32", image, [1, 1, 28, 28]) });
    logits[provider] = Array.from(results.logits.data);
  }
  return logits;
}

test("WebGPU gives what WebAssembly gives", async (context) => {
  const { url, stop } = await serve([[RUNTIME, "/runtime/"], [process.env.SITE, "/"]]);
  try {
    await withBrowser({ softwareGpu: true }, async (browser) => {
      const page = await browser.newPage();
      const body = '<!doctype html><script type="importmap">{ "imports": { "dcc-compiler": "/dcc/web.js" } }</script>';
      await page.route(`${url}/`, (route) => route.fulfill({ contentType: "text/html", body }));
      await page.goto(url);
      const logits = await page.evaluate(logitsByProvider);
      if (logits === undefined) {
        context.skip("this Chromium has no WebGPU adapter in software");
        return;
      }
      assert.ok(Math.max(...logits.wasm.map(Math.abs)) > 1);
      const error = Math.max(...logits.webgpu.map((value, i) => Math.abs(value - logits.wasm[i])));
      assert.ok(error < 1e-4, `logits differ by ${error}`);
    });
  } finally {
    stop();
  }
});
