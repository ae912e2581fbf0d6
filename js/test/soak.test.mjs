// soak.test.mjs: sessions of onnxruntime-node that come and go leave no memory behind. MODELS as in unpack.test.mjs.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import path from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";

const SOAK = fileURLToPath(new URL("../../samples/node/soak.mjs", import.meta.url));
const MODEL = path.join(process.env.MODELS ?? "models", "good", "torch_cnn_dynamo.session.onnx");

const soak = (...words) => spawnSync(process.execPath, [SOAK, ...words], { encoding: "utf8" });

test("sessions come and go", () => {
  const { status, stdout, stderr } = soak(MODEL, "200");
  assert.equal(status, 0, stdout + stderr);
  assert.equal(stdout.match(/ sessions: /g).length, 10);
});

test("growth fails", () => {
  const { status, stdout } = soak(MODEL, "10", "-1000");
  assert.equal(status, 1, stdout);
});
