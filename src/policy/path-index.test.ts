import * as fc from "fast-check";
import { expect, test } from "vitest";
import { PathIndex } from "./path-index.ts";

function met(prefixes: readonly string[], path: string): string[] {
  const index = new PathIndex<string>();
  for (const prefix of prefixes) index.add(prefix, prefix);
  const found: string[] = [];
  index.walk(path, (value, into: string[]) => void into.push(value), found);
  return found;
}

test("a walk meets every prefix of the path, the shortest first", () => {
  expect(met(["/abc", "/a", "", "/ab", "/b", "/abd", "/abcd/", "/a"], "/abcd")).toEqual([
    "",
    "/a",
    "/a",
    "/ab",
    "/abc",
  ]);
});

test("whatever is hung up in whatever order, a walk meets exactly what the path starts with", () => {
  const text = fc.string({ unit: fc.constantFrom("/", "a", "b"), maxLength: 6 });
  fc.assert(
    fc.property(fc.array(text, { maxLength: 12 }), text, (prefixes, path) => {
      expect(met(prefixes, path).sort()).toEqual(prefixes.filter((prefix) => path.startsWith(prefix)).sort());
    }),
    { numRuns: 2_000 },
  );
});
