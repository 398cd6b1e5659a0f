import type { DatabaseSync } from "node:sqlite";
import { HauberkError } from "../base/errors.ts";

/** "HAUB", so that another program's database is never taken for a store. */
const applicationId = 0x48415542;

/**
 * The schema as numbered steps. A step that was released is never changed; the next one goes at the end.
 * Columns are called like the fields of the rows, so that a row is what SQLite returns.
 * `leaves` has no index that renewal does not need: every index is one more page in each commit.
 */
export const steps: readonly string[] = [
  `
  CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    trustDomain TEXT NOT NULL,
    epoch TEXT NOT NULL,
    counter INTEGER NOT NULL,
    bundleSequence INTEGER NOT NULL,
    bundleDigest TEXT NOT NULL
  ) STRICT;
  CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    identity TEXT NOT NULL,
    service TEXT NOT NULL,
    namespace TEXT NOT NULL,
    createdAtMs INTEGER NOT NULL,
    expiresAtMs INTEGER NOT NULL,
    usesMax INTEGER NOT NULL CHECK (usesMax >= 1),
    uses INTEGER NOT NULL CHECK (uses BETWEEN 0 AND usesMax),
    usedAtMs INTEGER,
    revokedAtMs INTEGER,
    "by" TEXT NOT NULL
  ) STRICT;
  CREATE INDEX tokensByExpiry ON tokens (expiresAtMs);
  CREATE TABLE instances (
    id TEXT PRIMARY KEY,
    identity TEXT NOT NULL,
    service TEXT NOT NULL,
    namespace TEXT NOT NULL,
    token TEXT NOT NULL,
    recoveryKey TEXT NOT NULL,
    createdAtMs INTEGER NOT NULL,
    leafEndsAtMs INTEGER NOT NULL,
    lockedAtMs INTEGER,
    lockedBecause TEXT,
    endedAtMs INTEGER,
    recoveries INTEGER NOT NULL,
    recoveriesSinceMs INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE leaves (
    row INTEGER PRIMARY KEY,
    serial TEXT NOT NULL UNIQUE,
    holder TEXT NOT NULL CHECK (holder IN ('workload', 'administrator', 'control')),
    owner TEXT NOT NULL,
    parent TEXT,
    token TEXT,
    keyHash TEXT NOT NULL UNIQUE,
    issuedAtMs INTEGER NOT NULL,
    notAfterMs INTEGER NOT NULL,
    seenAtMs INTEGER,
    childSeen TEXT,
    status TEXT NOT NULL CHECK (status IN ('good', 'superseded', 'revoked')),
    der BLOB NOT NULL
  ) STRICT;
  CREATE INDEX leavesByOwner ON leaves (owner, notAfterMs);
  CREATE INDEX leavesByEnd ON leaves (notAfterMs);
  CREATE TABLE admins (
    name TEXT PRIMARY KEY,
    createdAtMs INTEGER NOT NULL,
    "by" TEXT NOT NULL,
    revokedAtMs INTEGER
  ) STRICT;
  CREATE TABLE policies (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL,
    json TEXT NOT NULL,
    changedAtMs INTEGER NOT NULL,
    "by" TEXT NOT NULL
  ) STRICT;
  CREATE TABLE registrations (
    instance TEXT PRIMARY KEY,
    service TEXT NOT NULL,
    namespace TEXT NOT NULL,
    registration TEXT NOT NULL,
    stale INTEGER NOT NULL CHECK (stale IN (0, 1)),
    changedAtMs INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    atMs INTEGER NOT NULL,
    line TEXT NOT NULL
  ) STRICT;
  `,
];

/** Who this store belongs to, written when it is created. */
export interface Birth {
  readonly trustDomain: string;
  readonly epoch: string;
  readonly atMs: number;
}

/**
 * Brings the database to the last of `wanted`, in one transaction. Throws STORE_NEWER for a database of a later release,
 * STORE_FAILED for a database that is no store, CONFIG_INVALID for the store of another trust domain.
 */
export function migrate(db: DatabaseSync, birth: Birth, wanted: readonly string[] = steps): void {
  db.exec("BEGIN IMMEDIATE");
  try {
    const done = stepsDone(db);
    if (done > wanted.length) {
      throw new HauberkError(
        "STORE_NEWER",
        `Cannot open the store: its schema has step ${done}, and this release knows ${wanted.length}`,
        "Start the release that wrote it, or a later one",
      );
    }
    for (let step = done; step < wanted.length; step++) {
      db.exec(wanted[step] as string);
      db.prepare("INSERT INTO migrations (step, atMs) VALUES (?, ?)").run(step + 1, birth.atMs);
    }
    if (done === 0) {
      db.prepare("INSERT INTO meta VALUES (1, ?, ?, 0, 0, '')").run(birth.trustDomain, birth.epoch);
      db.prepare("INSERT INTO policies VALUES (1, 0, '[]', ?, 'hauberk')").run(birth.atMs);
    }
    checkOwner(db, birth.trustDomain);
    db.exec("COMMIT");
  } catch (thrown) {
    if (db.isTransaction) db.exec("ROLLBACK");
    throw thrown;
  }
}

function stepsDone(db: DatabaseSync): number {
  const id = Number(db.prepare("PRAGMA application_id").get()?.["application_id"]);
  const tables = Number(db.prepare("SELECT count(*) AS tables FROM sqlite_schema").get()?.["tables"]);
  if (id === 0 && tables === 0) {
    db.exec(`PRAGMA application_id = ${applicationId}`);
    db.exec("CREATE TABLE migrations (step INTEGER PRIMARY KEY, atMs INTEGER NOT NULL) STRICT");
    return 0;
  }
  if (id !== applicationId) {
    throw new HauberkError(
      "STORE_FAILED",
      "Cannot open the store: the file is another program's database, a store of Hauberk was wanted",
      "Name another file, or move this one away",
    );
  }
  return Number(db.prepare("SELECT coalesce(max(step), 0) AS step FROM migrations").get()?.["step"]);
}

function checkOwner(db: DatabaseSync, trustDomain: string): void {
  const found = db.prepare("SELECT trustDomain FROM meta").get()?.["trustDomain"];
  if (found === trustDomain) return;
  throw new HauberkError(
    "CONFIG_INVALID",
    `Cannot open the store: it belongs to the trust domain ${String(found)}, ${trustDomain} was wanted`,
    "Set trustDomain in hauberk.yaml to what the store and the CA were made for, or name another store",
  );
}
