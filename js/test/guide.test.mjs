// guide.test.mjs: the blocks of docs/guide/browser.md as they are printed. GUIDE is that page, SITE as in page.test.mjs.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import test from "node:test";

import { withBrowser } from "./browser.mjs";
import { serve } from "./server.mjs";

const { GUIDE, SITE } = process.env;
const [inBrowser, inNode] = Array.from(readFileSync(GUIDE, "utf8").matchAll(/^```js\n(.*?)^```$/gms), (match) => match[1]);
const MODELS = path.join(SITE, "models");

test("the block for browsers", async () => {
  const { url, stop } = await serve([[MODELS, "/models/"], [SITE, "/"]]);
  try {
    await withBrowser({}, async (context) => {
      const page = await context.newPage();
      const logged = [];
      page.on("console", (message) => logged.push(message.text()));
      const head = /<script type="importmap">.*?<\/script>/s.exec(readFileSync(path.join(SITE, "index.html"), "utf8"))[0];
      const body = `<!doctype html>${head.replaceAll("./", "/")}<script type="module">
        ${inBrowser.replace('"lenet5', '"/models/lenet5')}
        document.title = logits.dims.join();
      </script>`;
      await page.route(`${url}/`, (route) => route.fulfill({ contentType: "text/html", body }));
      await page.goto(url);
      await page.waitForFunction(() => document.title !== "");
      assert.equal(await page.title(), "1,10");
      const size = readFileSync(path.join(MODELS, "lenet5.dcc.onnx")).length;
      assert.deepEqual([logged[0], logged.at(-1)], [`0 of ${size} bytes`, `${size} of ${size} bytes`]);
    });
  } finally {
    stop();
  }
});

test("the block for Node", () => {
  const code = `${inNode.replace('"lenet5', `"${MODELS}/lenet5`)}\nconsole.log(logits.dims.join());`;
  const here = path.dirname(new URL(import.meta.url).pathname);
  const printed = execFileSync(process.execPath, ["--input-type=module", "-e", code], { cwd: here, encoding: "utf8" });
  assert.equal(printed.trim(), "1,10");
});
