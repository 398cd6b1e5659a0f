import { readFileSync } from "node:fs";
import { join } from "node:path";
import { connect, type TLSSocket } from "node:tls";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ask, eventually, Mesh, metricsOf, sumOf, type Started } from "../support/mesh.ts";
import {
  allow,
  applyText,
  exportIdentity,
  freePort,
  hear,
  openRoutee,
  recordTls,
  speakTls,
  type ClientIdentity,
  type Routee,
  type Spoken,
} from "./routees.ts";
import { signIdentity } from "./stranger.ts";

const leafMs = 8_000;
const emptySettings = "\0\0\0\x04\0\0\0\0\0";
const webId = "spiffe://mesh.local/ns/default/sa/web";

let routee: Routee;
/** Its leaves live for a day: in it only what a test signs ends. */
let calm: Fleet;
/** Its leaves live for seconds. */
let brief: Fleet;

interface Fleet {
  readonly mesh: Mesh;
  readonly control: Started;
  readonly web: Started;
  readonly orders: Started;
}

beforeAll(async () => {
  // One path never ends its answer: what is under way does not keep a connection alive either.
  routee = await openRoutee({
    answer: (seen, response) => {
      if (seen.path === "/endless") response.write("it begins\n");
      else response.end("ok");
    },
  });
  [calm, brief] = await Promise.all([
    startFleet(""),
    startFleet(`lifetimes: { leaf: ${leafMs / 1000}s, allowSeconds: true }`),
  ]);
});

afterAll(async () => {
  await Promise.all([calm.mesh.end(), brief.mesh.end()]);
  await routee.close();
});

test.concurrent("a connection never outlives the identity at either end of it: its caller's", async () => {
  const caller = signIdentity(calm.mesh, webId, 5_000);
  const said = await sayAll(Number(calm.orders.ready["inbound"]), caller);
  for (const { endedAtMs } of said) {
    expect(endedAtMs).toBeLessThanOrEqual(caller.notAfterMs);
    // And not at the first occasion either: until then it was good.
    expect(endedAtMs).toBeGreaterThan(caller.notAfterMs - 3_000);
  }
  // With the certificate that has ended there is no new one.
  await eventually("the certificate ends", leafMs, () => Date.now() > caller.notAfterMs + 1_000 || undefined);
  const again = await speakTls({ port: Number(calm.orders.ready["inbound"]), identity: caller }, requestOf("/"));
  expect(again.received.length).toBe(0);
});

test.concurrent("a connection never outlives the identity at either end of it: the called service's, seen from its caller", async () => {
  const { mesh } = calm;
  // Not the default port, which another mesh's sidecar might take as soon as it is free.
  const at = ["--inbound-port", String(await freePort())];
  const ledger = await mesh.sidecar("ledger", ["--app", `http:${routee.port}`, ...at]);
  await eventually("web calls ledger", 5_000, async () => (await call(calm, "ledger", "/")) === 200 || undefined);
  await ledger.kill("SIGKILL");
  // Somebody with ledger's own identity, which ends soon, answers in its place and holds every request.
  const identity = signIdentity(mesh, "spiffe://mesh.local/ns/default/sa/ledger", 5_000);
  const held = await recordTls(
    { ...identity, ca: readFileSync(join(mesh.home, "ca", "root.crt"), "utf8") },
    { port: Number(ledger.ready["inbound"]), alpn: ["h2"], answer: emptySettings },
  );
  const under = call(calm, "ledger", "/held");
  const connection = await eventually("web has called", 4_000, () =>
    held.connections.find((found) => found.bytes().includes("PRI *")),
  );
  expect(connection.peer).toBe(webId);
  await connection.ended;
  expect(Date.now()).toBeLessThanOrEqual(identity.notAfterMs);
  expect(await under).toBeGreaterThanOrEqual(500);
  await held.close();
});

test("after a renewal the old hop connections drain, calls go on, and no session is resumed", async () => {
  const port = Number(brief.orders.ready["inbound"]);
  const before = await metricsOf(brief.web);
  const identity = signIdentity(brief.mesh, webId, 60_000);
  const sessions = await sessionsOf(port, identity);
  await expectNoResumption(port, identity, sessions);
  let calls = 0;
  const after = await eventually("web renewed twice and drained what it had", 30_000, async () => {
    expect(await call(brief, "orders", "/")).toBe(200);
    calls++;
    const now = await metricsOf(brief.web);
    const drained =
      sumOf(now, "hauberk_connections_drained_total") - sumOf(before, "hauberk_connections_drained_total");
    return drained >= 2 && serialsOf(now).length >= serialsOf(before).length + 2 ? now : undefined;
  });
  expect(calls).toBeGreaterThan(20);
  expect(sumOf(await metricsOf(brief.orders), "hauberk_connections_drained_total")).toBeGreaterThan(0);
  // Before, while the mesh came up, some may have failed.
  for (const status of ['status="502"', 'status="503"']) {
    const of = ['service="orders.default"', status];
    expect(sumOf(after, "hauberk_requests_total", of)).toBe(sumOf(before, "hauberk_requests_total", of));
  }
  await expectNoResumption(port, identity, sessions);
});

test("a connection never outlives the identity at either end of it: the called service's own, when nobody renews it", async () => {
  await brief.control.kill("SIGKILL");
  // The caller's would be good for a minute more.
  const caller = signIdentity(brief.mesh, webId, 60_000);
  const said = await sayAll(Number(brief.orders.ready["inbound"]), caller);
  const own = await exportIdentity(brief.mesh, "orders");
  for (const { endedAtMs } of said) expect(endedAtMs).toBeLessThanOrEqual(own.notAfterMs);
});

/** Idle, kept alive, in the middle of an answer without end, and HTTP/2: each until the other end closes. */
async function sayAll(port: number, identity: ClientIdentity): Promise<readonly Spoken[]> {
  const said = await Promise.all([
    hear(await open(port, identity), ""),
    hear(await open(port, identity), requestOf("/")),
    hear(await open(port, identity), requestOf("/endless")),
    hear(await open(port, identity, "h2"), `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${emptySettings}`),
  ]);
  expect(said[1].received.toString("latin1")).toMatch(/^HTTP\/1\.1 200 /);
  expect(said[2].received.toString("latin1")).toContain("it begins");
  return said;
}

async function expectNoResumption(port: number, identity: ClientIdentity, sessions: readonly Buffer[]): Promise<void> {
  // A resumed session would carry the proof of a certificate that may have ended since.
  for (const session of sessions) {
    const socket = await open(port, identity, "http/1.1", session);
    expect(socket.isSessionReused()).toBe(false);
    socket.destroy();
  }
}

async function startFleet(config: string): Promise<Fleet> {
  const mesh = await Mesh.create({ config });
  const control = await mesh.control();
  const [web, orders] = await Promise.all([
    mesh.sidecar("web"),
    mesh.sidecar("orders", ["--app", `http:${routee.port}`]),
    applyText(mesh, allow("web", "orders") + allow("web", "ledger")),
  ]);
  const fleet = { mesh, control, web, orders };
  let last: number | undefined;
  await eventually("web calls orders", 10_000, async () => {
    last = await call(fleet, "orders", "/");
    return last === 200 || undefined;
  }).catch((thrown: unknown) => {
    throw new Error(`the last call answered ${last}\n${web.output()}${orders.output()}`, { cause: thrown });
  });
  return fleet;
}

function requestOf(path: string): string {
  return `GET ${path} HTTP/1.1\r\nHost: orders\r\n\r\n`;
}

async function call({ web }: Pick<Fleet, "web">, service: string, path: string): Promise<number> {
  return (await ask({ port: Number(web.ready["outbound"]), host: service, path })).status;
}

/** A connection that was proven at this end; what the other end makes of it is seen on it. */
function open(port: number, identity: ClientIdentity, alpn = "http/1.1", session?: Buffer): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const { key, cert } = identity;
    const socket = connect(
      {
        host: "127.0.0.1",
        port,
        key,
        cert,
        ALPNProtocols: [alpn],
        rejectUnauthorized: false,
        ...(session === undefined ? {} : { session }),
      },
      () => resolve(socket),
    );
    socket.once("error", reject);
  });
}

/** Every session ticket that the listener hands out during one request. */
async function sessionsOf(port: number, identity: ClientIdentity): Promise<Buffer[]> {
  const socket = await open(port, identity);
  const sessions: Buffer[] = [];
  socket.on("session", (session) => sessions.push(session));
  const { received } = await hear(socket, "GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n");
  expect(received.toString("latin1")).toMatch(/^HTTP\/1\.1 200 /);
  const last = socket.getSession();
  return last === undefined ? sessions : [...sessions, last];
}

/** The certificates with which this sidecar opened connections. */
function serialsOf(metrics: ReadonlyMap<string, number>): string[] {
  const found = [...metrics.keys()].filter(
    (name) => name.startsWith("hauberk_connections_opened_total") && name.includes('side="outbound"'),
  );
  return [...new Set(found.map((name) => /serial="([^"]+)"/.exec(name)?.[1] ?? ""))];
}
