import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import type { Input } from "./command.ts";
import { settingSources } from "./start-sidecar.ts";

const home = mkdtempSync(join(tmpdir(), "hauberk-options-"));
afterAll(() => rmSync(home, { recursive: true }));

function optionsOf(text: string): Promise<unknown> {
  writeFileSync(join(home, "hauberk.yaml"), text);
  const input: Input = {
    words: [],
    program: [],
    environment: {},
    terminal: { json: false, out: () => undefined, err: () => undefined },
    cwd: home,
    flag: () => undefined,
    flags: () => [],
    on: () => false,
  };
  return settingSources(input).then(({ file }) => file);
}

test.each([
  ["a plain key", "trustDomain: a.example\noptions:\n  askMs: 700\n"],
  ["a quoted key", 'trustDomain: a.example\n"options":\n  askMs: 700\n'],
  ["a key in single quotes", "trustDomain: a.example\n'options' : { 'askMs': 700 }\n"],
  ["flow style", "{ trustDomain: a.example, options: { askMs: 700 } }\n"],
  ["an explicit key", "trustDomain: a.example\n? options\n: askMs: 700\n"],
  ["an indented file", "  trustDomain: a.example\n  options: { askMs: 700 }\n"],
  ["a key with an escape", 'trustDomain: a.example\n"opt\\x69ons": { askMs: 700 }\n'],
])("a sidecar heeds the options of hauberk.yaml, with %s", async (_, text) => {
  expect(await optionsOf(text)).toEqual({ askMs: 700 });
});

test("options that stand in a comment are none", async () => {
  expect(await optionsOf("trustDomain: a.example\n# options: { askMs: 700 }\n")).toEqual({});
  expect(await optionsOf("trustDomain: a.example # options: { askMs: 700 }\n")).toEqual({});
});

test("an option that nobody knows keeps a sidecar from starting, wherever it stands", async () => {
  await expect(optionsOf("{ trustDomain: a.example, options: { askMS: 700 } }\n")).rejects.toThrow(
    'there is no option "askMS"',
  );
});
