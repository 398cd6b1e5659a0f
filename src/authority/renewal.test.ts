import "reflect-metadata";
import { webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { granted, leafOf, makeTestCa, openBench, TestWorkload, type Bench } from "../../test/support/authority.ts";
import { isRefusal } from "../base/errors.ts";
import { readCsr } from "../x509/csr.ts";
import { generateKey } from "../x509/keys.ts";

let made: Awaited<ReturnType<typeof makeTestCa>>;
let bench: Bench;
let workload: TestWorkload;

beforeAll(async () => {
  made = await makeTestCa();
});
afterAll(() => made.remove());
beforeEach(async () => {
  bench = await openBench(made.ca);
  workload = await new TestWorkload(bench.authority).enroll();
});
afterEach(() => bench.end());

const seen = (leaf: TestWorkload["leaf"]) => bench.authority.seen(leaf, "10.0.0.1");
const instance = async () => (await bench.store.instance(workload.instance)) as { lockedAtMs: number | null };
const lines = async () =>
  (await bench.authority.listAudit()).map((row) => JSON.parse(row.line) as Record<string, unknown>);

test("a leaf is renewed with a fresh key, and the child knows instance and parent", async () => {
  bench.clock.advance(12 * 3_600_000);
  const key = generateKey();
  const answer = granted(await workload.renew(key));
  const child = leafOf(answer);
  expect(answer.instance).toBe(workload.instance);
  expect(answer.issuedAtMs).toBe(bench.clock.wallMs());
  expect(child.uris).toEqual(workload.leaf.uris);
  expect(child.dnsNames).toEqual(["orders.default.mesh"]);
  expect(await bench.store.leaf(child.serial)).toMatchObject({
    owner: workload.instance,
    parent: workload.leaf.serial,
  });
  expect((await lines()).at(-1)).toMatchObject({
    what: "renew",
    who: "spiffe://mesh.test/ns/default/sa/orders",
    verdict: "issued",
    serial: child.serial,
    parent: workload.leaf.serial,
    instance: workload.instance,
  });
});

test("a renewal with the key of any certificate is KEY_REUSED, and so is one with the recovery key", async () => {
  const other = await new TestWorkload(bench.authority).enroll();
  for (const key of [workload.key, other.key, workload.recoveryKey]) {
    expect(await workload.renew(key)).toMatchObject({ code: "KEY_REUSED" });
  }
  expect(await instance()).toMatchObject({ lockedAtMs: null });
});

test("names come from the instance's row, never from the presented certificate", async () => {
  // Somebody shows a certificate with other names and the same serial and key: names are not even looked at.
  const shown = { ...workload.leaf, uris: ["spiffe://mesh.test/admin/ann"], dnsNames: ["evil.mesh"] };
  expect(leafOf(granted(await workload.renew(generateKey(), shown))).uris).toEqual([
    "spiffe://mesh.test/ns/default/sa/orders",
  ]);
});

test("a certificate of another key with a known serial is LEAF_UNKNOWN, and so is an unknown serial", async () => {
  const other = await new TestWorkload(bench.authority).enroll();
  const stranger = { ...workload.leaf, spki: other.leaf.spki };
  expect(await workload.renew(generateKey(), stranger)).toMatchObject({ code: "LEAF_UNKNOWN" });
  expect(await seen(stranger)).toMatchObject({ code: "LEAF_UNKNOWN" });
  expect(await workload.renew(generateKey(), { ...workload.leaf, serial: "00" })).toMatchObject({
    code: "LEAF_UNKNOWN",
  });
  expect(await instance()).toMatchObject({ lockedAtMs: null });
});

test("an expired leaf is not renewed", async () => {
  bench.clock.advance(24 * 3_600_000);
  expect(await workload.renew()).toMatchObject({ code: "LEAF_EXPIRED" });
  expect(await seen(workload.leaf)).toMatchObject({ code: "LEAF_EXPIRED" });
});

test("a lost answer, asked for again with the same key, gives the same certificate, also when the child was seen", async () => {
  const key = generateKey();
  const first = granted(await workload.renew(key));
  expect(await workload.renew(key)).toEqual(first);
  await seen(leafOf(first));
  expect(await workload.renew(key)).toEqual(first);
  expect(await bench.authority.listLeaves()).toHaveLength(2);
  expect(await instance()).toMatchObject({ lockedAtMs: null });
});

test("a leaf may renew until its child was seen on a connection", async () => {
  granted(await workload.renew());
  granted(await workload.renew());
  const third = leafOf(granted(await workload.renew()));
  expect(isRefusal(await seen(third))).toBe(false);
  expect(await instance()).toMatchObject({ lockedAtMs: null });
});

test("after its child was seen a renewal from the parent is a clone: refused, audited, the instance locked, nobody else", async () => {
  const neighbour = await new TestWorkload(bench.authority).enroll();
  const child = leafOf(granted(await workload.renew()));
  await seen(child);
  const parent = workload.leaf;
  expect(await workload.renew(generateKey(), parent)).toMatchObject({ code: "CLONE_DETECTED" });
  expect(await instance()).toMatchObject({ lockedAtMs: bench.clock.wallMs() });
  expect((await lines()).at(-1)).toMatchObject({
    what: "renew",
    verdict: "refused",
    code: "CLONE_DETECTED",
    parent: parent.serial,
    instance: workload.instance,
  });
  // Both copies are out, whichever was the thief's; the neighbour of the same service is not.
  expect(await workload.renew(generateKey(), child)).toMatchObject({ code: "INSTANCE_LOCKED" });
  expect(await seen(child)).toMatchObject({ code: "INSTANCE_LOCKED" });
  granted(await neighbour.renew());
});

test("the renewal of a child is what shows that it is in use, without any other connection", async () => {
  const child = leafOf(granted(await workload.renew()));
  granted(await workload.renew(generateKey(), child));
  expect(await workload.renew()).toMatchObject({ code: "CLONE_DETECTED" });
});

test("of two children of one parent the second that shows up is a clone", async () => {
  const first = leafOf(granted(await workload.renew()));
  const second = leafOf(granted(await workload.renew()));
  expect(isRefusal(await seen(second))).toBe(false);
  expect(await seen(first)).toMatchObject({ code: "CLONE_DETECTED" });
  expect(await instance()).toMatchObject({ lockedAtMs: bench.clock.wallMs() });
});

test("a thief who renews first and stays unseen is found when the owner has gone on", async () => {
  const thiefs = leafOf(granted(await workload.renew()));
  const owners = leafOf(granted(await workload.renew()));
  await seen(owners);
  expect(await workload.renew(generateKey(), thiefs)).toMatchObject({ code: "CLONE_DETECTED" });
});

test("a clone is written down whatever the rate of refusals", async () => {
  await seen(leafOf(granted(await workload.renew())));
  for (let index = 0; index < 60; index++) await bench.authority.renew(workload.leaf, { csr: "" }, "x");
  await workload.renew();
  expect((await lines()).at(-1)).toMatchObject({ code: "CLONE_DETECTED" });
});

test("an unlocked instance goes on with the leaf that shows up first, and a clone is found again", async () => {
  const child = leafOf(granted(await workload.renew()));
  await seen(child);
  await workload.renew();
  expect(await bench.authority.unlockInstance(workload.instance, "admin/ann")).toBe(true);
  expect(isRefusal(await seen(child))).toBe(false);
  const next = leafOf(granted(await workload.renew(generateKey(), child)));
  await seen(next);
  expect(await workload.renew(generateKey(), child)).toMatchObject({ code: "CLONE_DETECTED" });
  expect(await bench.authority.unlockInstance("none", "admin/ann")).toMatchObject({ code: "NOT_FOUND" });
});

test("an administrator locks an instance, and it neither connects, renews nor recovers", async () => {
  await seen(workload.leaf);
  expect(await bench.authority.lockInstance(workload.instance, { by: "admin/ann", because: "stolen" })).toBe(true);
  expect(await bench.authority.lockInstance("none", { by: "admin/ann", because: "stolen" })).toMatchObject({
    code: "NOT_FOUND",
  });
  expect(await seen(workload.leaf)).toMatchObject({ code: "INSTANCE_LOCKED" });
  expect(await workload.renew()).toMatchObject({ code: "INSTANCE_LOCKED" });
  bench.clock.advance(25 * 3_600_000);
  expect(await bench.authority.recover(await workload.recoverRequest(), "x")).toMatchObject({
    code: "INSTANCE_LOCKED",
  });
});

test("who shows a leaf is told by the store: a workload with its instance, service and life", async () => {
  expect(await seen(workload.leaf)).toEqual({
    is: "workload",
    serial: workload.leaf.serial,
    instance: workload.instance,
    identity: "spiffe://mesh.test/ns/default/sa/orders",
    service: "orders",
    namespace: "default",
    issuedAtMs: workload.answer?.issuedAtMs,
    notAfterMs: workload.answer?.notAfterMs,
  });
  expect(await bench.store.leaf(workload.leaf.serial)).toMatchObject({ seenAtMs: bench.clock.wallMs() });
});

test("fifty renewals from one parent at once give fifty children, and exactly one line goes on", async () => {
  const answers = await Promise.all(Array.from({ length: 50 }, () => workload.renew()));
  const children = answers.map((answer) => leafOf(granted(answer)));
  const verdicts: boolean[] = [];
  for (const child of children.slice(0, 3)) verdicts.push(isRefusal(await seen(child)));
  expect(verdicts).toEqual([false, true, true]);
});

test("a request that asks for a name is refused unless that name was granted", async () => {
  const { csr: asked, names } = await csrWithNames(
    ["spiffe://mesh.test/ns/default/sa/orders"],
    ["orders.default.mesh"],
  );
  expect(names).toHaveLength(2);
  granted(await bench.authority.renew(workload.leaf, { csr: asked }, "x"));
  for (const [uris, dns] of [
    [["spiffe://mesh.test/admin/ann"], []],
    [[], ["ledger.default.mesh"]],
    [["spiffe://mesh.test/ns/default/sa/orders", "spiffe://mesh.test/ns/default/sa/ledger"], []],
  ] as const) {
    const { csr } = await csrWithNames(uris, dns);
    expect(await bench.authority.renew(workload.leaf, { csr }, "x")).toMatchObject({ code: "CSR_NAME_NOT_GRANTED" });
  }
});

/** A request as another program writes it, with subject alternative names. */
async function csrWithNames(uris: readonly string[], dns: readonly string[]) {
  const keys = await webcrypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign", "verify"]);
  const names = [
    ...uris.map((value) => ({ type: "url" as const, value })),
    ...dns.map((value) => ({ type: "dns" as const, value })),
  ];
  const request = await x509.Pkcs10CertificateRequestGenerator.create(
    {
      keys,
      signingAlgorithm: { name: "ECDSA", hash: "SHA-256" },
      extensions: [new x509.SubjectAlternativeNameExtension(names)],
    },
    webcrypto,
  );
  return {
    csr: Buffer.from(request.rawData).toString("base64"),
    names: granted(readCsr(Buffer.from(request.rawData))).names,
  };
}
