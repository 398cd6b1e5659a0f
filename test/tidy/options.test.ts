import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { optionReference, optionTables } from "../../tools/reference.ts";
import { read, root } from "./source.ts";

const tables = await optionTables();

test("every number option has a range that holds its default, and a reason", () => {
  const wrong: string[] = [];
  for (const [table, options] of Object.entries(tables)) {
    for (const [name, option] of Object.entries(options)) {
      if (option.why.length < 12) wrong.push(`${table}.${name}: no reason`);
      if (option.kind === "text" || option.kind === "switch") continue;
      if (!(option.min <= option.default && option.default <= option.max))
        wrong.push(`${table}.${name}: default outside of its range`);
      if (!/(Ms|Bytes|Max|Min|Ratio|Days|Hours|PerSecond|Count|Port|Bits)$/.test(name))
        wrong.push(`${table}.${name}: no unit at its end`);
    }
  }
  expect(wrong).toEqual([]);
});

test("no two options listen to the same environment variable", () => {
  const names = Object.values(tables).flatMap((table) => Object.values(table).map((option) => option.env));
  expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
});

test("every option table of src is in the reference", () => {
  const files = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" }).filter(
    (name) => name.endsWith("options.ts") && name !== "base/options.ts",
  );
  expect(files.length).toBeGreaterThan(0);
  const text = files.flatMap((name) =>
    [...read(`src/${name}`).matchAll(/export const (\w+Options)\b/g)].map((match) => match[1] as string),
  );
  expect(text.filter((name) => tables[name] === undefined)).toEqual([]);
});

test("docs/OPTIONS.md is what the tables say; write it anew with: npm run reference", async () => {
  expect(read("docs/OPTIONS.md")).toBe(await optionReference());
});
