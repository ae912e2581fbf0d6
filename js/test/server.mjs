// server.mjs: folders on localhost, whole or in ways that networks have.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { gzipSync } from "node:zlib";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};

/**
 * Serves folders: pairs of a folder and the path that it gets, the longer paths first.
 *
 * A query changes how: `?encoding` compresses, `?chunked` tells no length, `?slow` waits in the middle, `?cut` ends there.
 */
export async function serve(folders) {
  const server = createServer((request, response) => {
    answer(folders, new URL(request.url, "http://localhost"), response).catch(() => response.destroy());
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const stop = () => {
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://127.0.0.1:${server.address().port}`, stop };
}

async function answer(folders, { pathname, search }, response) {
  const name = decodeURIComponent(pathname.endsWith("/") ? `${pathname}index.html` : pathname);
  const body = await find(folders, name);
  if (body === undefined) {
    response.writeHead(404).end();
    return;
  }
  const headers = { "content-type": TYPES[path.extname(name)] ?? "application/octet-stream" };
  const half = body.subarray(0, body.length / 2);
  if (search === "?encoding") {
    response.writeHead(200, { ...headers, "content-encoding": "gzip" }).end(gzipSync(body));
  } else if (search === "?chunked") {
    response.writeHead(200, headers).write(half);
    response.end(body.subarray(half.length));
  } else if (search === "?slow" || search === "?cut") {
    response.writeHead(200, { ...headers, "content-length": body.length }).write(half);
    await wait(search === "?cut" ? 20 : 5000, undefined, { ref: false });
    response.destroy();
  } else {
    response.writeHead(200, { ...headers, "content-length": body.length }).end(body);
  }
}

async function find(folders, pathname) {
  for (const [folder, prefix] of folders) {
    const file = path.join(folder, path.normalize(pathname.slice(prefix.length - 1)));
    if (!pathname.startsWith(prefix) || !file.startsWith(path.resolve(folder))) continue;
    try {
      return await readFile(file);
    } catch {
      // the next folder may have it
    }
  }
  return undefined;
}
