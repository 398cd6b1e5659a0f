import { connect, type TLSSocket } from "node:tls";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ask, eventually, Mesh, metricsOf, sumOf, type Started } from "../support/mesh.ts";
import {
  allow,
  applyText,
  exportIdentity,
  hear,
  openRoutee,
  recordTls,
  speakTls,
  type ClientIdentity,
  type Routee,
} from "./routees.ts";
import { enrollStranger } from "./stranger.ts";

const leafMs = 6_000;
const emptySettings = "\0\0\0\x04\0\0\0\0\0";

let mesh: Mesh;
let web: Started;
let orders: Started;
let routee: Routee;

beforeAll(async () => {
  mesh = await Mesh.create({ config: `lifetimes: { leaf: ${leafMs / 1000}s, allowSeconds: true }` });
  await mesh.control();
  // One path never ends its answer: what is under way does not keep a connection alive either.
  routee = await openRoutee({
    answer: (seen, response) => {
      if (seen.path === "/endless") response.write("it begins\n");
      else response.end("ok");
    },
  });
  [web, orders] = await Promise.all([
    mesh.sidecar("web"),
    mesh.sidecar("orders", ["--app", `http:${routee.port}`]),
    applyText(mesh, allow("web", "orders") + allow("web", "ledger")),
  ]);
  await eventually("web calls orders", 5_000, async () => (await call("orders", "/")) === 200 || undefined);
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

test.concurrent("a connection never outlives the identity at either end of it: the peer's", async () => {
  const stranger = await enrollStranger(mesh, "web");
  const port = Number(orders.ready["inbound"]);
  const idle = hear(await open(port, stranger), "");
  const kept = hear(await open(port, stranger), "GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
  const endless = hear(await open(port, stranger), "GET /endless HTTP/1.1\r\nHost: orders\r\n\r\n");
  const http2 = hear(await open(port, stranger, "h2"), `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${emptySettings}`);
  const said = await Promise.all([idle, kept, endless, http2]);
  for (const { endedAtMs } of said) expect(endedAtMs).toBeLessThanOrEqual(stranger.notAfterMs);
  expect(said[1]?.received.toString("latin1")).toMatch(/^HTTP\/1\.1 200 /);
  expect(said[2]?.received.toString("latin1")).toContain("it begins");
  // What was under way got all the time that there was, instead of being cut at the first occasion.
  expect(said[2]?.endedAtMs).toBeGreaterThan(stranger.notAfterMs - leafMs / 2);
  // And with the certificate that has ended there is no new one.
  await eventually("the certificate ends", leafMs, () => Date.now() > stranger.notAfterMs + 1_000 || undefined);
  const again = await speakTls({ port, identity: stranger }, "GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
  expect(again.received.length).toBe(0);
});

test.concurrent("a connection never outlives the identity at either end of it: the called service's, seen from its caller", async () => {
  const ledgerRoutee = await openRoutee();
  const ledger = await mesh.sidecar("ledger", ["--app", `http:${ledgerRoutee.port}`]);
  await eventually("web calls ledger", 5_000, async () => (await call("ledger", "/")) === 200 || undefined);
  const identity = await exportIdentity(mesh, "ledger");
  await ledger.kill("SIGKILL");
  // Somebody with ledger's own identity, which nobody renews now, answers in its place and holds every request.
  const held = await recordTls(identity, {
    port: Number(ledger.ready["inbound"]),
    alpn: ["h2"],
    answer: emptySettings,
  });
  const under = call("ledger", "/held");
  const connection = await eventually("web has called", 4_000, () =>
    held.connections.find((found) => found.bytes().includes("PRI *")),
  );
  expect(connection.peer).toBe("spiffe://mesh.local/ns/default/sa/web");
  await connection.ended;
  expect(Date.now()).toBeLessThanOrEqual(identity.notAfterMs);
  expect(await under).toBeGreaterThanOrEqual(500);
  await held.close();
  await ledgerRoutee.close();
});

test.concurrent("after a renewal the old hop connections drain, calls go on, and no session is resumed", async () => {
  const port = Number(orders.ready["inbound"]);
  const before = await metricsOf(web);
  const sessions = await sessionsOf(port, await exportIdentity(mesh, "web"));
  let calls = 0;
  const after = await eventually("web renewed twice and drained what it had", 15_000, async () => {
    expect(await call("orders", "/")).toBe(200);
    calls++;
    const now = await metricsOf(web);
    const drained =
      sumOf(now, "hauberk_connections_drained_total") - sumOf(before, "hauberk_connections_drained_total");
    return drained >= 2 && serialsOf(now).length >= serialsOf(before).length + 2 ? now : undefined;
  });
  expect(calls).toBeGreaterThan(20);
  const sidecarsOnly = sumOf(await metricsOf(orders), "hauberk_connections_drained_total");
  expect(sidecarsOnly).toBeGreaterThan(0);
  expect(sumOf(after, "hauberk_requests_total", ['service="orders.default"', 'status="502"'])).toBe(0);
  expect(sumOf(after, "hauberk_requests_total", ['service="orders.default"', 'status="503"'])).toBe(0);
  // A resumed session would carry the proof of a certificate that may have ended since.
  const identity = await exportIdentity(mesh, "web");
  for (const session of [undefined, ...sessions]) {
    const socket = await open(port, identity, "http/1.1", session);
    expect(socket.isSessionReused()).toBe(false);
    socket.destroy();
  }
});

async function call(service: string, path: string): Promise<number> {
  return (await ask({ port: Number(web.ready["outbound"]), host: service, path })).status;
}

/** A connection that was proven at this end; what the other end makes of it is seen on it. */
function open(port: number, identity: ClientIdentity, alpn = "http/1.1", session?: Buffer): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const { key, cert, ca } = identity;
    const socket = connect(
      {
        host: "127.0.0.1",
        port,
        key,
        cert,
        ca,
        ALPNProtocols: [alpn],
        checkServerIdentity: () => undefined,
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
