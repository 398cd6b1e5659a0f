import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { takeLock } from "./state-lock.ts";

test("a folder in which the lock cannot be opened is named, and is not called locked", () => {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-lock-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  // To SQLite the same as a folder of another user, which a test that runs as root cannot make.
  mkdirSync(join(folder, "lock"));
  expect(() => takeLock(folder)).toThrow(`Cannot lock ${folder}: this user may not write there`);
});
