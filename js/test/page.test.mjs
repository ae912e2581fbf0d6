// page.test.mjs: samples/web in headless Chromium.
//
// SITE is the folder that samples/web/build.mjs made, DENSE what `dcc unpack` makes of its compiled model; SCREENSHOTS a
// folder for pictures of the page, if any.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import path from "node:path";
import test from "node:test";

import { withBrowser } from "./browser.mjs";
import { serve } from "./server.mjs";

const { SITE, DENSE, SCREENSHOTS } = process.env;

const VIEWS = [
  { colorScheme: "light", viewport: { width: 1280, height: 900 } },
  { colorScheme: "dark", viewport: { width: 1280, height: 900 } },
  { colorScheme: "light", viewport: { width: 360, height: 740 } },
  { colorScheme: "dark", viewport: { width: 360, height: 740 } },
];

// Strokes on a square of side 1
const DIGITS = {
  7: [[[0.25, 0.22], [0.72, 0.22], [0.45, 0.82]]],
  1: [[[0.5, 0.2], [0.5, 0.8]]],
  0: [Array.from({ length: 25 }, (_, i) => [0.5 + 0.2 * Math.sin(i / 3.9), 0.5 - 0.3 * Math.cos(i / 3.9)])],
};

/** Draws with the mouse; resolves to what the page found out when the last stroke ended. */
async function draw(page, strokes) {
  await page.click("#clear");
  const box = await page.locator("#board").boundingBox();
  const place = ([x, y]) => [box.x + x * box.width, box.y + y * box.height];
  const answer = page.evaluate(
    () =>
      new Promise((done) => {
        document.getElementById("board").addEventListener(
          "classified",
          ({ detail }) => done(Object.fromEntries(Object.entries(detail).map(([key, value]) => [key, Array.from(value)]))),
          { once: true },
        );
      }),
  );
  for (const [first, ...others] of strokes) {
    await page.mouse.move(...place(first));
    await page.mouse.down();
    for (const point of others) await page.mouse.move(...place(point), { steps: 4 });
    await page.mouse.up();
  }
  return answer;
}

const bestOf = (values) => values.indexOf(Math.max(...values));

/** Elements whose text does not fit them, or that stick out of the page or overlap a sibling. */
function badlyLaidOut() {
  const found = [];
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) found.push("the page scrolls sideways");
  for (const element of document.body.querySelectorAll("*")) {
    const { left, right } = element.getBoundingClientRect();
    const name = `${element.tagName.toLowerCase()}#${element.id}.${element.className}`;
    if (left < -0.5 || right > width + 0.5) found.push(`${name} sticks out`);
    const isText = element.childElementCount === 0 && element.textContent.trim() !== "";
    if (isText && element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0) found.push(`${name} is clipped`);
  }
  for (const group of document.querySelectorAll("main, .card, .row, .bar p, #classes li, .legend")) {
    const boxes = [...group.children].map((child) => [child, child.getBoundingClientRect()]);
    for (const [i, [one, a]] of boxes.entries()) {
      for (const [other, b] of boxes.slice(i + 1)) {
        const apart = a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
        if (!apart && a.width && b.width) found.push(`${one.outerHTML.slice(0, 60)} overlaps ${other.outerHTML.slice(0, 60)}`);
      }
    }
  }
  return found;
}

test("the page classifies what is drawn, as the original does", async () => {
  const { url, stop } = await serve([[SITE, "/"]]);
  try {
    await withBrowser({ viewport: { width: 1280, height: 900 } }, async (context) => {
      const page = await context.newPage();
      const problems = [];
      page.on("pageerror", (error) => problems.push(String(error)));
      page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
      page.on("requestfailed", (request) => problems.push(`${request.url()} failed`));
      page.on("request", (request) => /^(http:\/\/127\.0\.0\.1|data:|blob:)/.test(request.url()) || problems.push(request.url()));
      await page.goto(url);
      await page.waitForSelector("html[data-state]");
      assert.deepEqual(problems, []);
      assert.equal(await page.textContent("#hint"), "Ready.");

      for (const [digit, strokes] of Object.entries(DIGITS)) {
        const { image, compiled, original } = await draw(page, strokes);
        assert.equal(bestOf(compiled), Number(digit), `drawn ${digit}`);
        assert.equal(bestOf(original), Number(digit));
        assert.equal(await page.textContent("#digit"), digit);
        assert.ok(Math.max(...image) > 2.5, "white strokes reach full white");
        const [best, second] = [...compiled].sort((a, b) => b - a);
        assert.ok(best - second > 1, `the compiled one is not sure: logits ${best} and ${second}`);
      }
      await page.click("#clear");
      assert.equal(await page.textContent("#digit"), "–");

      // To the bit what the native library expands, and onnxruntime-web runs
      const hash = await page.evaluate(async () => {
        const { loadModel } = await import("dcc-compiler");
        const digest = await crypto.subtle.digest("SHA-256", await loadModel("models/lenet5.dcc.onnx"));
        return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
      });
      assert.equal(hash, createHash("sha256").update(readFileSync(DENSE)).digest("hex"));
    });
  } finally {
    stop();
  }
});

test("bars show bytes, and seconds at the chosen bandwidth", async () => {
  const { url, stop } = await serve([[SITE, "/"]]);
  try {
    await withBrowser({}, async (context) => {
      const page = await context.newPage();
      await page.goto(url);
      await page.waitForSelector("html[data-state=ready]");
      const rows = async () => Promise.all((await page.locator("#bars .bar p").all()).map((row) => row.innerText()));
      const secondsOf = (row) => Number(/([\d.]+) s$/.exec(row)[1]);
      const kilobytes = (name) => Math.round(statSync(path.join(SITE, "models", name)).size / 1000).toLocaleString("en");
      assert.ok(statSync(path.join(SITE, "models", "lenet5.dcc.onnx")).size < 8000);
      const times = {};
      for (const bandwidth of ["1", "5", "100"]) {
        await page.selectOption("#bandwidth", bandwidth);
        const [original, compiled] = await rows();
        assert.ok(original.includes(`${kilobytes("lenet5.onnx")} kB`), original);
        assert.ok(compiled.includes(`${kilobytes("lenet5.dcc.onnx")} kB`), compiled);
        times[bandwidth] = { original: secondsOf(original), compiled: secondsOf(compiled) };
      }
      const download = (8 * statSync(path.join(SITE, "models", "lenet5.onnx")).size) / 1e6;
      const between = times[1].original - times[100].original;
      assert.ok(Math.abs(between - 0.99 * download) < 0.02, `${between} s of ${download}`);
      assert.ok(times[1].compiled < times[1].original / 3);
    });
  } finally {
    stop();
  }
});

test("nothing is clipped or overlaps, in light and dark, wide and narrow", async () => {
  const { url, stop } = await serve([[SITE, "/"]]);
  try {
    for (const view of VIEWS) {
      await withBrowser(view, async (context) => {
        const page = await context.newPage();
        await page.goto(url);
        await page.waitForSelector("html[data-state=ready]");
        await draw(page, DIGITS[7]);
        assert.deepEqual(await page.evaluate(badlyLaidOut), [], JSON.stringify(view));
        const name = `${view.colorScheme}-${view.viewport.width}.png`;
        if (SCREENSHOTS) await page.screenshot({ path: path.join(SCREENSHOTS, name), fullPage: true });
      });
    }
  } finally {
    stop();
  }
});

test("a page whose decoder is missing says so", async () => {
  const { url, stop } = await serve([[SITE, "/"]]);
  try {
    await withBrowser({}, async (context) => {
      const page = await context.newPage();
      await page.route("**/dcc.wasm", (route) => route.fulfill({ status: 404 }));
      await page.goto(url);
      await page.waitForSelector("html[data-state=failed]");
      assert.equal(await page.textContent("#hint"), "the decoder dcc.wasm cannot be loaded: the server answered 404");
    });
  } finally {
    stop();
  }
});
