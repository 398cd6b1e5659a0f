import { readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { runCases } from "./cases.ts";
import { readCases } from "./read-cases.ts";
import { readPolicySet } from "./read-yaml.ts";

const folder = new URL("../../policies/", import.meta.url);
const context = { trustDomain: "mesh.local" };

function yamlIn(path: string): { path: string; text: string }[] {
  return readdirSync(new URL(path, folder))
    .filter((name) => name.endsWith(".yaml"))
    .map((name) => ({ path: `policies/${path}${name}`, text: readFileSync(new URL(path + name, folder), "utf8") }));
}

const set = readPolicySet(yamlIn(""), {
  ...context,
  readFile: (path) => readFileSync(new URL(`../${path}`, folder), "utf8"),
});
const cases = readCases(yamlIn("cases/"));

test("the repository's own policies are read without a problem or a warning", () => {
  expect(set).toMatchObject({ is: "read", warnings: [] });
  expect(cases).toMatchObject({ is: "read" });
});

for (const result of set.is === "read" && cases.is === "read" ? runCases(set.resources, cases.cases, context) : []) {
  test(`the repository's policies: ${result.case.name}`, () => {
    expect({ passed: result.passed, lines: result.lines }).toEqual({ passed: true, lines: result.lines });
  });
}

test("the committed key is public", () => {
  expect(readFileSync(new URL("corp.jwks.json", folder), "utf8")).not.toContain('"d"');
});
