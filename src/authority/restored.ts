import type { Clock } from "../base/clock.ts";
import { randomId, type Random } from "../base/random.ts";
import type { Store } from "../storage/store.ts";
import { AuditLog } from "./audit-log.ts";

export interface SettledRestore {
  /** Tokens that could still have enrolled somebody, perhaps for the second time. */
  readonly tokensRevoked: number;
}

/**
 * What has to happen once to a store that came from a backup, before anybody uses it, in one transaction: a token that was used
 * since is unused in it, so every token that could still be redeemed is revoked; and its versions were said before, so it
 * gets a new epoch and every sidecar is told everything again.
 */
export async function settleRestored(use: {
  readonly store: Store;
  readonly clock: Clock;
  readonly random: Random;
  /** Of the backup, for the audit log. */
  readonly from: string;
}): Promise<SettledRestore> {
  const { store, clock, random, from } = use;
  const log = new AuditLog({ store, clock, refusalsPerSecond: 1 });
  const atMs = clock.wallMs();
  return store.write(async (tx) => {
    let tokensRevoked = 0;
    for (let after: string | undefined = ""; after !== undefined;) {
      const rows = await tx.tokens({ after, limit: pageRows });
      for (const row of rows) {
        if (row.revokedAtMs !== null || row.uses >= row.usesMax || row.expiresAtMs <= atMs) continue;
        await tx.revokeToken(row.id, atMs);
        const reason = "it was good in a backup that was put back, and may have been used since";
        await log.done(tx, { what: "token-revoke", who: row.identity, verdict: "done", reason, token: row.id });
        tokensRevoked++;
      }
      after = rows.length < pageRows ? undefined : rows.at(-1)?.id;
    }
    const { counter } = await tx.renewEpoch(randomId(random));
    const reason = `the store was put back from ${from}: a new epoch, version ${counter}; ${tokensRevoked} tokens revoked`;
    await log.done(tx, { what: "restore", who: "the store", verdict: "done", reason });
    return { tokensRevoked };
  });
}

const pageRows = 500;
