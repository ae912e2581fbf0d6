// digits.mjs: strokes on a canvas to what the network was trained on.

export const SIDE = 28;
const BOX = 20; // MNIST's digits fit a box of this size and are put by their centre of mass
const MEAN = 0.13066047;
const DEVIATION = 0.3081078;

/**
 * An image of shape [1, 1, 28, 28] from what was drawn, or undefined for an empty canvas. Only how opaque pixels are
 * counts, so any colour will do.
 */
export function imageOf(canvas) {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const opacity = (x, y) => data[4 * (y * width + x) + 3];
  const box = boundsOf(width, height, opacity);
  if (box === undefined) return undefined;
  const scale = BOX / Math.max(box.right - box.left, box.bottom - box.top);
  const small = draw(canvas, scale, SIDE / 2 - (scale * (box.left + box.right)) / 2, SIDE / 2 - (scale * (box.top + box.bottom)) / 2);
  const centre = centreOf(small);
  const shifted = draw(small.canvas, 1, Math.round(SIDE / 2 - centre.x), Math.round(SIDE / 2 - centre.y));
  return Float32Array.from(shifted.opacities, (value) => (value / 255 - MEAN) / DEVIATION);
}

function boundsOf(width, height, opacity) {
  const box = { left: width, right: -1, top: height, bottom: -1 };
  for (let y = 0; y < height; ++y) {
    for (let x = 0; x < width; ++x) {
      if (opacity(x, y) < 128) continue;
      box.left = Math.min(box.left, x);
      box.right = Math.max(box.right, x + 1);
      box.top = Math.min(box.top, y);
      box.bottom = Math.max(box.bottom, y + 1);
    }
  }
  return box.right < 0 ? undefined : box;
}

/** The source, scaled and moved, on 28 by 28 pixels: that canvas and the opacity of each. */
function draw(source, scale, left, top) {
  const canvas = new OffscreenCanvas(SIDE, SIDE);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(source, left, top, scale * source.width, scale * source.height);
  const { data } = context.getImageData(0, 0, SIDE, SIDE);
  return { canvas, opacities: Array.from({ length: SIDE * SIDE }, (_, i) => data[4 * i + 3]) };
}

function centreOf({ opacities }) {
  let sum = 0;
  let x = 0;
  let y = 0;
  opacities.forEach((value, i) => {
    sum += value;
    x += value * (i % SIDE + 0.5);
    y += value * (Math.floor(i / SIDE) + 0.5);
  });
  return { x: x / sum, y: y / sum };
}
