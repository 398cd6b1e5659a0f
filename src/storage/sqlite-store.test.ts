import { chmodSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { defaultsOf } from "../base/options.ts";
import { storageOptions } from "./options.ts";
import { migrate, steps } from "./sqlite-schema.ts";
import { openSqliteStore, type SqliteStoreContext } from "./sqlite-store.ts";
import { aToken } from "./store-contract.ts";

let folder: string;
let context: SqliteStoreContext;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "hauberk-sqlite-"));
  context = {
    file: join(folder, "state", "store.db"),
    trustDomain: "mesh.test",
    clock: new ManualClock(),
    random: new SeededRandom(2),
    options: defaultsOf(storageOptions),
  };
});

afterEach(() => rmSync(folder, { recursive: true }));

test("the database and its companions are readable by their owner only", async () => {
  const store = await openSqliteStore(context);
  await store.write((tx) => tx.insertToken(aToken));
  const names = readdirSync(join(folder, "state"));
  expect(names.sort()).toEqual(["store.db", "store.db-shm", "store.db-wal"]);
  for (const name of names) expect(statSync(join(folder, "state", name)).mode & 0o777).toBe(0o600);
  await store.close();
  chmodSync(context.file, 0o644);
  await (await openSqliteStore(context)).close();
  expect(statSync(context.file).mode & 0o777).toBe(0o600);
});

test("the writer waits for the disk at each commit, in WAL mode", async () => {
  const store = await openSqliteStore(context);
  const ask = (pragma: string) =>
    store.write(async (tx) => (tx as unknown as { one(sql: string): Record<string, unknown> }).one(`PRAGMA ${pragma}`));
  expect(await ask("journal_mode")).toEqual({ journal_mode: "wal" });
  expect(await ask("synchronous")).toEqual({ synchronous: 2 });
  expect(await ask("trusted_schema")).toEqual({ trusted_schema: 0 });
  await store.close();
});

test("a store of a later release is refused with STORE_NEWER, and left as it is", async () => {
  await (await openSqliteStore(context)).close();
  const db = new DatabaseSync(context.file);
  db.prepare("INSERT INTO migrations VALUES (?, 0)").run(steps.length + 1);
  db.close();
  await expect(openSqliteStore(context)).rejects.toMatchObject({ code: "STORE_NEWER" });
  await expect(openSqliteStore(context)).rejects.toThrow(
    `Cannot open the store: its schema has step ${steps.length + 1}, and this release knows ${steps.length}`,
  );
});

test("an older store is brought up by the steps that it lacks, whole or not at all", async () => {
  await (await openSqliteStore(context)).close();
  const db = new DatabaseSync(context.file);
  const birth = { trustDomain: "mesh.test", epoch: "e", atMs: 9 };
  const bad = [...steps, "CREATE TABLE later (x INTEGER) STRICT", "CREATE TABLE meta (x INTEGER)"];
  expect(() => migrate(db, birth, bad)).toThrow("meta already exists");
  expect(db.prepare("SELECT count(*) AS n FROM sqlite_schema WHERE name = 'later'").get()).toEqual({ n: 0 });
  const before = db.prepare("SELECT epoch FROM meta").get();
  migrate(db, birth, bad.slice(0, -1));
  expect(db.prepare("SELECT step, atMs FROM migrations WHERE step > ?").all(steps.length)).toEqual([
    { step: steps.length + 1, atMs: 9 },
  ]);
  expect(db.prepare("SELECT epoch FROM meta").get()).toEqual(before);
  db.close();
});

test("the store of another trust domain is refused", async () => {
  await (await openSqliteStore(context)).close();
  await expect(openSqliteStore({ ...context, trustDomain: "other.test" })).rejects.toMatchObject({
    code: "CONFIG_INVALID",
  });
});

test("another program's database, a text file, a folder and a link are refused with STORE_FAILED", async () => {
  const foreign = join(folder, "foreign.db");
  const db = new DatabaseSync(foreign);
  db.exec("CREATE TABLE x (y)");
  db.close();
  writeFileSync(
    join(folder, "text.db"),
    "not a database, but long enough to be taken for one at first sight".repeat(100),
  );
  symlinkSync(foreign, join(folder, "link.db"));
  for (const file of [foreign, join(folder, "text.db"), folder, join(folder, "link.db")]) {
    await expect(openSqliteStore({ ...context, file })).rejects.toMatchObject({ code: "STORE_FAILED" });
  }
});

test("a damaged file is named, with the way back", async () => {
  await (await openSqliteStore(context)).close();
  writeFileSync(context.file, "no database, but long enough to be taken for one".repeat(100));
  await expect(openSqliteStore(context)).rejects.toMatchObject({
    code: "STORE_FAILED",
    message: expect.stringContaining(`Cannot open the store ${context.file}: `) as string,
    hint: expect.stringContaining("hauberk restore FILE") as string,
  });
});

test("a transaction of another process is waited for, and refused when it does not end", async () => {
  const store = await openSqliteStore({ ...context, options: { ...context.options, busyTimeoutMs: 20 } });
  const other = new DatabaseSync(context.file);
  other.exec("BEGIN IMMEDIATE");
  await expect(store.write((tx) => tx.insertToken(aToken))).rejects.toMatchObject({ code: "STORE_FAILED" });
  expect(await store.token("t1")).toBeUndefined();
  other.exec("ROLLBACK");
  await store.write((tx) => tx.insertToken(aToken));
  expect(await store.token("t1")).toBeDefined();
  other.close();
  await store.close();
});

test("a full disk fails the whole group, leaves nothing of it, and is over when there is room", async () => {
  const store = await openSqliteStore(context);
  await store.write((tx) => tx.insertToken(aToken));
  const full = await Promise.allSettled(
    Array.from({ length: 5 }, (_, index) =>
      store.write(async (tx) => {
        await tx.appendAudit({ atMs: index, line: "x".repeat(2_000) });
        // What SQLite does by itself when the disk is full.
        if (index === 3) (tx as unknown as { statement(sql: string): { run(): void } }).statement("ROLLBACK").run();
      }),
    ),
  );
  expect(full.map((result) => result.status)).toEqual(Array.from({ length: 5 }, () => "rejected"));
  expect(await store.audit()).toEqual([]);
  await store.write((tx) => tx.appendAudit({ atMs: 9, line: "{}" }));
  expect(await store.audit()).toHaveLength(1);
  await store.close();
});

test("a queue that is full refuses at once", async () => {
  const store = await openSqliteStore({ ...context, options: { ...context.options, queueMax: 3 } });
  const results = await Promise.allSettled(Array.from({ length: 5 }, () => store.write((tx) => tx.bump())));
  expect(results.filter((result) => result.status === "rejected")).toHaveLength(2);
  expect((await store.meta()).version.counter).toBe(3);
  await store.close();
});
