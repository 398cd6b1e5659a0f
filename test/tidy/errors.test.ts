import { expect, test } from "vitest";
import { failures } from "../../src/base/errors.ts";
import { codeOf, listed, read, sources } from "./source.ts";

const codes = Object.keys(failures);
const product = sources().filter((name) => !name.endsWith(".test.ts") && name !== "src/base/errors.ts");
const tests = listed().filter(
  (name) =>
    /^(src|test)\/.*\.ts$/.test(name) &&
    (name.endsWith(".test.ts") || /^test\/(demo|scenario)\//.test(name)) &&
    name !== "test/tidy/errors.test.ts",
);

test("every code is produced somewhere", () => {
  const text = product.map((name) => codeOf(read(name))).join("\n");
  expect(codes.filter((code) => !text.includes(`"${code}"`))).toEqual([]);
});

test("every code is tested somewhere", () => {
  const text = tests.map(read).join("\n");
  expect(codes.filter((code) => !new RegExp(`\\b${code}\\b`).test(text))).toEqual([]);
});

test("every code is documented, and no other", () => {
  const rows = [...read("docs/ERRORS.md").matchAll(/^\| `([A-Z_]+)` \|/gm)].map((match) => match[1] ?? "");
  expect(rows.toSorted()).toEqual(codes.toSorted());
});

test("messages of refusals say Cannot, and end without a full stop", () => {
  const wrong: string[] = [];
  for (const name of product) {
    const text = codeOf(read(name));
    for (const match of text.matchAll(
      /\b(?:refuse|HauberkError)\(\s*["']([A-Z_]+)["'],\s*([`"'])((?:(?!\2)[^\\]|\\.)*)\2/g,
    )) {
      const message = match[3] ?? "";
      if (!message.startsWith("Cannot ") || message.endsWith(".")) wrong.push(`${name}: ${match[1]}: ${message}`);
    }
  }
  expect(wrong).toEqual([]);
});
