import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ignoreSecrets } from "./git-ignore.ts";

let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "hauberk-git-ignore-"));
  file = join(folder, ".gitignore");
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

test("git ignores the keys of a mesh home whose repository had a .gitignore of its own", () => {
  writeFileSync(file, "node_modules\n/dist");
  ignoreSecrets(folder);
  const lines = readFileSync(file, "utf8").split("\n");
  expect(lines.slice(0, 2)).toEqual(["node_modules", "/dist"]);
  expect(lines).toEqual(expect.arrayContaining(["/ca/*", "!/ca/profiles/", "/certs/", "*.pem", "*.token"]));
});

test("a .gitignore that knows the keys of a mesh home is left as it is", () => {
  ignoreSecrets(folder);
  const before = readFileSync(file, "utf8");
  ignoreSecrets(folder);
  expect(readFileSync(file, "utf8")).toBe(before);
});
