import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, onTestFinished, test } from "vitest";
import { FakeControl, type FakeControlWish } from "../../test/support/fake-control.ts";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { makeTestPki, type TestPki } from "../../test/support/pki.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { defaultsOf } from "../base/options.ts";
import { fingerprintOf } from "../x509/certificate.ts";
import { toPem } from "../x509/pem.ts";
import { silent, type LogFields } from "../telemetry/logger.ts";
import { identityOptions } from "./options.ts";
import { StateFolder } from "./state-folder.ts";
import { WorkloadIdentity } from "./workload-identity.ts";

const base = mkdtempSync(join(tmpdir(), "hauberk-enroll-"));
const clock = new ManualClock(Date.now());
const options = { ...defaultsOf(identityOptions), enrollWaitMs: 0 };
let pki: TestPki;
let other: TestPki;
const open: { control: FakeControl[]; folders: StateFolder[] } = { control: [], folders: [] };
let count = 0;

beforeAll(async () => {
  pki = await makeTestPki({ wallMs: Date.now() });
  other = await makeTestPki({ wallMs: Date.now() });
});
afterEach(async () => {
  for (const control of open.control.splice(0)) await control.end();
  for (const folder of open.folders.splice(0)) await folder.close();
});
afterAll(() => rmSync(base, { recursive: true }));

async function controlPlane(wish: Partial<FakeControlWish> = {}): Promise<FakeControl> {
  const control = await FakeControl.start({ pki, clock, ...wish });
  open.control.push(control);
  return control;
}

async function stateFolder(path = join(base, `s${count++}`)): Promise<StateFolder> {
  const folder = await StateFolder.open(path, { clock, log: silent });
  open.folders.push(folder);
  return folder;
}

function enrollWith(
  token: string | undefined,
  folder: StateFolder,
  expect?: { service: string; namespace: string },
): Promise<WorkloadIdentity> {
  const tokenSource = (): Promise<string | undefined> => Promise.resolve(token);
  return WorkloadIdentity.open({
    stateFolder: folder,
    tokenSource,
    clock,
    random: new SeededRandom(7),
    log: silent,
    options,
    expect,
  });
}

test("a token becomes an identity that is published and kept", async () => {
  const control = await controlPlane();
  const folder = await stateFolder();
  const identity = await enrollWith(`${control.token()}\n`, folder, { service: "orders", namespace: "default" });
  const now = identity.current.read();
  expect(now?.id.text).toBe("spiffe://mesh.local/ns/default/sa/orders");
  expect([identity.instance, now?.generation, now?.chain.length, now?.roots.length]).toEqual(["i1", 1, 2, 1]);
  expect(Object.isFrozen(now)).toBe(true);
  expect(readdirSync(folder.path).sort((a, b) => a.localeCompare(b))).toEqual([
    "chain.1.pem",
    "identity.json",
    "key.1.pem",
    "lock",
    "lock.pid",
    "recovery.json",
    "roots.1.pem",
  ]);
  expect(control.paths()).toEqual(["/v1/roots", "/v1/enroll"]);
});

test("the connection that fetches the roots carries no token and no key", async () => {
  const control = await controlPlane();
  const token = control.token();
  await enrollWith(token, await stateFolder());
  expect(control.asked[0]).toEqual({ path: "/v1/roots", body: "", clientSerial: undefined });
});

test("the private keys never leave the folder", async () => {
  const control = await controlPlane();
  const folder = await stateFolder();
  await enrollWith(control.token(), folder);
  const key = readFileSync(join(folder.path, "key.1.pem"), "utf8").split("\n")[3] as string;
  const recovery = (
    JSON.parse(readFileSync(join(folder.path, "recovery.json"), "utf8").split("\n")[1] as string) as { key: string }
  ).key;
  const sent = control.asked.map(({ body }) => body).join();
  expect(key.length).toBeGreaterThan(40);
  expect(sent).not.toContain(key);
  expect(sent).not.toContain(recovery.split("\n")[1]);
});

test("with an identity on disk the token is ignored and nobody is asked", async () => {
  const control = await controlPlane();
  const folder = await stateFolder();
  const first = await enrollWith(control.token(), folder);
  await folder.close();
  control.asked.length = 0;
  const second = await enrollWith("not even a token", await stateFolder(folder.path));
  expect(control.asked).toEqual([]);
  expect(second.current.read()?.chain[0]?.serial).toBe(first.current.read()?.chain[0]?.serial);
  expect(second.nextTryAtMs).toBeCloseTo(first.nextTryAtMs, -3); // The draw belongs to the certificate.
});

test("without an identity and without a token it says TOKEN_NEEDED", async () => {
  await expect(enrollWith(undefined, await stateFolder())).rejects.toMatchObject({ code: "TOKEN_NEEDED" });
});

test("a man in the middle with a root of his own gets ROOT_NOT_PINNED, and the token does not leave", async () => {
  const evil = await controlPlane({ pki: other });
  const token = evil.token({ roots: [fingerprintOf(pki.root.der)] });
  await expect(enrollWith(token, await stateFolder())).rejects.toMatchObject({ code: "ROOT_NOT_PINNED" });
  expect(evil.paths()).toEqual(["/v1/roots"]);
});

test("a man in the middle that adds his root beside the right one is not believed, and the token does not leave", async () => {
  const evil = await controlPlane({ pki: other, rootsShown: [other.root, pki.root] });
  const token = evil.token({ roots: [fingerprintOf(pki.root.der)] });
  // His certificate ends in a root that was dropped, so TLS itself fails.
  await expect(enrollWith(token, await stateFolder())).rejects.toMatchObject({ code: "CONTROL_NOT_PROVEN" });
  expect(evil.paths()).toEqual(["/v1/roots"]);
  expect(evil.asked.map(({ body }) => body).join()).not.toContain(token);
});

test("a workload's own certificate is not the control plane's, and the token does not leave", async () => {
  for (const id of ["spiffe://mesh.local/ns/default/sa/web", "spiffe://mesh.local/admin/eve"]) {
    const evil = await controlPlane({ shows: pki.issue(id) });
    await expect(enrollWith(evil.token(), await stateFolder())).rejects.toMatchObject({ code: "CONTROL_NOT_PROVEN" });
    expect(evil.paths()).toEqual(["/v1/roots"]);
  }
});

test("the next address is tried after one that is dead, wrong or not proven", async () => {
  const dead = await controlPlane();
  await dead.end();
  const evil = await controlPlane({ shows: pki.issue("spiffe://mesh.local/ns/default/sa/web") });
  const foreign = await controlPlane({ pki: other });
  const good = await controlPlane();
  const urls = [dead, evil, foreign, good].map(({ enrollmentUrl }) => enrollmentUrl);
  const identity = await enrollWith(good.token({ urls }), await stateFolder());
  expect(identity.current.read()).toBeDefined();
  expect([evil.paths(), foreign.paths()]).toEqual([["/v1/roots"], []]);
});

test("an answer with another identity, another key, a foreign chain or an ended leaf is never published or kept", async () => {
  const now = Date.now();
  const strangers = {
    identity: pki.issue("spiffe://mesh.local/ns/default/sa/web").chain,
    key: pki.issue("spiffe://mesh.local/ns/default/sa/orders").chain,
    chain: other.issue("spiffe://mesh.local/ns/default/sa/orders").chain,
    ended: pki.issue("spiffe://mesh.local/ns/default/sa/orders", {
      notBeforeMs: now - 9_000_000,
      notAfterMs: now - 60_000,
    }).chain,
  };
  for (const [what, chain] of Object.entries(strangers)) {
    const control = await controlPlane();
    control.spoil = (answer) => ({ ...answer, chain: chain.map((certificate) => certificate.der.toString("base64")) });
    const folder = await stateFolder();
    const opened = enrollWith(control.token(), folder);
    await expect(opened, what).rejects.toMatchObject({ code: expect.stringMatching(/^PEER_/) as unknown });
    expect(readdirSync(folder.path)).not.toContain("identity.json");
  }
});

test("a refusal of the control plane is passed on as it is", async () => {
  const control = await controlPlane();
  control.refusals.set("/v1/enroll", "TOKEN_ALREADY_USED");
  const folder = await stateFolder();
  await expect(enrollWith(control.token(), folder)).rejects.toMatchObject({
    code: "TOKEN_ALREADY_USED",
    hint: "Do otherwise",
  });
  // Nothing comes of a token that was refused, nor of the keys that were made for it.
  expect(readdirSync(folder.path)).not.toContain("enrolling.json");
});

test("before a control plane has shown a root that the token names, nothing is kept", async () => {
  const control = await controlPlane();
  await control.end();
  const folder = await stateFolder();
  const { port } = new URL(control.enrollmentUrl);
  const urls = [control.enrollmentUrl, `https://127.0.0.2:${port}`];
  await expect(enrollWith(control.token({ urls }), folder)).rejects.toMatchObject({
    code: "CONTROL_UNREACHABLE",
    message: `Cannot reach the control plane at any address of the token: ${urls[0]}: nothing listens there; ${urls[1]}: nothing listens there`,
    hint: expect.stringContaining("addresses.advertise") as unknown,
  });
  expect(readdirSync(folder.path).toSorted()).toEqual(["lock", "lock.pid"]);
});

test("whoever waits for a control plane that does not answer is told so within seconds, and then every ten, with the address", async () => {
  const held: Socket[] = [];
  const silence = createServer((socket) => void held.push(socket.on("error", () => undefined)));
  await new Promise<void>((resolve) => void silence.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    for (const socket of held) socket.destroy();
    silence.close();
  });
  const url = `https://127.0.0.1:${(silence.address() as AddressInfo).port}`;
  const own = new ManualClock(clock.wallMs());
  const beganMs = own.monotonicMs();
  const told: { atMs: number; fields: LogFields | undefined }[] = [];
  const warn = (_message: string, fields?: LogFields): void =>
    void told.push({ atMs: own.monotonicMs() - beganMs, fields });
  const control = await controlPlane();
  const over: unknown[] = [];
  WorkloadIdentity.open({
    stateFolder: await stateFolder(),
    tokenSource: () => Promise.resolve(control.token({ urls: [url, url] })),
    clock: own,
    random: new SeededRandom(7),
    log: { ...silent, warn },
    options: { ...options, enrollWaitMs: 60_000 },
  }).catch((thrown: unknown) => over.push(thrown));
  while (over.length === 0) {
    await new Promise((resolve) => setImmediate(resolve));
    // Not while the disk is waited for, which takes its own time.
    if (own.waiting > 0) own.advance(10);
  }
  expect(over[0]).toMatchObject({ code: "CONTROL_UNREACHABLE" });
  expect(own.monotonicMs() - beganMs).toBeLessThan(75_000);
  expect(told[0]?.atMs).toBeLessThanOrEqual(4_000);
  expect(told[0]?.fields).toMatchObject({
    because: `Cannot fetch the roots from ${url}: no connection within 3000 ms`,
    hint: expect.stringContaining("can be reached from here") as unknown,
    waitsForMs: expect.any(Number) as unknown,
  });
  const gaps = told.slice(1).map(({ atMs }, index) => atMs - (told[index]?.atMs ?? 0));
  expect(gaps.length).toBeGreaterThanOrEqual(3);
  expect(gaps.filter((gapMs) => gapMs < 10_000)).toEqual([]);
});

test.each(["drop", "RATE_LIMITED", "STORE_FAILED"] as const)(
  "a token is worth waiting for where the control plane says %s at first, as it does while a whole rack boots",
  async (told) => {
    const control = await controlPlane();
    control.refusals.set("/v1/enroll", told);
    const waits = Promise.withResolvers<void>();
    const opened = WorkloadIdentity.open({
      stateFolder: await stateFolder(),
      tokenSource: () => Promise.resolve(control.token()),
      clock,
      random: new SeededRandom(7),
      log: { ...silent, warn: () => waits.resolve() },
      options: { ...options, enrollWaitMs: 60_000 },
    });
    await Promise.race([waits.promise, opened]);
    control.refusals.clear();
    clock.advance(1_000);
    expect((await opened).current.read()).toBeDefined();
  },
);

test("after a lost answer the same token is sent with the same keys, also by the next process", async () => {
  const control = await controlPlane();
  control.refusals.set("/v1/enroll", "drop");
  const token = control.token();
  const folder = await stateFolder();
  await expect(enrollWith(token, folder)).rejects.toMatchObject({ code: "CONTROL_UNREACHABLE" });
  await folder.close();
  control.refusals.clear();
  await enrollWith(token, await stateFolder(folder.path));
  const sent = control.asked
    .filter(({ path }) => path === "/v1/enroll")
    .map(({ body }) => JSON.parse(body) as { csr: string; recoveryKey: string });
  const spkiOf = (csr: string): string =>
    Buffer.from(csr, "base64")
      .toString("hex")
      .match(/03010703420004([0-9a-f]{128})/)?.[1] ?? csr;
  expect(sent).toHaveLength(2);
  expect(spkiOf(sent[1]?.csr ?? "")).toBe(spkiOf(sent[0]?.csr ?? "?"));
  expect(sent[1]?.recoveryKey).toBe(sent[0]?.recoveryKey);
});

test("a token for another service is refused before anybody is asked", async () => {
  const control = await controlPlane();
  await expect(
    enrollWith(control.token(), await stateFolder(), { service: "web", namespace: "default" }),
  ).rejects.toMatchObject({ code: "USAGE" });
  expect(control.asked).toEqual([]);
});

test("a state folder of another service is refused", async () => {
  const control = await controlPlane();
  const folder = await stateFolder();
  await enrollWith(control.token(), folder);
  await expect(enrollWith(undefined, folder, { service: "web", namespace: "default" })).rejects.toMatchObject({
    code: "USAGE",
  });
});

test("a token that is cut, empty or names no root is TOKEN_MALFORMED", async () => {
  const control = await controlPlane();
  const tokens = [
    control.token().slice(0, 90),
    "",
    control.token({ roots: [] }),
    control.token({ urls: ["http://x:1"] }),
    control.token({ sub: "spiffe://other/ns/a/sa/b" }),
  ];
  for (const token of tokens) {
    await expect(enrollWith(token, await stateFolder())).rejects.toMatchObject({
      code: expect.stringMatching(/TOKEN_(MALFORMED|NEEDED)/) as unknown,
    });
  }
  expect(control.asked).toEqual([]);
});

test("a damaged set on disk is set aside, and the recovery key brings a new certificate without a token", async () => {
  const control = await controlPlane();
  for (const name of ["identity.json", "key.1.pem", "chain.1.pem", "roots.1.pem"]) {
    const folder = await stateFolder();
    await enrollWith(control.token(), folder);
    await folder.close();
    const file = join(folder.path, name);
    const text = readFileSync(file, "utf8");
    writeFileSync(file, text.slice(0, text.length / 2));
    const again = await enrollWith(undefined, await stateFolder(folder.path));
    expect([name, again.current.read()?.id.text]).toEqual([name, control.id]);
    expect(control.paths().at(-1)).toBe("/v1/recover");
    expect(readdirSync(folder.path).some((entry) => entry.includes(".damaged-"))).toBe(true);
  }
});

test("files of two generations that were mixed are noticed", async () => {
  const control = await controlPlane();
  const [one, two] = [await stateFolder(), await stateFolder()];
  await enrollWith(control.token(), one);
  await enrollWith(control.token(), two);
  await two.close();
  writeFileSync(join(two.path, "key.1.pem"), readFileSync(join(one.path, "key.1.pem")));
  const again = await enrollWith(undefined, await stateFolder(two.path));
  expect(control.paths().at(-1)).toBe("/v1/recover");
  expect(again.current.read()).toBeDefined();
});

test("an answer for another identity than the granted one is refused, although it carries the own key", async () => {
  const control = await controlPlane();
  const token = control.token();
  control.id = "spiffe://mesh.local/ns/default/sa/ledger";
  const folder = await stateFolder();
  await expect(enrollWith(token, folder)).rejects.toMatchObject({ code: "PEER_NOT_THE_SERVICE" });
  expect(readdirSync(folder.path)).not.toContain("identity.json");
});

test("an answer that brings a root of its own with it is refused, because the token does not name that root", async () => {
  const control = await controlPlane();
  control.signs = other;
  await expect(enrollWith(control.token(), await stateFolder())).rejects.toMatchObject({ code: "PEER_UNTRUSTED" });
});

test("roots that are whole but not those of this identity are noticed", async () => {
  const control = await controlPlane();
  const folder = await stateFolder();
  await enrollWith(control.token(), folder);
  const roots = (await folder.read("roots.1.pem")) ?? "";
  await folder.write("roots.1.pem", `${roots}${toPem("CERTIFICATE", other.root.der)}`);
  const again = await enrollWith(undefined, folder);
  expect(control.paths().at(-1)).toBe("/v1/recover");
  expect(again.current.read()?.roots).toHaveLength(1);
});
