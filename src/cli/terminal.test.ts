import { stripVTControlCharacters } from "node:util";
import { assert, constantFrom, integer, property } from "fast-check";
import { expect, test } from "vitest";
import { duration, readDuration, show, showRefusal, table, type Terminal } from "./terminal.ts";

function recording(json: boolean): Terminal & { readonly said: { out: string[]; err: string[] } } {
  const said = { out: [] as string[], err: [] as string[] };
  return { json, said, out: (text) => void said.out.push(text), err: (text) => void said.err.push(text) };
}

test("a table takes as many rows as there are", () => {
  const rows = Array.from({ length: 200_000 }, (_, index) => [String(index), "x"]);
  expect(table(["ID", "X"], rows, "none").split("\n").at(-1)).toBe("199999  x");
});

test.each([
  [0, "0s"],
  [999, "0s"],
  [9_000, "9s"],
  [12 * 60_000, "12m"],
  [3_600_000 + 61_000, "1h 1m"],
  [3 * 86_400_000 + 4 * 3_600_000 + 59_000, "3d 4h"],
  [-90_000, "-1m 30s"],
])("%d ms reads %s", (ms, text) => {
  expect(duration(ms)).toBe(text);
});

test.each([
  ["250ms", 250],
  ["30s", 30_000],
  ["10m", 600_000],
  ["24h", 86_400_000],
  ["7d", 604_800_000],
])("%s is %d ms", (text, ms) => {
  expect(readDuration(text)).toBe(ms);
});

test.each(["", "10", "m", "-1s", "1.5h", "1 h", "1h30m", "10M", "1234567s", "1s\n"])("%j is no duration", (text) => {
  expect(readDuration(text)).toBeUndefined();
});

test("a duration of one unit reads back as itself", () => {
  assert(
    property(integer({ min: 1, max: 59 }), constantFrom("s", "m"), (count, unit) => {
      expect(duration(readDuration(`${count}${unit}`) ?? 0)).toBe(`${count}${unit}`);
    }),
  );
});

test("a table's columns are as wide as their widest cell, without blanks at the end", () => {
  expect(
    table(
      ["ID", "STATE"],
      [
        ["long-id", "x"],
        ["a", ""],
      ],
      "No rows",
    ),
  ).toBe("ID       STATE\nlong-id  x\na");
});

test("an empty table says which one it is", () => {
  expect(table(["ID"], [], "No tokens")).toBe("No tokens");
});

test("a result is JSON exactly where that was asked for", () => {
  const json = recording(true);
  const plain = recording(false);
  for (const terminal of [json, plain]) show(terminal, { a: 1 }, () => "one");
  expect(JSON.parse(json.said.out.join(""))).toEqual({ a: 1 });
  expect(plain.said.out).toEqual(["one"]);
});

test("a refusal goes to standard error: the sentence with its code, then the hint", () => {
  const terminal = recording(false);
  showRefusal(terminal, { code: "USAGE", message: "Cannot go: it is late", hint: "Wait" });
  expect(terminal.said.out).toEqual([]);
  expect(terminal.said.err.map(stripVTControlCharacters)).toEqual([
    "error: Cannot go: it is late (USAGE)",
    "hint: Wait",
  ]);
});

test("the code stands behind the sentence where a list follows, not behind the list", () => {
  const terminal = recording(false);
  showRefusal(terminal, { code: "POLICY_INVALID", message: "Cannot go: 2 problems\n  one\n  two\n", hint: "Mend" });
  expect(terminal.said.err.map(stripVTControlCharacters)).toEqual([
    "error: Cannot go: 2 problems (POLICY_INVALID)\n  one\n  two",
    "hint: Mend",
  ]);
});

test("a refusal with --json is one line of JSON on standard error", () => {
  const terminal = recording(true);
  showRefusal(terminal, { code: "USAGE", message: "Cannot go: it is late", hint: "Wait" });
  expect(terminal.said.err).toEqual(['{"code":"USAGE","message":"Cannot go: it is late","hint":"Wait"}']);
});
