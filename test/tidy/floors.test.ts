import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { floors, picture, pureFloorMax, pureModules, wrongImport } from "./floors.ts";
import { codeOf, folderOf, importsOf, read, root, sources } from "./source.ts";

/** Whose files a sidecar may load. */
const sidecarRooms = new Set(
  "base x509 http routing balancing resilience policy contract telemetry transport identity proxy sidecar".split(" "),
);

const product = sources().filter((name) => !name.endsWith(".test.ts"));

test("every folder of src stands in the table of floors", () => {
  const folders = readdirSync(join(root, "src"), { withFileTypes: true }).map((entry) => entry.name);
  expect(folders.filter((name) => floors[name] === undefined)).toEqual([]);
});

test("a folder imports only from floors strictly below its own", () => {
  const wrong: string[] = [];
  for (const name of product) {
    for (const { file, line } of importsOf(name)) {
      if (file === undefined) continue;
      const problem = file.startsWith("src/")
        ? wrongImport(folderOf(name), folderOf(file))
        : `${file} is outside of src`;
      if (problem !== undefined) wrong.push(`${name}:${line}: ${problem}`);
    }
  }
  expect(wrong).toEqual([]);
});

test("the table refuses an upward import, a sideways one and one across the sides", () => {
  expect(wrongImport("x509", "storage")).toContain("pass it in from above");
  expect(wrongImport("policy", "contract")).toContain("pass it in from above");
  expect(wrongImport("control", "identity")).toContain("different sides");
  expect(wrongImport("sidecar", "authority")).toContain("different sides");
  expect(wrongImport("cli", "sidecar")).toBeUndefined();
});

test("floors 0 to 2 import none of Node's modules but those that only compute", () => {
  const wrong: string[] = [];
  for (const name of product) {
    if ((floors[folderOf(name)]?.floor ?? 0) > pureFloorMax) continue;
    for (const { specifier, line } of importsOf(name)) {
      if (specifier.startsWith("node:") && !pureModules.has(specifier)) {
        wrong.push(`${name}:${line}: ${specifier}: pass what it gives as an argument`);
      }
    }
  }
  expect(wrong).toEqual([]);
});

test("a sidecar's folders never import the libraries that it must not load", () => {
  const banned = /^(zod|commander|fastify|@fastify\/|@peculiar\/|reflect-metadata|node-forge|yaml)/;
  const seen = new Set<string>();
  const queue = product.filter((name) => /^src\/(sidecar|proxy|identity)\//.test(name));
  const wrong: string[] = [];
  for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
    if (seen.has(name)) continue;
    seen.add(name);
    for (const { specifier, file } of importsOf(name)) {
      if (banned.test(specifier)) wrong.push(`${name}: ${specifier}`);
      if (file !== undefined) queue.push(file);
    }
  }
  expect(wrong).toEqual([]);
});

test("what a sidecar seldom needs is loaded on first use, not with it", () => {
  const seldom = /\bimport\s+(?!type\b)[^;]*?\bfrom\s*["'](undici|jose)["']/g;
  const sample = 'import { Agent } from "undici";\nimport type { JWK } from "jose";';
  expect([...sample.matchAll(seldom)].map((match) => match[1])).toEqual(["undici"]);
  const wrong = product
    .filter((name) => sidecarRooms.has(folderOf(name)))
    .flatMap((name) =>
      [...codeOf(read(name)).matchAll(seldom)].map((match) => `${name}: await import("${match[1]}") where it is used`),
    );
  expect(wrong).toEqual([]);
});

test("no file reaches itself through its imports", () => {
  const done = new Set<string>();
  const cycles: string[] = [];
  const walk = (name: string, path: readonly string[]): void => {
    if (path.includes(name)) {
      cycles.push([...path.slice(path.indexOf(name)), name].join(" -> "));
      return;
    }
    if (done.has(name)) return;
    for (const { file } of importsOf(name))
      if (file !== undefined && product.includes(file)) walk(file, [...path, name]);
    done.add(name);
  };
  for (const name of product) walk(name, []);
  expect(cycles).toEqual([]);
});

test("README shows the floors as they are", () => {
  expect(read("README.md")).toContain(picture());
});
