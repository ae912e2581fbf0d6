// download.ts: the bytes of a response as they come, counted.

import { DccError } from "./errors.js";

export interface Progress {
  /** Bytes of the compiled model that have come. */
  loaded: number;
  /** Its size; undefined when the server does not say. */
  total: number | undefined;
  /** `unpack` is said once, when all bytes are there and expanding them begins. */
  stage: "download" | "unpack";
}

/** The pieces of a response's body, in order. An abort of its signal is thrown as it is. */
export async function download(
  response: Response,
  name: string,
  onProgress: (progress: Progress) => void,
): Promise<Uint8Array[]> {
  if (!response.ok) throw new DccError("fetch", `${name}: the server answered ${statusOf(response)}`);
  const total = sizeOf(response);
  const pieces: Uint8Array[] = [];
  let loaded = 0;
  onProgress({ loaded, total, stage: "download" });
  const reader = response.body?.getReader();
  while (reader) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    loaded += value.length;
    onProgress({ loaded, total, stage: "download" });
  }
  onProgress({ loaded, total: loaded, stage: "unpack" });
  return pieces;
}

function statusOf(response: Response): string {
  return `${response.status} ${response.statusText}`.trim();
}

/** What a compressed response says is another number than that of the bytes that come out. */
function sizeOf(response: Response): number | undefined {
  const length = response.headers.get("content-length");
  return length === null || response.headers.has("content-encoding") ? undefined : Number(length);
}
