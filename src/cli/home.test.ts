import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { findHome, homeAt, readSecretFile, requireHome, stateHome } from "./home.ts";

const root = realpathSync(mkdtempSync(join(tmpdir(), "hauberk-home-")));
const mesh = join(root, "mesh");
const below = join(mesh, "services", "orders");
const bare = join(root, "bare");
mkdirSync(below, { recursive: true });
mkdirSync(bare);
writeFileSync(join(mesh, "hauberk.yaml"), "trustDomain: a\n");
afterAll(() => rmSync(root, { recursive: true }));

test("the home is the nearest folder with a hauberk.yaml, from here upwards", () => {
  expect(findHome(mesh, undefined)?.folder).toBe(mesh);
  expect(findHome(below, undefined)?.folder).toBe(mesh);
  writeFileSync(join(below, "hauberk.yaml"), "trustDomain: b\n");
  expect(findHome(below, undefined)?.folder).toBe(below);
  rmSync(join(below, "hauberk.yaml"));
});

test("a home that was named is taken outright: nothing is searched above it", () => {
  expect(findHome(bare, "../mesh")?.folder).toBe(mesh);
  expect(findHome(mesh, below)).toBeUndefined();
});

test("without a home the refusal says where it was looked for", () => {
  expect(() => requireHome(bare, undefined)).toThrow(
    expect.objectContaining({
      code: "HOME_MISSING",
      message: `Cannot find a mesh home: no hauberk.yaml in ${bare} or above`,
    }),
  );
  expect(() => requireHome(mesh, below)).toThrow(/no hauberk\.yaml in .*orders$/);
});

test("a home's parts lie where the design says", () => {
  expect(homeAt("/m")).toEqual({
    folder: "/m",
    configFile: "/m/hauberk.yaml",
    ca: "/m/ca",
    policies: "/m/policies",
    certs: "/m/certs",
  });
});

test("state lies below XDG_STATE_HOME, else below HOME, and a relative one counts for nothing", () => {
  expect(stateHome({ XDG_STATE_HOME: "/x", HOME: "/h" })).toBe("/x/hauberk");
  expect(stateHome({ HOME: "/h" })).toBe("/h/.local/state/hauberk");
  expect(stateHome({ XDG_STATE_HOME: "x", HOME: "/h" })).toBe("/h/.local/state/hauberk");
  expect(() => stateHome({ HOME: "here" })).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
});

test("a secret is read without its final newline, from a file or from standard input", () => {
  const file = join(root, "secret");
  writeFileSync(file, "s3cret\n");
  expect(readSecretFile(file, "the token", () => "")).toBe("s3cret");
  expect(readSecretFile("-", "the token", () => "piped\n")).toBe("piped");
});

test("a secret that is not there is refused by path, without what else is in the folder", () => {
  expect(() => readSecretFile(join(root, "none"), "the token", () => "")).toThrow(
    /^Cannot read the token from .*none: there is no such file$/,
  );
});
