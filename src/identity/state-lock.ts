import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { HauberkError, refuse, type Refusal } from "../base/errors.ts";

/**
 * The exclusive lock of a state folder: SQLite's own lock on an empty file, which is a POSIX lock of the kernel's.
 *
 * Node has no flock. A file made with O_EXCL outlives kill -9, and whoever clears a stale one races with the next who does;
 * a bound Unix socket has the same race, an abstract one can be taken by any local user and is not seen from another
 * network namespace. The kernel drops this one with its process, whatever ends it. Cost: 3 MB of RSS and 1 ms (measured).
 */
export interface StateLock {
  release(): void;
}

const lockName = "lock";
const holderName = "lock.pid";
/** What a lock leaves in its folder. */
export const lockFiles: readonly string[] = [lockName, holderName];

/** Takes the lock, or says who holds it (STATE_LOCKED). @throws HauberkError USAGE where no file can be made in the folder. */
export function takeLock(folder: string): StateLock | Refusal {
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(join(folder, lockName), { timeout: 0 });
    database.exec("PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE");
  } catch (thrown) {
    database?.close();
    const { errcode } = thrown as { errcode?: number };
    // SQLITE_CANTOPEN and SQLITE_READONLY: the folder is there, because whoever calls this has made it.
    if (errcode === 14 || errcode === 8)
      throw new HauberkError(
        "USAGE",
        `Cannot lock ${folder}: this user may not write there`,
        "Run this as the user whom the folder belongs to, or name another one",
        thrown,
      );
    if (errcode !== 5) throw thrown; // SQLITE_BUSY
    return refuse(
      "STATE_LOCKED",
      `Cannot use the state folder ${folder}: process ${holderOf(folder)} is using it, and only one may`,
      "End that process, or give this one a folder of its own: --instance NAME for another instance, or --state DIR",
    );
  }
  // By name, not by a descriptor: closing any descriptor of a file drops every POSIX lock that the process has on it.
  chmodSync(join(folder, lockName), 0o600);
  // For the message above only; the lock is the kernel's.
  writeFileSync(join(folder, holderName), `${process.pid}\n`, { mode: 0o600 });
  const held = database;
  let released = false;
  return {
    release: () => {
      if (released) return;
      released = true;
      held.close();
    },
  };
}

function holderOf(folder: string): string {
  try {
    const text = readFileSync(join(folder, holderName), "utf8").trim();
    return /^\d{1,10}$/.test(text) ? text : "of unknown number";
  } catch {
    return "of unknown number";
  }
}
