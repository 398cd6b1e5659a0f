import fs, { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test, vi } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { defaultsOf } from "../base/options.ts";
import { storageOptions } from "./options.ts";
import { backUpStore, restoreStore } from "./sqlite-backup.ts";
import { openSqliteStore, type SqliteStoreContext } from "./sqlite-store.ts";
import type { Store } from "./store.ts";

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

function bench(trustDomain = "mesh.test"): { context: SqliteStoreContext; at: (name: string) => string } {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-backup-"));
  folders.push(folder);
  const at = (name: string): string => join(folder, name);
  const common = { clock: new ManualClock(), random: new SeededRandom(5), options: defaultsOf(storageOptions) };
  return { context: { ...common, file: at("store.db"), trustDomain }, at };
}

const say = (store: Store, line: string): Promise<void> => store.write((tx) => tx.appendAudit({ atMs: 1, line }));
const linesOf = async (store: Store): Promise<string[]> => (await store.audit()).map(({ line }) => line);
const restored = (): Promise<void> => Promise.resolve();

test("a backup holds what was committed when it was made, log included, while the store is written to", async () => {
  const { context, at } = bench();
  const store = await openSqliteStore(context);
  await say(store, "before");
  backUpStore(context.file, at("backup"));
  await say(store, "after");
  expect(statSync(at("backup")).mode & 0o777).toBe(0o600);
  const copy = await openSqliteStore({ ...context, file: at("backup") });
  expect(await linesOf(copy)).toEqual(["before"]);
  await copy.close();
  await store.close();
});

test("a backup replaces no file, and what is no store cannot be backed up", async () => {
  const { context, at } = bench();
  await (await openSqliteStore(context)).close();
  writeFileSync(at("taken"), "mine");
  expect(() => backUpStore(context.file, at("taken"))).toThrow(/it exists/);
  expect(() => backUpStore(context.file, at("nowhere/file"))).toThrow(/there is no such folder$/);
  for (const [code, why] of [
    ["EACCES", "this user may not write there"],
    ["EROFS", "that file system is read-only"],
  ] as const) {
    const open = vi.spyOn(fs, "openSync").mockImplementation(() => {
      throw Object.assign(new Error(`${code}: no, open`), { code });
    });
    syncBuiltinESMExports();
    try {
      expect(() => backUpStore(context.file, at("kept"))).toThrow(new RegExp(`: ${why}$`));
    } finally {
      open.mockRestore();
      syncBuiltinESMExports();
    }
  }
  expect(readFileSync(at("taken"), "utf8")).toBe("mine");
  expect(() => backUpStore(at("nowhere"), at("b"))).toThrow(/there is no store yet/);
  expect(() => backUpStore(at("taken"), at("b"))).toThrow(/Cannot back up/);
  expect(existsSync(at("b"))).toBe(false);
});

test("a restore puts the backup in place whole, settled, and keeps the old store with all that its log held", async () => {
  const { context, at } = bench();
  const store = await openSqliteStore(context);
  await say(store, "before");
  backUpStore(context.file, at("backup"));
  await say(store, "after");
  await store.close();
  const kept = await restoreStore(at("backup"), context, {
    keepAs: at("old"),
    settle: (draft) => say(draft, "settled"),
  });
  expect(kept).toBe(at("old"));
  const back = await openSqliteStore(context);
  expect(await linesOf(back)).toEqual(["before", "settled"]);
  await back.close();
  const old = await openSqliteStore({ ...context, file: at("old") });
  expect(await linesOf(old)).toEqual(["before", "after"]);
  await old.close();
  const copy = await openSqliteStore({ ...context, file: at("backup") });
  expect(await linesOf(copy)).toEqual(["before"]);
  await copy.close();
});

test("a store that is damaged beyond reading is no reason against a restore, and is kept with its log", async () => {
  const { context, at } = bench();
  const store = await openSqliteStore({ ...context, file: at("backup") });
  await say(store, "before");
  await store.close();
  const damaged = "no database, but long enough to look at".repeat(200);
  writeFileSync(context.file, damaged);
  writeFileSync(`${context.file}-wal`, "its log");
  expect(await restoreStore(at("backup"), context, { keepAs: at("old"), settle: restored })).toBe(at("old"));
  expect([readFileSync(at("old"), "utf8"), readFileSync(at("old-wal"), "utf8")]).toEqual([damaged, "its log"]);
  const back = await openSqliteStore(context);
  expect(await linesOf(back)).toEqual(["before"]);
  await back.close();
});

test("where there was no store, nothing is kept", async () => {
  const { context, at } = bench();
  await (await openSqliteStore({ ...context, file: at("backup") })).close();
  expect(await restoreStore(at("backup"), context, { keepAs: at("old"), settle: restored })).toBeUndefined();
  expect(existsSync(context.file)).toBe(true);
  expect(existsSync(at("old"))).toBe(false);
});

test("a file that is no store of this mesh, a damaged one, and one that cannot be settled leave everything as it was", async () => {
  const { context, at } = bench();
  const store = await openSqliteStore(context);
  await say(store, "mine");
  await store.close();
  const foreign = bench("other.test");
  await (await openSqliteStore(foreign.context)).close();
  writeFileSync(at("text"), "no database, but long enough to look at".repeat(50));
  const damaged = readFileSync(context.file);
  damaged.fill(7, 4096, 12_288);
  writeFileSync(at("damaged"), damaged);
  backUpStore(context.file, at("good"));
  const cases: [string, () => Promise<void>, RegExp][] = [
    [foreign.context.file, restored, /other\.test|trust domain/],
    [at("text"), restored, /no whole database/],
    [at("damaged"), restored, /no whole database/],
    [at("nowhere"), restored, /no whole database/],
    [at("good"), () => Promise.reject(new Error("it broke")), /it broke/],
  ];
  for (const [from, settle, wanted] of cases)
    await expect(restoreStore(from, context, { keepAs: at("old"), settle })).rejects.toThrow(wanted);
  const same = await openSqliteStore(context);
  expect(await linesOf(same)).toEqual(["mine"]);
  await same.close();
  expect(readdirSync(folders[0] ?? "").filter((name) => /restoring|old/.test(name))).toEqual([]);
});
