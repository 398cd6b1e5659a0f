import { createPublicKey } from "node:crypto";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import {
  csrOf,
  granted,
  leafOf,
  makeTestCa,
  openBench,
  TestWorkload,
  testUrls,
  type Bench,
} from "../../test/support/authority.ts";
import { isRefusal } from "../base/errors.ts";
import { fingerprintOf, readCertificate } from "../x509/certificate.ts";
import { writeCsr } from "../x509/csr.ts";
import { claimsUnverified, readCompact, signCompact } from "../x509/jws.ts";
import { generateKey, spkiOf } from "../x509/keys.ts";
import { verifyWorkload } from "../x509/verify.ts";

const service = { service: "orders", namespace: "default" };
let made: Awaited<ReturnType<typeof makeTestCa>>;
let bench: Bench;

beforeAll(async () => {
  made = await makeTestCa();
});
afterAll(() => made.remove());
beforeEach(async () => {
  bench = await openBench(made.ca);
});
afterEach(() => bench.end());

const newToken = async (more: object = {}) =>
  granted(await bench.authority.createToken({ service, by: "admin/ann", ...more }));
const lines = async () =>
  (await bench.authority.listAudit()).map((row) => JSON.parse(row.line) as Record<string, unknown>);

test("a token is a JWS by the token key with URLs, the SHA-256 of the root, the id and an expiry of 10 minutes, for one use", async () => {
  const { token, row } = await newToken();
  const claims = readCompact(token, createPublicKey(made.ca.tokenKey), 8_192);
  expect(claims).toEqual({
    jti: row.id,
    urls: testUrls.enrollment,
    roots: made.ca.roots.map((root) => fingerprintOf(root.der)),
    trustDomain: "mesh.test",
    sub: "spiffe://mesh.test/ns/default/sa/orders",
    exp: bench.clock.wallMs() / 1_000 + 600,
  });
  expect(row).toMatchObject({
    usesMax: 1,
    uses: 0,
    expiresAtMs: bench.clock.wallMs() + 600_000,
    identity: "spiffe://mesh.test/ns/default/sa/orders",
  });
  expect(await bench.authority.listTokens()).toEqual([row]);
});

test("the leaf's names come from the grant alone, and a stranger verifies it", async () => {
  const workload = await new TestWorkload(bench.authority).enroll();
  const { leaf, answer } = workload;
  const intermediate = granted(readCertificate(Buffer.from(answer?.chain[1] ?? "", "base64")));
  const roots = (answer?.roots ?? []).map((root) => granted(readCertificate(Buffer.from(root, "base64"))));
  const expected = "spiffe://mesh.test/ns/default/sa/orders";
  const atMs = bench.clock.wallMs();
  const peer = verifyWorkload({ chain: [leaf, intermediate], roots, trustDomain: "mesh.test", atMs, expect: expected });
  expect(isRefusal(peer)).toBe(false);
  expect(leaf.uris).toEqual([expected]);
  expect(leaf.dnsNames).toEqual(["orders.default.mesh"]);
  expect(leaf.spki).toEqual(spkiOf(workload.key));
  expect(answer).toMatchObject({
    controlUrls: testUrls.control,
    enrollmentUrls: testUrls.enrollment,
    bundleSequence: 1,
  });
});

test("the leaf lives 24 hours from issuance, is backdated by 60 seconds, and has a random serial of 16 octets", async () => {
  const first = await new TestWorkload(bench.authority).enroll();
  const second = await new TestWorkload(bench.authority).enroll();
  const atMs = bench.clock.wallMs();
  expect(first.answer).toMatchObject({ issuedAtMs: atMs, notAfterMs: atMs + 24 * 3_600_000 });
  expect(first.leaf).toMatchObject({ notBeforeMs: atMs - 60_000, notAfterMs: atMs + 24 * 3_600_000 });
  expect(first.leaf.serial).toMatch(/^[4-7][0-9a-f]{31}$/);
  expect(second.leaf.serial).not.toBe(first.leaf.serial);
});

test("of fifty sidecars racing with one token exactly one wins", async () => {
  const { token, row } = await newToken();
  const answers = await Promise.all(
    Array.from({ length: 50 }, () =>
      bench.authority.enroll(new TestWorkload(bench.authority).enrollRequest(token), "x"),
    ),
  );
  expect(answers.filter((answer) => !isRefusal(answer))).toHaveLength(1);
  expect(new Set(answers.filter(isRefusal).map(({ code }) => code))).toEqual(new Set(["TOKEN_ALREADY_USED"]));
  expect(await bench.authority.listLeaves()).toHaveLength(1);
  expect(await bench.authority.listInstances()).toHaveLength(1);
  expect(await bench.store.token(row.id)).toMatchObject({ uses: 1 });
});

test("the same token with the same key, until it expires, gets the same certificate again: a lost answer burns nothing", async () => {
  const { token } = await newToken();
  const workload = await new TestWorkload(bench.authority).enroll(token);
  bench.clock.advance(599_000);
  expect(await bench.authority.enroll(workload.enrollRequest(token), "x")).toEqual(workload.answer);
  expect(await bench.authority.listLeaves()).toHaveLength(1);
  bench.clock.advance(1_000);
  expect(await bench.authority.enroll(workload.enrollRequest(token), "x")).toMatchObject({ code: "TOKEN_EXPIRED" });
});

test("fifty repetitions of one request at once give one certificate, fifty times", async () => {
  const { token } = await newToken();
  const workload = new TestWorkload(bench.authority);
  const answers = await Promise.all(
    Array.from({ length: 50 }, () => bench.authority.enroll(workload.enrollRequest(token), "x")),
  );
  expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1);
  expect(await bench.authority.listLeaves()).toHaveLength(1);
});

test("a used token with another key gets TOKEN_ALREADY_USED, and so does the same key with another recovery key", async () => {
  const { token } = await newToken();
  const workload = await new TestWorkload(bench.authority).enroll(token);
  const other = new TestWorkload(bench.authority);
  expect(await bench.authority.enroll(other.enrollRequest(token), "x")).toMatchObject({ code: "TOKEN_ALREADY_USED" });
  other.key = workload.key;
  expect(await bench.authority.enroll(other.enrollRequest(token), "x")).toMatchObject({ code: "TOKEN_ALREADY_USED" });
});

test("a token of three uses enrolls three instances, each with its own key", async () => {
  const { token } = await newToken({ uses: 3 });
  const first = await new TestWorkload(bench.authority).enroll(token);
  await new TestWorkload(bench.authority).enroll(token);
  expect(await bench.authority.enroll(first.enrollRequest(token), "x")).toEqual(first.answer);
  await new TestWorkload(bench.authority).enroll(token);
  const fourth = await bench.authority.enroll(new TestWorkload(bench.authority).enrollRequest(token), "x");
  expect(fourth).toMatchObject({ code: "TOKEN_ALREADY_USED" });
  expect(new Set((await bench.authority.listInstances()).map(({ id }) => id)).size).toBe(3);
});

test("a key that has a certificate from another token is KEY_REUSED, and the token stays whole", async () => {
  const workload = await new TestWorkload(bench.authority).enroll();
  const { token, row } = await newToken();
  expect(await bench.authority.enroll(workload.enrollRequest(token), "x")).toMatchObject({ code: "KEY_REUSED" });
  expect(await bench.store.token(row.id)).toMatchObject({ uses: 0 });
});

test("an expired, a revoked and an unknown token are told apart, and enroll nobody", async () => {
  const expired = await newToken({ lifetimeMs: 1_000 });
  const revoked = await newToken();
  bench.clock.advance(1_000);
  expect(await bench.authority.revokeToken(revoked.row.id, "admin/ann")).toBe(true);
  expect(await bench.authority.revokeToken(revoked.row.id, "admin/ann")).toBe(true);
  expect(await bench.authority.revokeToken("none", "admin/ann")).toMatchObject({ code: "NOT_FOUND" });
  const codeOf = async (token: string) => {
    const answer = await bench.authority.enroll(new TestWorkload(bench.authority).enrollRequest(token), "x");
    return isRefusal(answer) ? answer.code : "issued";
  };
  expect(await codeOf(expired.token)).toBe("TOKEN_EXPIRED");
  expect(await codeOf(revoked.token)).toBe("TOKEN_REVOKED");
  expect(await codeOf(signCompact({ jti: "0".repeat(32) }, generateKey(), { typ: "hauberk-enrollment+jwt" }))).toBe(
    "TOKEN_UNKNOWN",
  );
  for (const noise of ["", "a.b.c", "x".repeat(9_000)]) expect(await codeOf(noise)).toBe("TOKEN_MALFORMED");
  expect(await bench.authority.listLeaves()).toEqual([]);
});

test("the grant is read from the row: a stolen token key mints nothing", async () => {
  const { row } = await newToken();
  const forge = (claims: object) => signCompact(claims, made.ca.tokenKey, { typ: "hauberk-enrollment+jwt" });
  const known = { urls: testUrls.enrollment, roots: [], trustDomain: "mesh.test", exp: 9_999_999_999 };
  const admin = "spiffe://mesh.test/admin/ann";
  const fromNothing = new TestWorkload(bench.authority);
  for (const jti of ["f".repeat(32), "", undefined, 7, "../x"]) {
    const token = forge({ ...known, jti, sub: admin });
    expect(await bench.authority.enroll(fromNothing.enrollRequest(token), "x")).toMatchObject({
      code: "TOKEN_UNKNOWN",
    });
  }
  // Over a row that exists it gives what the row grants, as often as the row grants it, and as long.
  const forged = forge({ ...known, jti: row.id, sub: admin, uses: 1_000 });
  const workload = await new TestWorkload(bench.authority).enroll(forged);
  expect(workload.leaf.uris).toEqual([row.identity]);
  const second = await bench.authority.enroll(new TestWorkload(bench.authority).enrollRequest(forged), "x");
  expect(second).toMatchObject({ code: "TOKEN_ALREADY_USED" });
  bench.clock.advance(600_000);
  expect(await bench.authority.enroll(workload.enrollRequest(forged), "x")).toMatchObject({ code: "TOKEN_EXPIRED" });
});

test("a compact JWS of another purpose by the token key is no token", async () => {
  const { row } = await newToken();
  const other = signCompact({ jti: row.id }, made.ca.tokenKey);
  const answer = await bench.authority.enroll(new TestWorkload(bench.authority).enrollRequest(other), "x");
  expect(answer).toMatchObject({ code: "TOKEN_MALFORMED" });
});

test("a bad request is refused before the token is spent", async () => {
  const { token, row } = await newToken();
  const workload = new TestWorkload(bench.authority);
  const good = workload.enrollRequest(token);
  const der = writeCsr(workload.key);
  der[der.length - 1] = (der[der.length - 1] as number) ^ 1;
  const cases: [object, string][] = [
    [{ csr: "AAAA" }, "CSR_MALFORMED"],
    [{ csr: "not base64!" }, "CSR_MALFORMED"],
    [{ csr: `${good.csr}\n` }, "CSR_MALFORMED"],
    [{ csr: "A".repeat(20_000) }, "CSR_MALFORMED"],
    [{ csr: der.toString("base64") }, "CSR_SIGNATURE_WRONG"],
    [{ recoveryKey: "" }, "CSR_KEY_REFUSED"],
    [{ recoveryKey: spkiOf(workload.key).toString("base64") }, "CSR_KEY_REFUSED"],
    [
      { recoveryKey: Buffer.concat([spkiOf(workload.key).subarray(0, 27), Buffer.alloc(64, 7)]).toString("base64") },
      "CSR_KEY_REFUSED",
    ],
    [{ csr: undefined }, "CSR_MALFORMED"],
  ];
  for (const [change, code] of cases) {
    expect(await bench.authority.enroll({ ...good, ...change }, "x")).toMatchObject({ code });
  }
  expect(await bench.store.token(row.id)).toMatchObject({ uses: 0 });
  expect(isRefusal(await bench.authority.enroll(good, "x"))).toBe(false);
});

test("no grant contains anything but a service", async () => {
  for (const bad of [
    { service: "../hauberk/control", namespace: "default" },
    { service: "orders", namespace: "Admin" },
    { service: "", namespace: "default" },
  ]) {
    expect(await bench.authority.createToken({ service: bad, by: "x" })).toMatchObject({ code: "GRANT_IMPOSSIBLE" });
  }
  // A row that somebody wrote into the database is not believed either.
  const { token, row } = await newToken();
  await bench.store.write((tx) =>
    tx.insertToken({ ...row, id: "e".repeat(32), identity: "spiffe://mesh.test/hauberk/control" }),
  );
  const forged = signCompact({ ...claimsUnverified(token), jti: "e".repeat(32) }, made.ca.tokenKey, {
    typ: "hauberk-enrollment+jwt",
  });
  const answer = await bench.authority.enroll(new TestWorkload(bench.authority).enrollRequest(forged), "x");
  expect(answer).toMatchObject({ code: "GRANT_IMPOSSIBLE" });
  expect(await bench.authority.listLeaves()).toEqual([]);
});

test("numbers out of range and bad URLs make no token", async () => {
  const wrong = [
    { uses: 0 },
    { uses: 1.5 },
    { uses: 10_001 },
    { lifetimeMs: 999 },
    { lifetimeMs: 31 * 86_400_000 },
    { urls: [] },
    { urls: ["http://x:1"] },
    { urls: ["https://x:1/path"] },
  ];
  for (const more of wrong) {
    expect(await bench.authority.createToken({ service, by: "x", ...more })).toMatchObject({ code: "USAGE" });
  }
  expect(await bench.authority.listTokens()).toEqual([]);
});

test("every decision of an enrollment is one audit line, of a refusal too, and none holds a secret", async () => {
  const { token, row } = await newToken();
  const workload = await new TestWorkload(bench.authority).enroll(token);
  await bench.authority.enroll(workload.enrollRequest(token), "10.0.0.2");
  await bench.authority.enroll(new TestWorkload(bench.authority).enrollRequest(token), "10.0.0.3");
  const identity = "spiffe://mesh.test/ns/default/sa/orders";
  const common = { what: "enroll", who: identity, token: row.id };
  expect(await lines()).toMatchObject([
    { what: "token-create", who: identity, verdict: "done", token: row.id },
    {
      ...common,
      from: "10.0.0.1",
      verdict: "issued",
      serial: workload.leaf.serial,
      parent: null,
      instance: workload.instance,
    },
    { ...common, from: "10.0.0.2", verdict: "repeated", serial: workload.leaf.serial },
    { ...common, from: "10.0.0.3", verdict: "refused", code: "TOKEN_ALREADY_USED" },
  ]);
  const text = JSON.stringify(await lines());
  for (const secret of [token, token.split(".")[2] ?? "", csrOf(workload.key)]) expect(text).not.toContain(secret);
});

test("a flood of refusals is counted, not written, and what was left out stands in the next line", async () => {
  const workload = new TestWorkload(bench.authority);
  for (let index = 0; index < 100; index++) await bench.authority.enroll(workload.enrollRequest("a.b.c"), "x");
  expect(await lines()).toHaveLength(40);
  bench.clock.advance(1_000);
  await bench.authority.enroll(workload.enrollRequest("a.b.c"), "x");
  expect((await lines()).at(-1)).toMatchObject({ refusalsOmitted: 60 });
});

test("when the store fails nobody is told of success, and the token is still good", async () => {
  const { token, row } = await newToken();
  const workload = new TestWorkload(bench.authority);
  const good = bench.store.write.bind(bench.store);
  bench.store.write = (work) =>
    good(async (tx) => {
      await work(tx);
      throw new Error("the disk is full");
    });
  await expect(bench.authority.enroll(workload.enrollRequest(token), "x")).rejects.toMatchObject({
    code: "STORE_FAILED",
  });
  bench.store.write = good;
  expect(await bench.store.token(row.id)).toMatchObject({ uses: 0 });
  expect(await bench.authority.listLeaves()).toEqual([]);
  expect(leafOf(granted(await bench.authority.enroll(workload.enrollRequest(token), "x"))).uris).toEqual([
    row.identity,
  ]);
});
