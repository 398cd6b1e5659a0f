import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { FakeControl } from "../../test/support/fake-control.ts";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { makeTestPki, type TestPki } from "../../test/support/pki.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { defaultsOf } from "../base/options.ts";
import { silent, type LogFields } from "../telemetry/logger.ts";
import { Metrics } from "../telemetry/metrics.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import type { Down } from "../contract/watch.ts";
import { openWatch } from "./control-client.ts";
import { identityOptions } from "./options.ts";
import { StateFolder } from "./state-folder.ts";
import { WorkloadIdentity } from "./workload-identity.ts";

const hour = 3_600_000;
const base = mkdtempSync(join(tmpdir(), "hauberk-renew-"));
const options = { ...defaultsOf(identityOptions), enrollWaitMs: 0 };
let pki: TestPki;
let count = 0;
const ends: (() => Promise<void>)[] = [];

beforeAll(async () => {
  pki = await makeTestPki({ wallMs: Date.now() });
});
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});
afterAll(() => rmSync(base, { recursive: true }));

interface Set {
  readonly clock: ManualClock;
  readonly control: FakeControl;
  readonly folder: StateFolder;
  readonly identity: WorkloadIdentity;
  readonly logged: { level: string; message: string; fields: LogFields | undefined }[];
  readonly metrics: Metrics;
  token: string | undefined;
  /** Opens the same folder as a new process would. */
  reopen(): Promise<WorkloadIdentity>;
}

async function setUp(lifetimeMs = 24 * hour): Promise<Set> {
  const clock = new ManualClock(Date.now());
  const control = await FakeControl.start({ pki, clock, lifetimeMs });
  const path = join(base, `s${count++}`);
  const logged: Set["logged"] = [];
  const at = (level: string) => (message: string, fields?: LogFields) => void logged.push({ level, message, fields });
  const log = { ...silent, info: at("info"), warn: at("warn"), error: at("error") };
  const metrics = new Metrics();
  const begin = async (): Promise<{ folder: StateFolder; identity: WorkloadIdentity }> => {
    const folder = await StateFolder.open(path, { clock, log });
    const tokenSource = (): Promise<string | undefined> => Promise.resolve(set.token);
    const identity = await WorkloadIdentity.open({
      stateFolder: folder,
      tokenSource,
      clock,
      random: new SeededRandom(count),
      log,
      options,
      metrics,
    });
    identity.start();
    ends.push(async () => {
      await identity.stop();
      await folder.close();
    });
    return { folder, identity };
  };
  ends.push(() => control.end());
  const set = { clock, control, logged, metrics, token: control.token() as string | undefined } as Set;
  const first = await begin();
  return Object.assign(set, first, {
    reopen: async () => {
      for (const end of ends.splice(1)) await end();
      return (await begin()).identity;
    },
  });
}

/** Moves the clock to the next try and waits until it has ended. */
async function nextTry({ clock, identity }: Pick<Set, "clock" | "identity">): Promise<void> {
  clock.advance(Math.max(0, Math.ceil(identity.nextTryAtMs - clock.wallMs())));
  await identity.renewNow();
}

const serialOf = (identity: WorkloadIdentity): string | undefined => identity.current.read()?.chain[0]?.serial;

test("at the drawn moment a certificate with a fresh key is published, after the disk has it", async () => {
  const set = await setUp();
  const before = set.identity.current.read() as TlsIdentity;
  const lifeMs = before.notAfterMs - before.issuedAtMs;
  expect(set.identity.nextTryAtMs).toBeGreaterThanOrEqual(before.issuedAtMs + lifeMs * 0.5);
  expect(set.identity.nextTryAtMs).toBeLessThan(before.issuedAtMs + lifeMs * 0.75);
  let onDisk: string[] = [];
  set.identity.current.subscribe(() => (onDisk = readdirSync(set.folder.path)));
  await nextTry(set);
  const after = set.identity.current.read() as TlsIdentity;
  expect(after.generation).toBe(2);
  expect(after.chain[0]?.spki.equals(before.chain[0]?.spki ?? Buffer.alloc(0))).toBe(false);
  expect(onDisk).toContain("key.2.pem");
  expect(onDisk).not.toContain("key.1.pem");
  expect(set.control.asked.at(-1)).toMatchObject({
    path: "/v1/renew",
    clientSerial: before.chain[0]?.serial.toUpperCase(),
  });
  expect(set.metrics.renderPrometheus()).toContain('hauberk_certificate_renewals_total{result="renewed"} 1');
});

test("it renews again and again, each time from the certificate before", async () => {
  const set = await setUp();
  for (let i = 0; i < 4; i++) await nextTry(set);
  expect(set.control.paths().filter((path) => path === "/v1/renew")).toHaveLength(4);
  const shown = set.control.asked
    .filter(({ path }) => path === "/v1/renew")
    .map(({ clientSerial }) => clientSerial?.toLowerCase());
  expect(shown).toEqual(set.control.issuedSerials.slice(0, 4));
});

test("while the control plane is away the certificate stays, tries go on once per window, and its return ends them", async () => {
  const set = await setUp();
  const before = serialOf(set.identity);
  await set.control.end();
  const tried: number[] = [];
  for (let i = 0; i < 5; i++) {
    tried.push(set.identity.nextTryAtMs);
    await nextTry(set);
    expect(serialOf(set.identity)).toBe(before);
  }
  const gaps = tried.slice(1).map((atMs, i) => atMs - (tried[i] as number));
  expect(Math.max(...gaps)).toBeLessThanOrEqual(60_000);
  await set.control.listen();
  await nextTry(set);
  expect(serialOf(set.identity)).not.toBe(before);
});

test("a lock and a clone are logged loudly and asked about slowly; the certificate stays in use to its end", async () => {
  for (const code of ["INSTANCE_LOCKED", "CLONE_DETECTED"] as const) {
    const set = await setUp();
    const before = serialOf(set.identity);
    set.control.refusals.set("/v1/renew", code);
    await nextTry(set);
    expect(serialOf(set.identity)).toBe(before);
    expect(set.logged.filter(({ level }) => level === "error").map(({ fields }) => fields?.["code"])).toEqual([code]);
    expect(set.identity.nextTryAtMs - set.clock.wallMs()).toBeGreaterThanOrEqual(options.lockedRetryMs * 0.75);
  }
});

test("an answer that a stranger would not believe is not taken, and the old certificate stays", async () => {
  const set = await setUp();
  const before = serialOf(set.identity);
  const stranger = pki.issue(set.control.id);
  set.control.spoil = (answer) => ({ ...answer, chain: stranger.chain.map(({ der }) => der.toString("base64")) });
  await nextTry(set);
  expect(serialOf(set.identity)).toBe(before);
  set.control.spoil = (answer) => answer;
  await nextTry(set);
  expect(serialOf(set.identity)).not.toBe(before);
});

test("after sleeping past its end nothing is published, and the recovery key brings a new one without a human", async () => {
  const set = await setUp();
  set.token = undefined;
  set.control.refusals.set("/v1/recover/challenge", "drop");
  await set.control.end();
  for (let i = 0; i < 6; i++) await nextTry(set);
  set.clock.setWall(set.clock.wallMs() + 100 * hour);
  const gone = new Promise((resolve) => set.identity.current.subscribe(resolve));
  set.clock.advance(30_000); // The coarse tick notices.
  expect(await gone).toBeUndefined();
  await set.identity.renewNow();
  expect(set.identity.nextTryAtMs - set.clock.wallMs()).toBeLessThanOrEqual(1_000); // However often it failed before.
  expect(set.identity.current.read()).toBeUndefined();
  await set.control.listen();
  set.control.refusals.clear();
  const back = set.identity.ready();
  await nextTry(set);
  expect((await back).id.text).toBe(set.control.id);
  expect(set.control.paths().slice(-2)).toEqual(["/v1/recover/challenge", "/v1/recover"]);
});

test("a bug in who hears that the certificate has ended keeps no new one from coming", async () => {
  const set = await setUp();
  let throws = true;
  set.identity.current.subscribe(() => {
    if (throws) throw new Error("a bug");
  });
  set.clock.setWall(set.clock.wallMs() + 100 * hour);
  expect(() => set.clock.advance(30_000)).not.toThrow();
  expect(set.identity.current.read()).toBeUndefined();
  expect(set.logged.filter(({ fields }) => fields?.["code"] === "BUG")).toHaveLength(1);
  throws = false;
  const back = set.identity.ready();
  await nextTry(set);
  expect((await back).id.text).toBe(set.control.id);
});

test("a wall clock that jumped ahead by mistake and back finds its certificate again", async () => {
  const set = await setUp();
  const before = serialOf(set.identity);
  await set.control.end();
  const right = set.clock.wallMs();
  set.clock.setWall(right + 48 * hour);
  set.clock.advance(30_000);
  expect(set.identity.current.read()).toBeUndefined();
  set.clock.setWall(right);
  await set.identity.renewNow();
  set.clock.advance(30_000);
  expect(serialOf(set.identity)).toBe(before);
});

test("a wall clock that was set back is named as what it is, not as a certificate that ended", async () => {
  const set = await setUp();
  const right = set.clock.wallMs();
  set.clock.setWall(right - 48 * hour);
  set.clock.advance(30_000);
  expect(set.identity.current.read()).toBeUndefined();
  const [said] = set.logged.filter(({ level }) => level === "error");
  expect(said?.message).toMatch(/^the certificate has not begun by this machine's clock/);
  set.clock.setWall(right);
  set.clock.advance(30_000);
  expect(set.identity.current.read()).toBeDefined();
});

test("a process that starts after its certificate ended is back by itself, at once where the control plane is there", async () => {
  const set = await setUp();
  set.token = undefined;
  await set.identity.stop();
  set.clock.setWall(set.clock.wallMs() + 100 * hour);
  const identity = await set.reopen();
  expect(identity.current.read()?.id.text).toBe(set.control.id);
});

test("a process that starts after its certificate ended, with nobody there, is not lost: it comes back later", async () => {
  const set = await setUp();
  set.token = undefined;
  await set.control.end();
  await set.identity.stop();
  set.clock.setWall(set.clock.wallMs() + 100 * hour);
  const identity = await set.reopen();
  expect(identity.current.read()).toBeUndefined();
  await set.control.listen();
  await nextTry({ clock: set.clock, identity });
  expect(identity.current.read()).toBeDefined();
});

test("where recovery is refused for good a new token at hand is used", async () => {
  const set = await setUp();
  set.control.refusals.set("/v1/recover/challenge", "RECOVERY_DISABLED");
  set.clock.setWall(set.clock.wallMs() + 100 * hour);
  set.token = set.control.token();
  set.clock.advance(30_000);
  await set.identity.renewNow();
  expect(set.identity.current.read()).toBeDefined();
  expect(set.control.paths().at(-1)).toBe("/v1/enroll");
});

test("a leaf that the control plane does not know any more is replaced by means of the recovery key", async () => {
  const set = await setUp();
  const before = serialOf(set.identity);
  set.control.refusals.set("/v1/renew", "LEAF_UNKNOWN");
  await nextTry(set);
  expect(serialOf(set.identity)).not.toBe(before);
  expect(set.control.paths().at(-1)).toBe("/v1/recover");
});

test("at lifetimes of five seconds the certificate is renewed in time as well", async () => {
  const set = await setUp(5_000);
  for (let i = 0; i < 3; i++) {
    const { notAfterMs } = set.identity.current.read() as TlsIdentity;
    await nextTry(set);
    expect(set.clock.wallMs()).toBeLessThan(notAfterMs - 1_000);
  }
  expect(set.identity.current.read()?.generation).toBe(4);
});

test("a newer bundle is taken, an older one changes nothing, and one that makes a stranger of us is refused", async () => {
  const set = await setUp();
  const second = await makeTestPki({ wallMs: Date.now() });
  const bundle = (sequence: number, roots: readonly TestPki[]) => ({
    trustDomain: "mesh.local",
    sequence,
    roots: roots.map(({ root }) => root.der.toString("base64")),
  });
  expect(set.identity.adopt(bundle(2, [pki, second]))).toBe(true);
  expect(set.identity.current.read()).toMatchObject({ bundleSequence: 2, generation: 2 });
  expect(set.identity.current.read()?.roots).toHaveLength(2);
  expect(set.identity.adopt(bundle(1, [pki]))).toBe(true);
  expect(set.identity.current.read()?.roots).toHaveLength(2);
  expect(set.identity.adopt(bundle(3, [second]))).toMatchObject({ code: "PEER_UNTRUSTED" });
  await nextTry(set); // An answer with the older bundle does not bring it back.
  expect(set.identity.current.read()).toMatchObject({ bundleSequence: 2 });
  const again = await set.reopen();
  expect(again.current.read()?.roots).toHaveLength(2);
});

test("a bundle that comes while a new certificate is being kept loses neither of them, here and on disk", async () => {
  const set = await setUp();
  const before = serialOf(set.identity);
  const second = await makeTestPki({ wallMs: Date.now() });
  const roots = [pki, second].map(({ root }) => root.der.toString("base64"));
  const write = set.folder.write.bind(set.folder);
  set.folder.write = (name, body) => {
    if (name === "chain.2.pem")
      expect(set.identity.adopt({ trustDomain: "mesh.local", sequence: 2, roots })).toBe(true);
    return write(name, body);
  };
  await nextTry(set);
  const serial = serialOf(set.identity);
  expect(serial).not.toBe(before);
  expect(set.identity.current.read()).toMatchObject({ bundleSequence: 2 });
  // The one before it would be taken for a clone's at its next renewal.
  const again = await set.reopen();
  expect(serialOf(again)).toBe(serial);
  expect(again.current.read()).toMatchObject({ bundleSequence: 2 });
});

test("a watch carries messages both ways, and its end is told once", async () => {
  const set = await setUp();
  const heard: string[] = [];
  const got = Promise.withResolvers<void>();
  set.control.watch = (request, response) => {
    response.writeHead(200).flushHeaders();
    request.on("data", (chunk: Buffer) => {
      heard.push(...chunk.toString("utf8").trim().split("\n"));
      if (heard.length === 1) response.write('{"type":"ping","number":1,"wallMs":5}\n{"type":"ping",');
      if (heard.length === 1) response.write('"number":2,"wallMs":6}\n');
      if (heard.length === 2) response.end();
    });
  };
  const down: Down[] = [];
  const closed: string[] = [];
  const stream = await set.identity.openWatch(set.identity.current.read() as TlsIdentity, {
    down: (message) => {
      down.push(message);
      if (down.length === 2) stream.send({ type: "pong", number: 2 });
    },
    closed: (because) => {
      closed.push(because);
      got.resolve();
    },
  });
  stream.send({ type: "subscribe", service: "web.default" });
  await got.promise;
  expect(stream.localAddress).toBe("127.0.0.1");
  expect(down.map((message) => message.type === "ping" && message.number)).toEqual([1, 2]);
  expect(heard.map((line) => (JSON.parse(line) as { type: string }).type)).toEqual(["subscribe", "pong"]);
  expect(closed).toHaveLength(1);
  stream.send({ type: "pong", number: 3 });
  expect(set.control.asked.at(-1)?.clientSerial?.toLowerCase()).toBe(serialOf(set.identity));
});

test("a watch that sends what is no message is ended, and one that is refused says why", async () => {
  const set = await setUp();
  const current = set.identity.current.read() as TlsIdentity;
  set.control.watch = (_request, response) =>
    response.writeHead(403).end('{"code":"INSTANCE_LOCKED","message":"Cannot: locked","hint":"Unlock"}');
  const events = { down: () => undefined, closed: () => undefined };
  await expect(set.identity.openWatch(current, events)).rejects.toMatchObject({ code: "INSTANCE_LOCKED" });
  set.control.watch = (_request, response) => void response.writeHead(200).write("{nonsense}\n");
  const because = await new Promise<string>((resolve) => {
    void set.identity.openWatch(current, { down: () => undefined, closed: resolve });
  });
  expect(because).toContain("Cannot read");
});

test("a control plane of another root is not out of reach: it is not trusted, and shown nothing", async () => {
  const set = await setUp();
  const other = await makeTestPki({ wallMs: Date.now() });
  const { meshUrl } = set.control;
  await set.control.end();
  const stranger = await FakeControl.start({ pki: other, clock: set.clock });
  ends.push(() => stranger.end());
  const current = set.identity.current.read() as TlsIdentity;
  const context = { clock: set.clock, options };
  const access = { urls: [meshUrl, stranger.meshUrl], roots: current.roots, trustDomain: "mesh.local" };
  const events = { down: () => undefined, closed: () => undefined };
  const opened = openWatch({ ...access, identity: current }, events, context);
  await expect(opened).rejects.toMatchObject({
    code: "CONTROL_NOT_PROVEN",
    message: expect.stringContaining("its certificate comes from a root that is none of this mesh"),
    hint: expect.stringContaining("where the mesh was made anew"),
  });
  // Whoever is asked last and does not answer hides nothing of it.
  const turned = { ...access, urls: access.urls.toReversed(), identity: current };
  await expect(openWatch(turned, events, context)).rejects.toMatchObject({ code: "CONTROL_NOT_PROVEN" });
  expect(stranger.asked).toEqual([]);
});

test("closing a watch says goodbye first and tells nobody", async () => {
  const set = await setUp();
  const done = Promise.withResolvers<string>();
  set.control.watch = (request, response) => {
    response.writeHead(200).flushHeaders();
    let text = "";
    request.on("data", (chunk: Buffer) => (text += chunk.toString("utf8")));
    request.once("end", () => done.resolve(text));
  };
  const stream = await set.identity.openWatch(set.identity.current.read() as TlsIdentity, {
    down: () => undefined,
    closed: () => expect.unreachable(),
  });
  stream.send({ type: "register", registration: null });
  stream.close("the sidecar stops");
  expect(await done.promise).toBe('{"type":"register","registration":null}\n');
});
