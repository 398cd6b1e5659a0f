import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ask } from "../../test/support/mesh.ts";
import { listenAdmin } from "./admin-server.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "hauberk-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test("a file that lies where the admin socket is wanted is not removed", async () => {
  const path = join(folder, "notes.txt");
  writeFileSync(path, "mine");
  await expect(listenAdmin(path, {})).rejects.toMatchObject({ code: "CONFIG_INVALID" });
  expect(readFileSync(path, "utf8")).toBe("mine");
});

test("only its own user may open the admin socket", async () => {
  const path = join(folder, "admin.sock");
  const admin = await listenAdmin(path, {});
  expect(statSync(path).mode & 0o777).toBe(0o600);
  await admin.close();
});

test("an answer that cannot be written costs its connection, not the process", async () => {
  const path = join(folder, "admin.sock");
  const good = { type: "text/plain", body: "good" };
  const admin = await listenAdmin(path, {
    "/bad": () => ({ type: "text/plain", body: { no: "text" } as unknown as string }),
    "/good": () => good,
  });
  await expect(ask({ socketPath: path, path: "/bad" })).rejects.toThrow();
  expect((await ask({ socketPath: path, path: "/good" })).body).toBe("good");
  await admin.close();
});
