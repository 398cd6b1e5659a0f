import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { HauberkError } from "../base/errors.ts";
import { readConfig, splitAddress, type Config } from "./config.ts";

const folder = mkdtempSync(join(tmpdir(), "hauberk-config-"));
const file = join(folder, "hauberk.yaml");
afterAll(() => rmSync(folder, { recursive: true }));

function read(text: string): Config {
  writeFileSync(file, text);
  return readConfig(file);
}

function refused(text: string): HauberkError {
  try {
    read(text);
  } catch (thrown) {
    if (thrown instanceof HauberkError) return thrown;
    throw thrown;
  }
  throw new Error("nothing was refused");
}

test("the trust domain is all that has to be said", () => {
  expect(read("trustDomain: mesh.example\n")).toEqual({
    trustDomain: "mesh.example",
    mesh: "0.0.0.0:7443",
    enrollment: "0.0.0.0:7444",
    advertise: [],
    store: "certs/control/store.db",
    leafLifetimeMs: undefined,
    tokenLifetimeMs: undefined,
    allowSeconds: false,
    options: {},
  });
});

test("every key that the file knows is read", () => {
  const config = read(
    [
      "trustDomain: mesh.example",
      'addresses: { mesh: "127.0.0.1:1", enrollment: "[::1]:2", advertise: [mesh.example.org] }',
      "store: { sqlite: other.db }",
      "lifetimes: { leaf: 6m, token: 2h, allowSeconds: true }",
      "options: { graceMs: 5000 }",
    ].join("\n"),
  );
  expect(config).toMatchObject({
    mesh: "127.0.0.1:1",
    enrollment: "[::1]:2",
    advertise: ["mesh.example.org"],
    store: "other.db",
  });
  expect(config).toMatchObject({
    leafLifetimeMs: 360_000,
    tokenLifetimeMs: 7_200_000,
    allowSeconds: true,
    options: { graceMs: 5_000 },
  });
  expect(Object.isFrozen(config)).toBe(true);
});

test.each([
  ["trustDomain: a\nadresses: {}\n", "2:1", '"adresses" is no key'],
  ["trustDomain: a\naddresses:\n  mash: 0.0.0.0:1\n", "3:3", '"addresses.mash" is no key'],
  ["trustDomain: a\n__proto__: {}\n", "2:1", '"__proto__" is no key'],
  ["trustDomain: Mesh Local\n", "1:14", '"trustDomain" is not a trust domain'],
  ["trustDomain: 7\n", "1:14", '"trustDomain" is not a trust domain'],
  ["trustDomain: a\naddresses: { mesh: 7443 }\n", "2:20", '"addresses.mesh" is not an address HOST:PORT'],
  ["trustDomain: a\naddresses: { advertise: mesh }\n", "2:25", '"addresses.advertise" is not a list of texts'],
  ["trustDomain: a\nlifetimes: { leaf: 24 }\n", "2:20", '"lifetimes.leaf" is not a duration'],
  ["trustDomain: a\nlifetimes: { leaf: soon }\n", "2:20", '"lifetimes.leaf" is not a duration'],
  ["trustDomain: a\nlifetimes: { allowSeconds: maybe }\n", "2:28", '"lifetimes.allowSeconds" is not true or false'],
  ["trustDomain: a\nstore: x.db\n", "2:8", '"store" is not a mapping'],
  ["trustDomain: a\noptions: { graceMs: [1] }\n", "2:21", '"options.graceMs" is not a number'],
  ["store: { sqlite: x.db }\n", "1:1", "trustDomain is missing"],
  ["", "1:1", "trustDomain is missing"],
  ["- trustDomain\n", "1:1", "the file is not a mapping"],
  ["trustDomain: a\ntrustDomain: b\n", "2:1", "unique"],
  ["trustDomain: [a\n", "2:1", ""],
])("%j is refused at its line and column", (text, place, what) => {
  const refusal = refused(text);
  expect(refusal.code).toBe("CONFIG_INVALID");
  expect(refusal.message).toContain(`${file}:${place}: `);
  expect(refusal.message).toContain(what);
  expect(refusal.hint).not.toBe("");
});

test("a file that cannot be read is refused with its path", () => {
  expect(() => readConfig(join(folder, "nothing.yaml"))).toThrow(/^Cannot read .*nothing\.yaml: ENOENT/);
});

test("an address comes apart at its last colon", () => {
  expect(splitAddress("0.0.0.0:7443")).toEqual({ host: "0.0.0.0", port: 7443 });
  expect(splitAddress("[::1]:7443")).toEqual({ host: "::1", port: 7443 });
});
