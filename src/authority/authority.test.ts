import { createPublicKey } from "node:crypto";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import {
  csrOf,
  granted,
  leafOf,
  makeTestCa,
  openBench,
  passphrases,
  TestWorkload,
  testUrls,
  type Bench,
} from "../../test/support/authority.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { isRefusal } from "../base/errors.ts";
import { defaultsOf } from "../base/options.ts";
import { storageOptions } from "../storage/options.ts";
import { pruneLimits } from "../storage/retention.ts";
import { generateKey, spkiOf } from "../x509/keys.ts";
import { Authority } from "./authority.ts";
import { authorityOptions } from "./options.ts";

let made: Awaited<ReturnType<typeof makeTestCa>>;
let bench: Bench;
const day = 86_400_000;

beforeAll(async () => {
  made = await makeTestCa();
});
afterAll(() => made.remove());
beforeEach(async () => {
  bench = await openBench(made.ca);
});
afterEach(() => bench.end());

const admin = async (name: string, more: object = {}) => {
  const key = generateKey();
  return bench.authority.issueAdmin({ name, csr: csrOf(key), by: "init", ...more });
};

test("an authority opens a CA's folder with the issuing passphrase", async () => {
  const { store, clock } = bench;
  const context = {
    store,
    clock,
    random: new SeededRandom(8),
    options: defaultsOf(authorityOptions),
    caFolder: made.folder,
  };
  const authority = await Authority.open({ ...context, passphrase: passphrases.issuing });
  expect(authority.bundle()).toEqual(bench.authority.bundle());
  await expect(Authority.open({ ...context, passphrase: "wrong" })).rejects.toMatchObject({ code: "PASSPHRASE_WRONG" });
});

test("a leaf lives 5 minutes to 7 days; below 5 minutes only with allowSeconds, and never as the options say but the profile not", async () => {
  const open = async (options: object) => {
    const other = await openBench(made.ca, { options });
    const { answer } = await new TestWorkload(other.authority).enroll();
    await other.end();
    return (answer?.notAfterMs ?? 0) - (answer?.issuedAtMs ?? 0);
  };
  expect(await open({ leafLifetimeMs: 300_000 })).toBe(300_000);
  expect(await open({ leafLifetimeMs: 7 * day })).toBe(7 * day);
  expect(await open({ leafLifetimeMs: 5_000, allowSeconds: true })).toBe(5_000);
  for (const options of [
    { leafLifetimeMs: 299_999 },
    { leafLifetimeMs: 7 * day + 1 },
    { leafLifetimeMs: 4_999, allowSeconds: true },
    { controlLifetimeMs: 10_000 },
    { adminLifetimeMs: 91 * day },
  ]) {
    await expect(open(options)).rejects.toMatchObject({ code: "CONFIG_INVALID" });
  }
});

test("a leaf of 8 seconds is backdated by a quarter of its life", async () => {
  const other = await openBench(made.ca, { options: { leafLifetimeMs: 8_000, allowSeconds: true } });
  const { leaf } = await new TestWorkload(other.authority).enroll();
  expect(leaf.notBeforeMs).toBe(other.clock.wallMs() - 2_000);
  await other.end();
});

test("a leaf never outlives its issuer, and where it cannot live nothing is spent", async () => {
  const endMs = bench.authority.issuerNotAfterMs;
  bench.clock.setWall(endMs - 3_600_000);
  const workload = await new TestWorkload(bench.authority).enroll();
  expect(workload.leaf.notAfterMs).toBe(endMs);
  bench.clock.setWall(endMs - 4_000);
  expect(await workload.renew()).toMatchObject({ code: "ISSUER_EXPIRED" });
  expect(await bench.authority.issueControl()).toMatchObject({ code: "ISSUER_EXPIRED" });
  expect(await admin("ann")).toMatchObject({ code: "ISSUER_EXPIRED" });
  expect(await bench.store.leaf(workload.leaf.serial)).toMatchObject({ childSeen: null });
});

test("an expired issuer refuses an enrollment and leaves the token whole", async () => {
  const endMs = bench.authority.issuerNotAfterMs;
  bench.clock.setWall(endMs - 60_000);
  const { token, row } = granted(
    await bench.authority.createToken({ service: { service: "web", namespace: "default" }, by: "x" }),
  );
  bench.clock.setWall(endMs - 1_000);
  const answer = await bench.authority.enroll(new TestWorkload(bench.authority).enrollRequest(token), "x");
  expect(answer).toMatchObject({ code: "ISSUER_EXPIRED" });
  expect(await bench.store.token(row.id)).toMatchObject({ uses: 0 });
});

test("the control plane's certificate is of its own identity, with a fresh key and a higher generation each time", async () => {
  const first = granted(await bench.authority.issueControl());
  const second = granted(await bench.authority.issueControl());
  expect(first.id.text).toBe("spiffe://mesh.test/hauberk/control");
  expect(first.chain).toHaveLength(2);
  expect(first.chain[0]?.dnsNames).toEqual([]);
  expect(spkiOf(createPublicKey(first.key))).toEqual(first.chain[0]?.spki);
  expect(spkiOf(second.key)).not.toEqual(spkiOf(first.key));
  expect([first.generation, second.generation]).toEqual([1, 2]);
  const leaf = first.chain[0] as TestWorkload["leaf"];
  expect(await bench.authority.seen(leaf, "x")).toMatchObject({ is: "control" });
  expect(await bench.authority.renew(leaf, { csr: csrOf(generateKey()) }, "x")).toMatchObject({
    code: "NOT_A_WORKLOAD",
  });
});

test("an administrator is a row in the store and a certificate", async () => {
  const leaf = leafOf(granted(await admin("ann")));
  expect(leaf.uris).toEqual(["spiffe://mesh.test/admin/ann"]);
  expect(leaf.dnsNames).toEqual([]);
  expect(await bench.authority.adminOf(leaf)).toEqual({ name: "ann" });
  expect(await bench.authority.seen(leaf, "x")).toMatchObject({ is: "administrator", name: "ann" });
  expect(await bench.authority.listAdmins()).toMatchObject([{ name: "ann", by: "init", revokedAtMs: null }]);
  expect(await admin("Ann/..")).toMatchObject({ code: "GRANT_IMPOSSIBLE" });
});

test("a second certificate for a name is ADMINISTRATOR_EXISTS while the first lives, and replaces it when asked to", async () => {
  const first = leafOf(granted(await admin("ann")));
  expect(await admin("ann")).toMatchObject({ code: "ADMINISTRATOR_EXISTS" });
  const second = leafOf(granted(await admin("ann", { replace: true })));
  expect(await bench.authority.adminOf(first)).toMatchObject({ code: "NOT_AN_ADMINISTRATOR" });
  expect(await bench.authority.adminOf(second)).toEqual({ name: "ann" });
  bench.clock.advance(8 * day);
  expect(await bench.authority.adminOf(second)).toMatchObject({ code: "NOT_AN_ADMINISTRATOR" });
  granted(await admin("ann"));
});

test("an administrator renews with a fresh key from any live certificate, and twice from one", async () => {
  const leaf = leafOf(granted(await admin("ann")));
  const renew = (key = generateKey()) => bench.authority.renew(leaf, { csr: csrOf(key) }, "x");
  const child = leafOf(granted(await renew()));
  expect(child.uris).toEqual(["spiffe://mesh.test/admin/ann"]);
  expect(await bench.authority.adminOf(child)).toEqual({ name: "ann" });
  await bench.authority.seen(child, "x");
  granted(await renew());
});

test("a revoked administrator is none, with no certificate, and cannot renew", async () => {
  const leaf = leafOf(granted(await admin("ann")));
  expect(await bench.authority.revokeAdmin("ann", "admin/bob")).toBe(true);
  expect(await bench.authority.revokeAdmin("eve", "admin/bob")).toMatchObject({ code: "NOT_FOUND" });
  expect(await bench.authority.adminOf(leaf)).toMatchObject({ code: "NOT_AN_ADMINISTRATOR" });
  expect(isRefusal(await bench.authority.renew(leaf, { csr: csrOf(generateKey()) }, "x"))).toBe(true);
  expect(isRefusal(await bench.authority.seen(leaf, "x"))).toBe(true);
});

test("an administrator whose row is revoked is none, whatever became of the certificates", async () => {
  const leaf = leafOf(granted(await admin("ann")));
  await bench.store.write((tx) => tx.setAdminRevoked("ann", bench.clock.wallMs()));
  expect(await bench.authority.adminOf(leaf)).toMatchObject({ code: "NOT_AN_ADMINISTRATOR" });
  expect(await bench.authority.seen(leaf, "x")).toMatchObject({ code: "NOT_AN_ADMINISTRATOR" });
  expect(await bench.authority.renew(leaf, { csr: csrOf(generateKey()) }, "x")).toMatchObject({
    code: "NOT_AN_ADMINISTRATOR",
  });
});

test("a workload's and the control plane's certificates are no administrator's, nor is one with a borrowed serial", async () => {
  const workload = await new TestWorkload(bench.authority).enroll();
  const control = granted(await bench.authority.issueControl());
  const ann = leafOf(granted(await admin("ann")));
  for (const leaf of [
    workload.leaf,
    control.chain[0] as TestWorkload["leaf"],
    { ...workload.leaf, serial: ann.serial },
  ]) {
    expect(await bench.authority.adminOf(leaf)).toMatchObject({ code: "NOT_AN_ADMINISTRATOR" });
  }
});

test("the bundle has a sequence that grows exactly when the roots are others", async () => {
  expect(bench.authority.bundle()).toEqual({
    trustDomain: "mesh.test",
    sequence: 1,
    roots: made.ca.roots.map((root) => root.der.toString("base64")),
  });
  expect(bench.authority.rootsAnswer().roots).toEqual(bench.authority.bundle().roots);
  const { store, clock } = bench;
  const context = { store, clock, random: new SeededRandom(8), options: defaultsOf(authorityOptions) };
  expect((await Authority.over(made.ca, context)).bundle().sequence).toBe(1);
  const other = await makeTestCa();
  const roots = [...made.ca.roots, ...other.ca.roots];
  expect((await Authority.over({ ...made.ca, roots }, context)).bundle().sequence).toBe(2);
  expect((await Authority.over({ ...made.ca, roots: roots.toReversed() }, context)).bundle().sequence).toBe(2);
  other.remove();
});

test("addresses that are announced later go into tokens and answers", async () => {
  bench.authority.announce({ control: ["https://c:1"], enrollment: ["https://e:2"] });
  const { answer } = await new TestWorkload(bench.authority).enroll();
  expect(answer).toMatchObject({ controlUrls: ["https://c:1"], enrollmentUrls: ["https://e:2"] });
  bench.authority.announce(testUrls);
});

test("what is over for long is pruned, and an instance that may still recover is kept", async () => {
  const workload = await new TestWorkload(bench.authority).enroll();
  bench.clock.advance(60 * day);
  const limits = () => pruneLimits(defaultsOf(storageOptions), bench.clock.wallMs());
  expect(await bench.authority.prune(limits())).toMatchObject({ leaves: 1, tokens: 1, instances: 0 });
  granted(await bench.authority.recover(await workload.recoverRequest(), "x"));
  bench.clock.advance(92 * day);
  expect(await bench.authority.prune(limits())).toMatchObject({ leaves: 1, instances: 1 });
  expect(await bench.authority.listInstances()).toEqual([]);
  expect(await bench.authority.listLeaves({ owner: workload.instance })).toEqual([]);
});
