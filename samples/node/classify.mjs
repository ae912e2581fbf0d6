// classify.mjs: a compiled network in onnxruntime-node reads a digit, drawn below.
//
//     dcc compile samples/lenet5.onnx -o lenet5.dcc.onnx
//     node samples/node/classify.mjs lenet5.dcc.onnx
import { createSession } from "dcc-compiler";
import * as ort from "onnxruntime-node";

const SEVEN = `
  ............
  .##########.
  .##########.
  ........###.
  .......###..
  .......###..
  ......###...
  ......###...
  .....###....
  .....###....
  .....###....
  ............`;

const SIDE = 28;
const SCALE = 2; // pixels of the image for each character
const [MEAN, DEVIATION] = [0.13066047, 0.3081078]; // that the network was trained with

const rows = SEVEN.trim().split(/\s+/);
const edge = (SIDE - SCALE * rows.length) / 2;
const image = Float32Array.from({ length: SIDE * SIDE }, (_, i) => {
  const [row, column] = [Math.floor(i / SIDE), i % SIDE].map((at) => Math.floor((at - edge) / SCALE));
  return ((rows[row]?.[column] === "#" ? 1 : 0) - MEAN) / DEVIATION;
});

const session = await createSession(ort, process.argv[2] ?? "lenet5.dcc.onnx");
const { logits } = await session.run({ x: new ort.Tensor("float32", image, [1, 1, SIDE, SIDE]) });
console.log(`it is a ${logits.data.indexOf(Math.max(...logits.data))}`);
