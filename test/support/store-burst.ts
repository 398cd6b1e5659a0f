import { randomBytes } from "node:crypto";
import { writeSync } from "node:fs";
import { defaultsOf } from "../../src/base/options.ts";
import { storageOptions } from "../../src/storage/options.ts";
import { openSqliteStore } from "../../src/storage/sqlite-store.ts";
import { systemClock } from "../../src/cli/system.ts";

/**
 * A program that enrolls for ever, as the authority does: token, instance, leaf, audit line in one transaction.
 * It prints a name when its transaction was acknowledged. Its parent kills it with -9.
 */
const store = await openSqliteStore({
  file: process.argv[2] as string,
  trustDomain: "mesh.test",
  clock: systemClock,
  random: { draw: () => 0.5, bytes: (length) => randomBytes(length) },
  options: defaultsOf(storageOptions),
});

async function enrollForEver(lane: number): Promise<void> {
  for (let number = 0; ; number++) {
    const name = `${process.pid}-${lane}-${number}`;
    const common = { identity: "spiffe://mesh.test/ns/default/sa/orders", service: "orders", namespace: "default" };
    await store.write(async (tx) => {
      await tx.insertToken({
        ...common,
        id: name,
        createdAtMs: 1,
        expiresAtMs: 10,
        usesMax: 1,
        uses: 0,
        usedAtMs: null,
        revokedAtMs: null,
        by: "test",
      });
      await tx.redeemToken(name, 5);
      await tx.insertInstance({
        ...common,
        id: name,
        token: name,
        recoveryKey: "",
        createdAtMs: 1,
        leafEndsAtMs: 0,
        lockedAtMs: null,
        lockedBecause: null,
        endedAtMs: null,
        recoveries: 0,
        recoveriesSinceMs: 0,
      });
      await tx.insertLeaf({
        serial: name,
        holder: "workload",
        owner: name,
        parent: null,
        token: name,
        keyHash: name,
        issuedAtMs: 1,
        notAfterMs: 99,
        seenAtMs: null,
        childSeen: null,
        status: "good",
        der: randomBytes(400),
      });
      await tx.appendAudit({ atMs: 1, line: name });
      await tx.bump();
    });
    writeSync(1, `${name}\n`);
  }
}

await Promise.all([0, 1, 2, 3].map(enrollForEver));
