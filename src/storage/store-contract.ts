import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isRefusal, refuse } from "../base/errors.ts";
import type { Registration, Version } from "../contract/watch.ts";
import type { InstanceRow, LeafRow, RegistrationRow, TokenRow } from "./rows.ts";
import type { PruneLimits, Store, StoreTx } from "./store.ts";

/** What a driver must provide to be judged. */
export interface StoreUnderTest {
  /** Opens the store at one place, again and again the same one. */
  open(): Promise<Store>;
  /** Removes it. */
  remove(): void;
}

export const aToken: TokenRow = {
  id: "t1",
  identity: "spiffe://mesh.test/ns/default/sa/orders",
  service: "orders",
  namespace: "default",
  createdAtMs: 1_000,
  expiresAtMs: 10_000,
  usesMax: 1,
  uses: 0,
  usedAtMs: null,
  revokedAtMs: null,
  by: "admin/ann",
};

const anInstance: InstanceRow = {
  id: "i1",
  identity: aToken.identity,
  service: "orders",
  namespace: "default",
  token: "t1",
  recoveryKey: "AAAA",
  createdAtMs: 1_000,
  leafEndsAtMs: 0,
  lockedAtMs: null,
  lockedBecause: null,
  endedAtMs: null,
  recoveries: 0,
  recoveriesSinceMs: 0,
};

const aLeaf: LeafRow = {
  serial: "0a",
  holder: "workload",
  owner: "i1",
  parent: null,
  token: "t1",
  keyHash: "k1",
  issuedAtMs: 1_000,
  notAfterMs: 50_000,
  seenAtMs: null,
  childSeen: null,
  status: "good",
  der: new Uint8Array([0x30, 0x00, 0xff]),
};

const registration: Registration = {
  address: "10.0.0.1",
  port: 15443,
  ports: [{ name: "http", port: 8080, protocol: "http" }],
  healthy: true,
  draining: false,
};

const aRegistration: RegistrationRow = {
  instance: "i1",
  service: "orders",
  namespace: "default",
  registration,
  stale: false,
  changedAtMs: 2_000,
};

const pruneNothing: PruneLimits = {
  leavesBeforeMs: 0,
  tokensBeforeMs: 0,
  instancesBeforeMs: 0,
  auditBeforeMs: 0,
  auditMax: 1_000,
  rowsMax: 100,
};

/** The suite that every driver of the port runs. */
export function storeContract(driver: string, prepare: () => StoreUnderTest): void {
  describe(`a store on ${driver}`, () => {
    let place: StoreUnderTest;
    let store: Store;

    beforeEach(async () => {
      place = prepare();
      store = await place.open();
    });

    afterEach(async () => {
      await store.close();
      place.remove();
    });

    const seed = (...more: ((tx: StoreTx) => Promise<unknown>)[]) =>
      store.write(async (tx) => {
        await tx.insertToken(aToken);
        await tx.insertInstance(anInstance);
        await tx.insertLeaf(aLeaf);
        for (const step of more) await step(tx);
      });

    test("a fresh store is of its trust domain, in an epoch, at counter 0, without policies", async () => {
      const meta = await store.meta();
      expect(meta.trustDomain).toBe("mesh.test");
      expect(meta.version.epoch).toMatch(/^[0-9a-f]{32}$/);
      expect(meta.version.counter).toBe(0);
      expect(await store.policies()).toMatchObject({ revision: 0, json: "[]" });
      expect(await store.registrations()).toEqual([]);
    });

    test("rows come back as they were put, also after a restart", async () => {
      await seed((tx) => tx.putRegistration(aRegistration));
      const before = await store.meta();
      await store.close();
      store = await place.open();
      expect(await store.meta()).toEqual(before);
      expect(await store.token("t1")).toEqual(aToken);
      expect(await store.instance("i1")).toEqual({ ...anInstance, leafEndsAtMs: 50_000 });
      expect(await store.leaf("0a")).toEqual(aLeaf);
      expect(await store.leafByKey("k1")).toEqual(aLeaf);
      expect(await store.registrations()).toEqual([aRegistration]);
      expect(await store.registration("i1")).toEqual(aRegistration);
    });

    test("what is unknown is undefined", async () => {
      expect(await store.token("x")).toBeUndefined();
      expect(await store.instance("x")).toBeUndefined();
      expect(await store.leaf("x")).toBeUndefined();
      expect(await store.leafByKey("x")).toBeUndefined();
      expect(await store.lineage("x")).toBeUndefined();
      expect(await store.admin("x")).toBeUndefined();
      expect(await store.registration("x")).toBeUndefined();
    });

    test("a transaction that throws leaves nothing behind, and the error is its own", async () => {
      const boom = new Error("boom");
      const work = store.write(async (tx) => {
        await tx.insertToken(aToken);
        await tx.bump();
        throw boom;
      });
      await expect(work).rejects.toMatchObject({ cause: boom });
      expect(await store.token("t1")).toBeUndefined();
      expect((await store.meta()).version.counter).toBe(0);
    });

    test("a returned refusal commits", async () => {
      const answer = await store.write(async (tx) => {
        await tx.appendAudit({ atMs: 1, line: "{}" });
        return refuse("TOKEN_UNKNOWN", "Cannot enroll: no", "Ask");
      });
      expect(isRefusal(answer)).toBe(true);
      expect(await store.audit()).toHaveLength(1);
    });

    test("of transactions that were started together, one that fails is undone alone", async () => {
      const results = await Promise.allSettled(
        Array.from({ length: 20 }, (_, index) =>
          store.write(async (tx) => {
            await tx.insertToken({ ...aToken, id: `t${index}` });
            await tx.appendAudit({ atMs: index, line: `{"token":${index}}` });
            if (index % 3 === 0) throw new Error(`no ${index}`);
            return index;
          }),
        ),
      );
      const good = results.flatMap((result, index) => (result.status === "fulfilled" ? [index] : []));
      expect(good).toEqual(Array.from({ length: 20 }, (_, index) => index).filter((index) => index % 3 !== 0));
      expect((await store.tokens()).map((row) => row.id).sort()).toEqual(good.map((index) => `t${index}`).sort());
      expect((await store.audit()).map((row) => row.line)).toEqual(good.map((index) => `{"token":${index}}`));
    });

    test("a statement that fails inside a transaction undoes that transaction only", async () => {
      await seed();
      const [twice, other] = await Promise.allSettled([
        store.write(async (tx) => {
          await tx.insertToken({ ...aToken, id: "t2" });
          await tx.insertLeaf({ ...aLeaf, keyHash: "k2" }); // The serial exists.
        }),
        store.write((tx) => tx.insertToken({ ...aToken, id: "t3" })),
      ]);
      expect(twice).toMatchObject({ status: "rejected", reason: { code: "STORE_FAILED" } });
      expect(other.status).toBe("fulfilled");
      expect(await store.token("t2")).toBeUndefined();
      expect(await store.token("t3")).toBeDefined();
    });

    test("a read beside a transaction does not see what is not committed, and sees it as soon as it is acknowledged", async () => {
      let during: TokenRow | undefined = aToken;
      let inside: TokenRow | undefined;
      await store.write(async (tx) => {
        await tx.insertToken(aToken);
        inside = await tx.token("t1");
        during = await store.token("t1");
      });
      expect(inside).toEqual(aToken);
      expect(during).toBeUndefined();
      expect(await store.token("t1")).toEqual(aToken);
    });

    test("transactions do not mix: each reads what the one before it wrote", async () => {
      const read: number[] = [];
      await Promise.all(
        Array.from({ length: 30 }, () =>
          store.write(async (tx) => {
            const before = (await tx.meta()).version.counter;
            await Promise.resolve();
            const { counter } = await tx.bump();
            read.push(before);
            expect(counter).toBe(before + 1);
          }),
        ),
      );
      expect(read).toEqual(Array.from({ length: 30 }, (_, index) => index));
    });

    test("a transaction cannot be used after its end", async () => {
      let kept: StoreTx | undefined;
      await store.write(async (tx) => {
        kept = tx;
      });
      await expect(kept?.insertToken(aToken)).rejects.toMatchObject({ code: "BUG" });
      await expect(kept?.token("t1")).rejects.toMatchObject({ code: "BUG" });
    });

    test("a closed store refuses", async () => {
      await store.close();
      await expect(store.meta()).rejects.toMatchObject({ code: "STORE_FAILED" });
      await expect(store.write(async () => 1)).rejects.toMatchObject({ code: "STORE_FAILED" });
      await store.close();
      store = await place.open();
    });

    test("closing waits for what was begun", async () => {
      const writing = store.write((tx) => tx.insertToken(aToken));
      await store.close();
      await writing;
      store = await place.open();
      expect(await store.token("t1")).toEqual(aToken);
    });

    test("a token is redeemed once, of fifty that race", async () => {
      await seed();
      const won = await Promise.all(Array.from({ length: 50 }, () => store.write((tx) => tx.redeemToken("t1", 5_000))));
      expect(won.filter(Boolean)).toHaveLength(1);
      expect(await store.token("t1")).toMatchObject({ uses: 1, usedAtMs: 5_000 });
    });

    test("a token of three uses is redeemed three times", async () => {
      await store.write((tx) => tx.insertToken({ ...aToken, usesMax: 3 }));
      const won = await Promise.all(Array.from({ length: 9 }, () => store.write((tx) => tx.redeemToken("t1", 5_000))));
      expect(won.filter(Boolean)).toHaveLength(3);
    });

    test("a token is not redeemed from the moment on at which it expires, nor once it is revoked, nor if it is unknown", async () => {
      await seed();
      expect(await store.write((tx) => tx.redeemToken("t1", 10_000))).toBe(false);
      expect(await store.write((tx) => tx.revokeToken("t1", 2_000))).toBe(true);
      expect(await store.write((tx) => tx.revokeToken("t1", 3_000))).toBe(false);
      expect(await store.write((tx) => tx.redeemToken("t1", 9_999))).toBe(false);
      expect(await store.write((tx) => tx.redeemToken("t2", 5_000))).toBe(false);
      expect(await store.token("t1")).toMatchObject({ uses: 0, revokedAtMs: 2_000 });
    });

    test("serials and keys are unique", async () => {
      await seed();
      await expect(store.write((tx) => tx.insertLeaf({ ...aLeaf, keyHash: "k2" }))).rejects.toThrow("serial");
      await expect(store.write((tx) => tx.insertLeaf({ ...aLeaf, serial: "0b" }))).rejects.toThrow("keyHash");
    });

    test("a leaf is seen for the first time once, and its parent remembers its first seen child", async () => {
      const child = { ...aLeaf, parent: "0a", token: null };
      await seed(
        (tx) => tx.insertLeaf({ ...child, serial: "0b", keyHash: "k2" }),
        (tx) => tx.insertLeaf({ ...child, serial: "0c", keyHash: "k3" }),
      );
      expect((await store.lineage("0b"))?.siblingSeen).toBeNull();
      expect(await store.write((tx) => tx.markSeen("0b", 7_000))).toBe(true);
      expect(await store.write((tx) => tx.markSeen("0b", 8_000))).toBe(false);
      expect(await store.write((tx) => tx.markSeen("0c", 9_000))).toBe(true);
      expect(await store.leaf("0b")).toMatchObject({ seenAtMs: 7_000 });
      expect(await store.leaf("0a")).toMatchObject({ childSeen: "0b", seenAtMs: null });
    });

    test("the lineage of an unseen leaf tells which sibling was seen, and brings its instance", async () => {
      const child = { ...aLeaf, parent: "0a", token: null };
      await seed(
        (tx) => tx.insertLeaf({ ...child, serial: "0b", keyHash: "k2" }),
        (tx) => tx.insertLeaf({ ...child, serial: "0c", keyHash: "k3" }),
        (tx) => tx.markSeen("0b", 7_000),
      );
      expect(await store.lineage("0c")).toMatchObject({
        siblingSeen: "0b",
        instance: { id: "i1" },
        leaf: { serial: "0c" },
      });
      expect((await store.lineage("0b"))?.siblingSeen).toBeNull();
    });

    test("a leaf counts as live when it is good and has not ended, and where it matters was seen", async () => {
      await seed();
      const live = (afterMs: number, seen: boolean) => store.ownerHasLiveLeaf("i1", { afterMs, seen });
      expect([await live(10_000, true), await live(10_000, false)]).toEqual([false, true]);
      await store.write((tx) => tx.markSeen("0a", 7_000));
      expect([await live(10_000, true), await live(50_000, false)]).toEqual([true, false]);
      expect(await store.write((tx) => tx.revokeLeaves("i1"))).toBe(1);
      expect(await live(10_000, false)).toBe(false);
    });

    test("superseding touches unseen leaves of one owner only", async () => {
      await seed(
        (tx) => tx.insertLeaf({ ...aLeaf, serial: "0b", keyHash: "k2", seenAtMs: 3 }),
        (tx) => tx.insertLeaf({ ...aLeaf, serial: "0c", keyHash: "k3", owner: "i2" }),
        (tx) => tx.supersedeUnseen("i1", 10_000),
      );
      const statuses = (await store.leaves()).map((leaf) => [leaf.serial, leaf.status]);
      expect(statuses).toEqual([
        ["0a", "superseded"],
        ["0b", "good"],
        ["0c", "good"],
      ]);
    });

    test("an instance is locked once; unlocking forgets what was seen of its leaves that have not ended", async () => {
      await seed(
        (tx) => tx.insertLeaf({ ...aLeaf, serial: "0b", keyHash: "k2", parent: "0a" }),
        (tx) => tx.markSeen("0b", 7_000),
        (tx) => tx.supersedeUnseen("i1", 7_000),
      );
      expect(await store.write((tx) => tx.unlockInstance("i1", 8_000))).toBe(false);
      expect(await store.write((tx) => tx.lockInstance("i1", { atMs: 8_000, because: "a clone" }))).toBe(true);
      expect(await store.write((tx) => tx.lockInstance("i1", { atMs: 9_000, because: "again" }))).toBe(false);
      expect(await store.instance("i1")).toMatchObject({ lockedAtMs: 8_000, lockedBecause: "a clone" });
      expect(await store.write((tx) => tx.unlockInstance("i1", 9_000))).toBe(true);
      expect(await store.instance("i1")).toMatchObject({ lockedAtMs: null, lockedBecause: null });
      expect(await store.leaf("0a")).toMatchObject({ status: "good", childSeen: null });
      expect(await store.leaf("0b")).toMatchObject({ seenAtMs: null });
    });

    test("recoveries are counted within a window, and a new window starts at one", async () => {
      await seed();
      const count = (atMs: number) => store.write((tx) => tx.countRecovery("i1", { atMs, windowMs: 1_000, max: 2 }));
      expect([await count(2_000), await count(2_100), await count(2_999)]).toEqual([true, true, false]);
      expect([await count(3_000), await count(3_001), await count(3_002)]).toEqual([true, true, false]);
    });

    test("policies are replaced whole, unless they are not the revision that was expected", async () => {
      const put = (json: string, ifRevision?: number) =>
        store.write((tx) =>
          tx.putPolicies({ json, atMs: 5, by: "admin/ann", ...(ifRevision === undefined ? {} : { ifRevision }) }),
        );
      expect(await put("[1]")).toEqual({ revision: 1, json: "[1]", changedAtMs: 5, by: "admin/ann" });
      expect(await put("[2]", 0)).toBeUndefined();
      expect(await put("[3]", 1)).toMatchObject({ revision: 2 });
      expect(await store.policies()).toMatchObject({ json: "[3]" });
      expect((await store.meta()).version.counter).toBe(2);
    });

    test("the version moves with each change that a snapshot could show, in its transaction, and with nothing else", async () => {
      const told: Version[] = [];
      const cancel = store.onChange((version) => told.push(version));
      await seed();
      expect((await store.meta()).version.counter).toBe(0);
      const put = (row: RegistrationRow) => store.write((tx) => tx.putRegistration(row));
      expect(await put(aRegistration)).toBe(true);
      expect(await put({ ...aRegistration, changedAtMs: 3_000 })).toBe(false);
      expect(await put({ ...aRegistration, stale: true })).toBe(true);
      expect(await store.write((tx) => tx.removeRegistration("i1"))).toBe(true);
      expect(await store.write((tx) => tx.removeRegistration("i1"))).toBe(false);
      await store.write((tx) => tx.lockInstance("i1", { atMs: 1, because: "x" }));
      await store.write((tx) => tx.endInstance("i1", 1));
      expect(await store.write((tx) => tx.setBundleDigest("d"))).toBe(1);
      const { version } = await store.meta();
      expect(version.counter).toBe(6);
      expect(told.map(({ counter }) => counter)).toEqual([1, 2, 3, 4, 5, 6]);
      expect(told.at(-1)).toEqual(version);
      cancel();
      await store.write((tx) => tx.bump());
      expect(told).toHaveLength(6);
    });

    test("nobody is told of a change that was undone", async () => {
      const told: Version[] = [];
      store.onChange((version) => told.push(version));
      const work = store.write(async (tx) => {
        await tx.bump();
        throw new Error("no");
      });
      await expect(work).rejects.toThrow();
      await store.write((tx) => tx.bump());
      expect(told).toEqual([{ epoch: (await store.meta()).version.epoch, counter: 1 }]);
    });

    test("a new epoch starts counting anew", async () => {
      await store.write((tx) => tx.bump());
      await store.write((tx) => tx.renewEpoch("ff"));
      expect((await store.meta()).version).toEqual({ epoch: "ff", counter: 1 });
    });

    test("administrators are kept, revoked and made again", async () => {
      const ann = { name: "ann", createdAtMs: 1, by: "init", revokedAtMs: null };
      await store.write((tx) => tx.insertAdmin(ann));
      expect(await store.admins()).toEqual([ann]);
      await store.write((tx) => tx.setAdminRevoked("ann", 9));
      expect(await store.admin("ann")).toEqual({ ...ann, revokedAtMs: 9 });
      expect(await store.write((tx) => tx.setAdminRevoked("bob", 9))).toBe(false);
    });

    test("lists are paged by key", async () => {
      await store.write(async (tx) => {
        for (let index = 0; index < 5; index++) {
          await tx.insertToken({ ...aToken, id: `t${index}` });
          await tx.insertLeaf({ ...aLeaf, serial: `0${index}`, keyHash: `k${index}`, owner: index < 3 ? "i1" : "i2" });
          await tx.appendAudit({ atMs: index, line: `${index}` });
        }
      });
      expect((await store.tokens({ after: "t1", limit: 2 })).map((row) => row.id)).toEqual(["t2", "t3"]);
      expect((await store.leaves({ owner: "i1", after: "00" })).map((row) => row.serial)).toEqual(["01", "02"]);
      expect((await store.audit({ after: 3 })).map((row) => row.line)).toEqual(["3", "4"]);
    });

    test("pruning deletes what has ended, no more than asked at once, and never the newest audit line", async () => {
      await seed((tx) => tx.insertInstance({ ...anInstance, id: "i2", leafEndsAtMs: 40_000 }));
      await store.write(async (tx) => {
        for (let index = 0; index < 5; index++) await tx.appendAudit({ atMs: 1_000 * index, line: `${index}` });
        await tx.insertLeaf({ ...aLeaf, serial: "0b", keyHash: "k2", notAfterMs: 90_000, owner: "i2" });
        await tx.putRegistration(aRegistration);
      });
      expect(await store.write((tx) => tx.prune(pruneNothing))).toEqual({
        leaves: 0,
        tokens: 0,
        instances: 0,
        audit: 0,
      });
      const all = { leavesBeforeMs: 60_000, tokensBeforeMs: 60_000, instancesBeforeMs: 60_000, auditBeforeMs: 99_000 };
      const pruned = await store.write((tx) => tx.prune({ ...pruneNothing, ...all, rowsMax: 3 }));
      // i1 has a registration, i2 a leaf that goes on.
      expect(pruned).toEqual({ leaves: 1, tokens: 1, instances: 0, audit: 3 });
      await store.write((tx) => tx.prune({ ...pruneNothing, ...all }));
      expect((await store.audit()).map((row) => row.line)).toEqual(["4"]);
      await store.write((tx) => tx.removeRegistration("i1"));
      expect(await store.write((tx) => tx.prune({ ...pruneNothing, ...all }))).toMatchObject({ instances: 1 });
      expect((await store.instances()).map((row) => row.id)).toEqual(["i2"]);
    });

    test("the audit log is kept to its size, oldest lines first", async () => {
      await store.write(async (tx) => {
        for (let index = 0; index < 9; index++) await tx.appendAudit({ atMs: index, line: `${index}` });
      });
      await store.write((tx) => tx.prune({ ...pruneNothing, auditMax: 4 }));
      expect((await store.audit()).map((row) => row.line)).toEqual(["5", "6", "7", "8"]);
    });

    test("pruning looks at no more of the audit log than it may delete, from its oldest line on", async () => {
      await store.write(async (tx) => {
        for (const atMs of [9_000, 1_000, 1_000, 9_000]) await tx.appendAudit({ atMs, line: `${atMs}` });
      });
      const limits = { ...pruneNothing, auditBeforeMs: 5_000 };
      expect(await store.write((tx) => tx.prune({ ...limits, rowsMax: 1 }))).toMatchObject({ audit: 0 });
      expect(await store.write((tx) => tx.prune({ ...limits, rowsMax: 3 }))).toMatchObject({ audit: 2 });
    });
  });
}
