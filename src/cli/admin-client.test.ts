import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { writeAdmin } from "./admin-client.ts";

test("two commands that renew an administrator's SVID at the same moment do not meet in one file", () => {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-admin-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  // What another command is about to rename into its place, and a folder that no rename gets out of the way.
  writeFileSync(join(folder, "admin.pem.new"), "another's, half written");
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  writeAdmin(folder, "admin", { key: privateKey, chain: [], roots: [] });
  expect(readdirSync(folder).toSorted()).toEqual(["admin.pem", "admin.pem.new", "roots.pem"]);
});
