// browser.mjs: a headless Chromium that asks nobody for anything.
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

import { chromium } from "playwright-core";

const ARGUMENTS = [
  "--no-sandbox",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const WITHOUT_GPU = ["--disable-gpu"];
const WITH_SOFTWARE_GPU = [
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--enable-features=Vulkan",
  "--use-vulkan=swiftshader",
  "--ignore-gpu-blocklist",
];

/**
 * A browser with a profile of its own, for `work(context)`, without a GPU or with one in software. CHROMIUM names another
 * one than Debian's.
 */
export async function withBrowser({ softwareGpu = false, ...options }, work) {
  const profile = mkdtempSync(path.join(tmpdir(), "dcc-browser-"));
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  const args = [...ARGUMENTS, ...(softwareGpu ? WITH_SOFTWARE_GPU : WITHOUT_GPU)];
  const context = await chromium.launchPersistentContext(profile, { executablePath, args, ...options });
  try {
    return await work(context);
  } finally {
    await context.close();
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}
