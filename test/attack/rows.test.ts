import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

/**
 * The rows of the attack table (reference/attacks.md) that concern the wire, and its tables 5.2 and 5.3: each has a test that
 * names it, as "(row 27)", "(rows 19 and 20)" or "(table 5.2)" at the end of its name.
 */
const rows: Readonly<Record<string, string>> = {
  "row 19": "internal headers from outside",
  "row 20": "forged identity headers",
  "row 21": "X-Forwarded-For is trusted",
  "row 22": "underscore against dash",
  "row 23": "NUL, CR and LF in values, also from HTTP/2 to HTTP/1",
  "row 24": "upgrade smuggling",
  "row 25": "Transfer-Encoding against Content-Length",
  "row 26": "Content-Length against DATA",
  "row 27": "rapid reset, MadeYouReset",
  "row 28": "CONTINUATION flood",
  "row 29": "HPACK and cookie amplification",
  "row 30": "frames that carry nothing",
  "row 31": "hostile upstreams: GOAWAY with no streams, nonsense, floods",
  "row 32": "slowloris",
  "row 33": "unbounded buffers",
  "row 34": "timers racing retries",
  "row 40": "decompression bombs",
  "row 45": "a process ended by one request",
  "table 5.2": "paths",
  "table 5.3": "what Node's parser lets through",
};

const folder = fileURLToPath(new URL(".", import.meta.url));

/** Row to the names of its tests, as they stand in the sources of this folder. */
function covered(): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const file of readdirSync(folder).filter((name) => name.endsWith(".test.ts") && name !== "rows.test.ts")) {
    const text = readFileSync(join(folder, file), "utf8");
    for (const [, name = "", which = ""] of text.matchAll(/["`]([^"`\n]*)\(((?:rows?|table) [^)]*)\)["`]/g)) {
      for (const row of rowsIn(which)) found.set(row, [...(found.get(row) ?? []), `${file}: ${name.trim()}`]);
    }
  }
  return found;
}

/** "rows 23, 25 and 26" are three. */
function rowsIn(text: string): string[] {
  if (text.startsWith("table")) return [text];
  return [...text.matchAll(/\d+/g)].map(([row]) => `row ${row}`);
}

test("each row of the attack table that concerns the wire has a test that names it", () => {
  const found = covered();
  const missing = Object.entries(rows).filter(([row]) => !found.has(row));
  expect(missing.map(([row, what]) => `${row}: ${what}`)).toEqual([]);
});

test("a test names no row that is not in the list", () => {
  expect([...covered().keys()].filter((row) => !(row in rows))).toEqual([]);
});
