import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { makeFolder, removeEmpty } from "./make-folder.ts";

const base = mkdtempSync(join(tmpdir(), "hauberk-make-"));
afterAll(() => rmSync(base, { recursive: true }));
writeFileSync(join(base, "file"), "");
symlinkSync(join(base, "nowhere"), join(base, "link"));

test("what is missing is made with its mode, and told; what is there is not", () => {
  const made = makeFolder(join(base, "a", "b"), { mode: 0o700 });
  expect(made).toEqual([join(base, "a"), join(base, "a", "b")]);
  for (const path of made) expect(statSync(path).mode & 0o777).toBe(0o700);
  expect(makeFolder(join(base, "a", "b"))).toEqual([]);
});

test.each([
  ["file", "it is a file"],
  [join("file", "x"), "a part of it is a file"],
  ["link", "a part of it is a link that leads nowhere"],
  [join("new", "x".repeat(300)), "the name is too long"],
])("%s cannot be made, which is said with the reason, and nothing is left", (path, why) => {
  expect(() => makeFolder(join(base, path))).toThrow(
    expect.objectContaining({ code: "USAGE", message: `Cannot make the folder ${join(base, path)}: ${why}` }),
  );
  expect(existsSync(join(base, "new"))).toBe(false);
});

test.skipIf(process.platform !== "linux")(
  "a file system that takes no folders is told as such, and not asked for ever (skipped without /proc)",
  () => {
    expect(() => makeFolder("/proc/x/y", { what: "keep it in" })).toThrow(
      "Cannot keep it in /proc/x/y: that file system takes no new folders",
    );
  },
);

test("folders that were made are removed up to one that is used", () => {
  const made = makeFolder(join(base, "c", "d", "e"));
  mkdirSync(join(base, "c", "used"));
  removeEmpty(made);
  expect([existsSync(join(base, "c", "d")), existsSync(join(base, "c", "used"))]).toEqual([false, true]);
});
