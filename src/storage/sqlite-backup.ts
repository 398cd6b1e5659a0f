import { closeSync, copyFileSync, existsSync, linkSync, openSync, renameSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { HauberkError, messageOf } from "../base/errors.ts";
import { isDamaged, openSqliteStore, type SqliteStoreContext } from "./sqlite-store.ts";
import type { Store } from "./store.ts";
import { syncPath } from "./sync-path.ts";

/**
 * A whole copy of the store of one moment, in a new 0600 file, also while a control plane writes to it. Copying the file would
 * miss what still lies in SQLite's log. Throws USAGE where `to` exists, STORE_FAILED where there is no store.
 */
export function backUpStore(file: string, to: string): void {
  if (!existsSync(file))
    throw new HauberkError(
      "STORE_FAILED",
      `Cannot back up ${file}: there is no store yet, or none that this user may see`,
      "Start hauberk control once, or run this as its user",
    );
  try {
    closeSync(openSync(to, "wx", 0o600));
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException;
    const why = whyNot[code ?? ""] ?? messageOf(thrown);
    throw new HauberkError(
      "USAGE",
      `Cannot write the backup to ${to}: ${why}`,
      "Name a new file in a folder of this user",
      thrown,
    );
  }
  try {
    const db = new DatabaseSync(file, { readOnly: true, timeout: busyMs });
    try {
      db.prepare("VACUUM INTO ?").run(to);
    } finally {
      db.close();
    }
    syncPath(to);
    syncPath(dirname(to));
  } catch (thrown) {
    rmSync(to, { force: true });
    throw new HauberkError(
      "STORE_FAILED",
      `Cannot back up ${file}: ${messageOf(thrown)}`,
      "Check the disk: space and permissions",
      thrown,
    );
  }
}

const whyNot: Readonly<Record<string, string>> = {
  EEXIST: "it exists",
  ENOENT: "there is no such folder",
  EACCES: "this user may not write there",
  EPERM: "this user may not write there",
  EROFS: "that file system is read-only",
};

const busyMs = 10_000;

/**
 * Puts a backup in the place of `context.file`: opened, migrated and settled by `settle` beside it first, then exchanged in
 * one step, so that there is always a whole store. The old one stays under the name that is returned; undefined where there
 * was none. Nobody else may have the store open. Throws CONFIG_INVALID, STORE_NEWER or STORE_FAILED for a file that is no store of this mesh.
 */
export async function restoreStore(
  from: string,
  context: SqliteStoreContext,
  use: { readonly keepAs: string; readonly settle: (store: Store) => Promise<void> },
): Promise<string | undefined> {
  const { file } = context;
  const draft = `${file}.restoring`;
  for (const name of [draft, `${draft}-wal`, `${draft}-shm`]) rmSync(name, { force: true });
  try {
    refuseDamaged(from);
    copyFileSync(from, draft);
    const store = await openSqliteStore({ ...context, file: draft });
    try {
      await use.settle(store);
    } finally {
      await store.close();
    }
    syncPath(draft);
    const kept = existsSync(file) ? use.keepAs : undefined;
    if (kept !== undefined) {
      // What cannot be settled is kept as it lies, for whoever wants to save something of it; SQLite would empty its log.
      const log = `${kept}-wal`;
      if (existsSync(`${file}-wal`)) copyFileSync(`${file}-wal`, log);
      if (settleLog(file)) rmSync(log, { force: true });
      keep(file, kept);
    }
    renameSync(draft, file);
    for (const name of [`${file}-wal`, `${file}-shm`]) rmSync(name, { force: true });
    syncPath(dirname(file));
    return kept;
  } catch (thrown) {
    for (const name of [draft, `${draft}-wal`, `${draft}-shm`]) rmSync(name, { force: true });
    if (thrown instanceof HauberkError) throw thrown;
    throw new HauberkError(
      "STORE_FAILED",
      `Cannot restore ${from}: ${messageOf(thrown)}`,
      "Check the disk: space and permissions",
      thrown,
    );
  }
}

function refuseDamaged(from: string): void {
  let found: string;
  try {
    const db = new DatabaseSync(from, { readOnly: true });
    try {
      const [row] = db.prepare("PRAGMA integrity_check").all() as { integrity_check: string }[];
      found = row?.integrity_check ?? "nothing";
    } finally {
      db.close();
    }
  } catch (thrown) {
    found = messageOf(thrown);
  }
  if (found === "ok") return;
  throw new HauberkError(
    "USAGE",
    `Cannot restore ${from}: it is no whole database (${found})`,
    "Name a file that hauberk backup wrote",
  );
}

/** What still lies in the log of the old store goes into its file: only that is kept. False where the store is damaged. */
function settleLog(file: string): boolean {
  const db = new DatabaseSync(file, { timeout: busyMs });
  try {
    db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    return true;
  } catch (thrown) {
    if (isDamaged(thrown)) return false;
    throw thrown;
  } finally {
    db.close();
  }
}

/** A link costs nothing; some file systems know none. */
function keep(file: string, as: string): void {
  try {
    linkSync(file, as);
  } catch (thrown) {
    if ((thrown as { code?: string }).code === "EEXIST") throw thrown;
    copyFileSync(file, as);
    syncPath(as);
  }
}
