import type { SQLInputValue, StatementSync } from "node:sqlite";
import { assert } from "../base/errors.ts";
import type { Version } from "../contract/watch.ts";
import type { AdminRow, InstanceRow, LeafRow, PolicySetRow, RegistrationRow, TokenRow } from "./rows.ts";
import { SqliteReads, leafColumns } from "./sqlite-reads.ts";
import type { PruneLimits, Pruned, StoreTx } from "./store.ts";

const leafInsert = `INSERT INTO leaves (${leafColumns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`;

/** One transaction. Its statements run at once and never wait, so transactions cannot mix. */
export class SqliteTx extends SqliteReads implements StoreTx {
  #ended = false;
  #moved: Version | undefined;

  /** The version that this transaction moved to, if it did. */
  get moved(): Version | undefined {
    return this.#moved;
  }

  end(): void {
    this.#ended = true;
  }

  protected override statement(sql: string): StatementSync {
    assert(!this.#ended, "a transaction was used after its end");
    return super.statement(sql);
  }

  /** How many rows changed. */
  #run(sql: string, ...values: SQLInputValue[]): number {
    return Number(this.statement(sql).run(...values).changes);
  }

  async insertToken(row: TokenRow): Promise<void> {
    this.#run(
      `INSERT INTO tokens (id, identity, service, namespace, createdAtMs, expiresAtMs, usesMax, uses, usedAtMs, revokedAtMs, "by")
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      row.id,
      row.identity,
      row.service,
      row.namespace,
      row.createdAtMs,
      row.expiresAtMs,
      row.usesMax,
      row.uses,
      row.usedAtMs,
      row.revokedAtMs,
      row.by,
    );
  }

  async redeemToken(id: string, atMs: number): Promise<boolean> {
    const changed = this.#run(
      `UPDATE tokens SET uses = uses + 1, usedAtMs = ?2
       WHERE id = ?1 AND uses < usesMax AND revokedAtMs IS NULL AND expiresAtMs > ?2`,
      id,
      atMs,
    );
    return changed === 1;
  }

  async revokeToken(id: string, atMs: number): Promise<boolean> {
    return this.#run("UPDATE tokens SET revokedAtMs = ? WHERE id = ? AND revokedAtMs IS NULL", atMs, id) === 1;
  }

  async insertInstance(row: InstanceRow): Promise<void> {
    this.#run(
      `INSERT INTO instances (id, identity, service, namespace, token, recoveryKey, createdAtMs, leafEndsAtMs,
         lockedAtMs, lockedBecause, endedAtMs, recoveries, recoveriesSinceMs)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      row.id,
      row.identity,
      row.service,
      row.namespace,
      row.token,
      row.recoveryKey,
      row.createdAtMs,
      row.leafEndsAtMs,
      row.lockedAtMs,
      row.lockedBecause,
      row.endedAtMs,
      row.recoveries,
      row.recoveriesSinceMs,
    );
  }

  async lockInstance(id: string, lock: { readonly atMs: number; readonly because: string }): Promise<boolean> {
    const sql = "UPDATE instances SET lockedAtMs = ?, lockedBecause = ? WHERE id = ? AND lockedAtMs IS NULL";
    return this.#movedIf(this.#run(sql, lock.atMs, lock.because, id) === 1);
  }

  async unlockInstance(id: string, atMs: number): Promise<boolean> {
    const sql = "UPDATE instances SET lockedAtMs = NULL, lockedBecause = NULL WHERE id = ? AND lockedAtMs IS NOT NULL";
    if (this.#run(sql, id) !== 1) return false;
    this.#run(
      `UPDATE leaves SET seenAtMs = NULL, childSeen = NULL, status = 'good'
       WHERE owner = ? AND notAfterMs > ? AND holder = 'workload' AND status <> 'revoked'`,
      id,
      atMs,
    );
    return this.#movedIf(true);
  }

  async endInstance(id: string, atMs: number): Promise<boolean> {
    const sql = "UPDATE instances SET endedAtMs = ? WHERE id = ? AND endedAtMs IS NULL";
    return this.#movedIf(this.#run(sql, atMs, id) === 1);
  }

  async countRecovery(
    id: string,
    limit: { readonly atMs: number; readonly windowMs: number; readonly max: number },
  ): Promise<boolean> {
    // A window that is over starts again with this recovery.
    const changed = this.#run(
      `UPDATE instances SET
         recoveries = CASE WHEN recoveriesSinceMs + ?3 <= ?2 THEN 1 ELSE recoveries + 1 END,
         recoveriesSinceMs = CASE WHEN recoveriesSinceMs + ?3 <= ?2 THEN ?2 ELSE recoveriesSinceMs END
       WHERE id = ?1 AND (recoveries < ?4 OR recoveriesSinceMs + ?3 <= ?2)`,
      id,
      limit.atMs,
      limit.windowMs,
      limit.max,
    );
    return changed === 1;
  }

  async insertLeaf(row: LeafRow): Promise<void> {
    this.#run(
      leafInsert,
      row.serial,
      row.holder,
      row.owner,
      row.parent,
      row.token,
      row.keyHash,
      row.issuedAtMs,
      row.notAfterMs,
      row.seenAtMs,
      row.childSeen,
      row.status,
      row.der,
    );
    if (row.holder !== "workload") return;
    this.#run("UPDATE instances SET leafEndsAtMs = ?2 WHERE id = ?1 AND leafEndsAtMs < ?2", row.owner, row.notAfterMs);
  }

  async markSeen(serial: string, atMs: number): Promise<boolean> {
    const sql = "UPDATE leaves SET seenAtMs = ? WHERE serial = ? AND seenAtMs IS NULL RETURNING parent";
    const leaf = this.one(sql, atMs, serial) as Pick<LeafRow, "parent"> | undefined;
    if (leaf === undefined) return false;
    if (leaf.parent !== null) {
      this.#run("UPDATE leaves SET childSeen = ? WHERE serial = ? AND childSeen IS NULL", serial, leaf.parent);
    }
    return true;
  }

  async supersedeUnseen(owner: string, atMs: number): Promise<void> {
    this.#run(
      "UPDATE leaves SET status = 'superseded' WHERE owner = ? AND notAfterMs > ? AND status = 'good' AND seenAtMs IS NULL",
      owner,
      atMs,
    );
  }

  async revokeLeaves(owner: string): Promise<number> {
    return this.#run("UPDATE leaves SET status = 'revoked' WHERE owner = ? AND status <> 'revoked'", owner);
  }

  async insertAdmin(row: AdminRow): Promise<void> {
    const sql = 'INSERT INTO admins (name, createdAtMs, "by", revokedAtMs) VALUES (?, ?, ?, ?)';
    this.#run(sql, row.name, row.createdAtMs, row.by, row.revokedAtMs);
  }

  async setAdminRevoked(name: string, atMs: number | null): Promise<boolean> {
    return this.#run("UPDATE admins SET revokedAtMs = ? WHERE name = ?", atMs, name) === 1;
  }

  async putPolicies(set: {
    readonly json: string;
    readonly atMs: number;
    readonly by: string;
    readonly ifRevision?: number;
  }): Promise<PolicySetRow | undefined> {
    const row = this.one(
      `UPDATE policies SET revision = revision + 1, json = ?1, changedAtMs = ?2, "by" = ?3
       WHERE ?4 IS NULL OR revision = ?4 RETURNING revision, json, changedAtMs, "by"`,
      set.json,
      set.atMs,
      set.by,
      set.ifRevision ?? null,
    ) as PolicySetRow | undefined;
    if (row !== undefined) this.#bump();
    return row;
  }

  async putRegistration(row: RegistrationRow): Promise<boolean> {
    const changed = this.#run(
      `INSERT INTO registrations (instance, service, namespace, registration, stale, changedAtMs) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
       ON CONFLICT (instance) DO UPDATE
       SET service = ?2, namespace = ?3, registration = ?4, stale = ?5, changedAtMs = ?6
       WHERE service <> ?2 OR namespace <> ?3 OR registration <> ?4 OR stale <> ?5`,
      row.instance,
      row.service,
      row.namespace,
      JSON.stringify(row.registration),
      row.stale ? 1 : 0,
      row.changedAtMs,
    );
    return this.#movedIf(changed === 1);
  }

  async removeRegistration(instance: string): Promise<boolean> {
    return this.#movedIf(this.#run("DELETE FROM registrations WHERE instance = ?", instance) === 1);
  }

  async appendAudit(entry: { readonly atMs: number; readonly line: string }): Promise<void> {
    this.#run("INSERT INTO audit (atMs, line) VALUES (?, ?)", entry.atMs, entry.line);
  }

  async setBundleDigest(digest: string): Promise<number> {
    const row = this.one(
      "UPDATE meta SET bundleSequence = bundleSequence + 1, bundleDigest = ? RETURNING bundleSequence",
      digest,
    ) as { bundleSequence: number } | undefined;
    this.#bump();
    return row?.bundleSequence ?? 0;
  }

  async bump(): Promise<Version> {
    return this.#bump();
  }

  async renewEpoch(epoch: string): Promise<Version> {
    this.#run("UPDATE meta SET epoch = ?, counter = 0", epoch);
    return this.#bump();
  }

  async prune(limits: PruneLimits): Promise<Pruned> {
    const leaves = this.#run(
      "DELETE FROM leaves WHERE row IN (SELECT row FROM leaves WHERE notAfterMs < ? ORDER BY notAfterMs LIMIT ?)",
      limits.leavesBeforeMs,
      limits.rowsMax,
    );
    const tokens = this.#run(
      "DELETE FROM tokens WHERE id IN (SELECT id FROM tokens WHERE expiresAtMs < ? ORDER BY expiresAtMs LIMIT ?)",
      limits.tokensBeforeMs,
      limits.rowsMax,
    );
    const instances = this.#run(
      `DELETE FROM instances WHERE id IN (
         SELECT id FROM instances WHERE leafEndsAtMs < ? AND id NOT IN (SELECT instance FROM registrations) LIMIT ?)`,
      limits.instancesBeforeMs,
      limits.rowsMax,
    );
    // The last line stays, so that a number is never given twice. Lines lie in the order of time but for clocks that were set:
    // to look at the oldest alone spares a walk over the whole log, which took half a second of two million lines.
    const audit = this.#run(
      `DELETE FROM audit WHERE seq IN (
         SELECT seq FROM (SELECT seq, atMs FROM audit ORDER BY seq LIMIT ?3)
         WHERE seq < (SELECT max(seq) FROM audit)
           AND (atMs < ?1 OR seq <= (SELECT max(seq) FROM audit) - ?2))`,
      limits.auditBeforeMs,
      limits.auditMax,
      limits.rowsMax,
    );
    return { leaves, tokens, instances, audit };
  }

  #movedIf(changed: boolean): boolean {
    if (changed) this.#bump();
    return changed;
  }

  #bump(): Version {
    const version = this.one("UPDATE meta SET counter = counter + 1 RETURNING epoch, counter") as Version | undefined;
    assert(version !== undefined, "the store has no meta row");
    this.#moved = { epoch: version.epoch, counter: version.counter };
    return this.#moved;
  }
}
