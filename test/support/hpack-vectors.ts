import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";

/** The public HPACK vectors (http2jp/hpack-test-case), which lie beside the repository. */
const folder = fileURLToPath(new URL("../../../shared/vectors/hpack/", import.meta.url));

/** Why they cannot be read, as the end of a test's name; "" where they can. */
export const vectorsMissing: string = existsSync(folder) ? "" : ` (skipped: ${folder} is absent)`;

/** What one connection carried, in order; the encoder's table goes from case to case. */
export interface Story {
  readonly story: string;
  readonly cases: readonly HpackCase[];
}

export interface HpackCase {
  /** Hexadecimal; absent in `raw-data`. */
  readonly wire?: string;
  readonly headers: readonly Readonly<Record<string, string>>[];
  readonly header_table_size?: number;
}

export const encoders = [
  "nghttp2",
  "nghttp2-change-table-size",
  "haskell-http2-linear-huffman",
  "go-hpack",
  "swift-nio-hpack-huffman",
] as const;

export function storiesOf(set: (typeof encoders)[number] | "raw-data"): Story[] {
  return JSON.parse(gunzipSync(readFileSync(`${folder}${set}.json.gz`)).toString()) as Story[];
}

/** Names and values alternating. */
export function fieldsOf({ headers }: HpackCase): string[] {
  return headers.flatMap((header) => Object.entries(header).flat());
}
