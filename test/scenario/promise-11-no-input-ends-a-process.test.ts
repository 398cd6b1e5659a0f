import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ServicesAnswer } from "../../src/contract/admin.ts";
import { Mesh, metricsOf, type Started } from "../support/mesh.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { exportIdentity, served, webCallsOrders, type ClientIdentity, type Routee } from "./routees.ts";

/** Every case is drawn from it: a failure names its case, and happens again. */
const seed = 20_261_123;
const casesPerListener = 240;
/** A fuzzed peer may also just wait; this end has then said all that it wanted. */
const patienceMs = 250;

let mesh: Mesh;
let control: Started;
let web: Started;
let orders: Started;
let routee: Routee;
let identity: ClientIdentity;

beforeAll(async () => {
  mesh = await Mesh.create();
  // The rates are not what is to be shown here: every single input shall reach its parser.
  const unlimited = {
    HAUBERK_CONTROL_ADDRESS_PER_SECOND: "100000",
    HAUBERK_CONTROL_ADDRESS_BURST_MAX: "100000",
    HAUBERK_CONTROL_IDENTITY_PER_SECOND: "100000",
    HAUBERK_CONTROL_IDENTITY_BURST_MAX: "100000",
  };
  ({ control, web, orders, routee } = await webCallsOrders(mesh, unlimited));
  identity = await exportIdentity(mesh, "web");
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

test("no input from the network ends a process: garbage and broken TLS at every port that the network reaches", async () => {
  for (const port of [inbound(), mesh.ports.mesh, mesh.ports.enrollment]) {
    await fuzz(tcp({ port }), [noise, brokenTls, brokenHttp]);
    await allAlive();
  }
});

test("… broken HTTP/2 after a good handshake with a good SVID", async () => {
  const before = routee.requests.length;
  await fuzz(tls(inbound(), "h2"), [brokenHttp2, brokenHttp2, noise]);
  await allAlive();
  // Some were requests all the same, beyond the parser and the policies.
  expect(routee.requests.length - before).toBeGreaterThan(5);
});

test("… broken HTTP/1.1 after a good handshake with a good SVID, at the sidecar and at the mesh API", async () => {
  for (const port of [inbound(), mesh.ports.mesh]) {
    await fuzz(tls(port, "http/1.1"), [brokenHttp, brokenApi, noise]);
    await allAlive();
  }
});

test("… broken enrollments over TLS without a certificate", async () => {
  await fuzz(tls(mesh.ports.enrollment, "http/1.1", false), [brokenApi, brokenHttp, noise]);
  await allAlive();
});

test("… whatever a local program writes to the outbound listener or the admin socket", async () => {
  await fuzz(tcp({ port: Number(web.ready["outbound"]) }), [brokenHttp, noise, brokenHttp2]);
  await fuzz(tcp({ path: String(web.ready["admin"]) }), [brokenHttp, noise]);
  await allAlive();
});

test("… and after all of that everything serves: calls, the control plane, metrics, a new enrollment", async () => {
  await served(web);
  const late = await mesh.sidecar("late");
  expect(late.ready["ready"]).toBe(true);
  const { sidecars } = await mesh.json<ServicesAnswer>(["services", ...mesh.controlFlag]);
  expect(sidecars).toHaveLength(3);
  for (const started of [control, web, orders])
    expect(started.output()).not.toMatch(/"code":"BUG"|Unhandled|uncaught/i);
});

type Draw = (random: SeededRandom) => Buffer;
type Open = () => { socket: Socket; reset: () => void };

function tcp(target: { port: number } | { path: string }): Open {
  return () => {
    if ("path" in target) {
      const socket = connectTcp(target.path);
      return { socket, reset: () => socket.destroy() }; // A Unix socket knows no reset.
    }
    const socket = connectTcp(target.port, "127.0.0.1");
    return { socket, reset: () => socket.resetAndDestroy() };
  };
}

function tls(port: number, alpn: string, proven = true): Open {
  const { key, cert } = identity;
  return () => {
    const under = connectTcp(port, "127.0.0.1");
    under.on("error", () => undefined);
    const own = proven ? { key, cert } : {};
    const socket = connectTls({ socket: under, ALPNProtocols: [alpn], rejectUnauthorized: false, ...own });
    return { socket, reset: () => under.resetAndDestroy() };
  };
}

/** Opens a connection for each case, ten at a time, writes it, and half-closes. */
async function fuzz(open: Open, draws: readonly Draw[]): Promise<void> {
  const random = new SeededRandom(seed);
  const cases = Array.from({ length: casesPerListener }, (_, index) => (draws[index % draws.length] as Draw)(random));
  const worker = async (): Promise<void> => {
    for (let input = cases.shift(); input !== undefined; input = cases.shift()) await say(open(), input);
  };
  await Promise.all(Array.from({ length: 10 }, worker));
}

/** Some go as a whole, some in two parts, some are reset in the middle. */
function say({ socket, reset }: ReturnType<Open>, input: Buffer): Promise<void> {
  return new Promise((resolve) => {
    socket.setTimeout(patienceMs, () => socket.destroy());
    socket.on("error", () => undefined);
    socket.once("close", () => resolve());
    socket.resume();
    const way = input.length % 3;
    const half = Math.floor(input.length / 2);
    if (way === 0) socket.end(input);
    else if (way === 1) socket.write(input.subarray(0, half), () => socket.end(input.subarray(half)));
    else socket.write(input, reset);
  });
}

const noise: Draw = (random) => random.bytes(1 + Math.floor(random.draw() * 2_000));

/** Records with true heads and lengths, and what nobody should say in them. */
const brokenTls: Draw = (random) => {
  const body = random.bytes(1 + Math.floor(random.draw() * 600));
  body[0] = pick(random, [1, 2, 11, 20, 255]); // ClientHello, ServerHello, Certificate, Finished, nothing
  if (random.draw() < 0.7) body.writeUIntBE(Math.max(0, body.length - 4), 1, Math.min(3, body.length - 1) || 1);
  const head = Buffer.from([pick(random, [20, 21, 22, 23, 24]), 3, pick(random, [0, 1, 3, 4]), 0, 0]);
  head.writeUInt16BE(random.draw() < 0.8 ? body.length : Math.floor(random.draw() * 65_536), 3);
  return Buffer.concat([head, body]);
};

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
const settings = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);
/** `GET / orders` by the static table of HPACK (RFC 7541, appendix A). */
const request = Buffer.concat([Buffer.from([0x82, 0x87, 0x84, 0x41, 6]), Buffer.from("orders")]);

/** The same as HEADERS that end headers and stream, on stream 1. */
const goodRequest = Buffer.concat([Buffer.from([0, 0, request.length, 1, 5, 0, 0, 0, 1]), request]);

/** A preface and settings, in half of the cases a good request, then frames of true and false types, lengths, flags and streams, some with good fields. */
const brokenHttp2: Draw = (random) => {
  const frames = Array.from({ length: 1 + Math.floor(random.draw() * 12) }, (_, index) => {
    const payload = random.draw() < 0.4 ? mutate(request, random) : random.bytes(Math.floor(random.draw() * 80));
    const head = Buffer.alloc(9);
    head.writeUIntBE(random.draw() < 0.85 ? payload.length : Math.floor(random.draw() * 2 ** 24), 0, 3);
    head[3] = Math.floor(random.draw() * 11);
    head[4] = pick(random, [0, 1, 4, 5, 8, 0x20, 0x25, 0xff]);
    head.writeUInt32BE(pick(random, [0, 1, 1, 2 * index + 1, 2, 0x7fff_ffff, 0xffff_ffff]), 5);
    return Buffer.concat([head, payload]);
  });
  const first = random.draw() < 0.5 ? [goodRequest] : [];
  return Buffer.concat([random.draw() < 0.95 ? preface : mutate(preface, random), settings, ...first, ...frames]);
};

const requests = [
  "GET / HTTP/1.1\r\nHost: orders\r\n\r\n",
  "GET http://orders/ HTTP/1.1\r\nHost: orders\r\nContent-Length: 3\r\n\r\nabc",
  "POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
  "POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nffffffffff\r\n",
  "CONNECT orders:80 HTTP/1.1\r\nHost: orders:80\r\n\r\nSSH-2.0-\r\n",
  "OPTIONS * HTTP/1.1\r\nHost: orders\r\n\r\n",
  "GET / HTTP/1.1\r\nHost: orders\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
  "GET /status HTTP/1.0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
  `GET /${"%2e%2e/".repeat(50)} HTTP/1.1\r\nHost: ${"o".repeat(3_000)}\r\n\r\n`,
  `GET / HTTP/1.1\r\n${"x: y\r\n".repeat(400)}\r\n`,
].map((text) => Buffer.from(text, "latin1"));

const brokenHttp: Draw = (random) => mutate(pick(random, requests), random);

const bodies = [
  "{}",
  "[]",
  "null",
  '{"token":1,"csr":{},"recoveryKey":[]}',
  `{"token":"eyJhbGciOiJFUzI1NiJ9.${"A".repeat(300)}.AAAA","csr":"${"A".repeat(800)}","recoveryKey":"AAAA"}`,
  '{"__proto__":{"x":1},"constructor":{"prototype":1}}',
  `${"[".repeat(300)}${"]".repeat(300)}`,
  '{"type":"hello","release":"x"}\n{"type":"subscribe","services":["\\ud800"]}\n{"type":"ack","version":{"counter":-1}}\n',
  '{"revision":0,"resources":[{"kind":"AuthorizationPolicy","rules":[{}]}],"allowEmpty":true}',
];
const paths = [
  "enroll",
  "recover",
  "recover/challenge",
  "bundle",
  "renew",
  "watch",
  "tokens",
  "policies",
  "admins",
  "%zz",
  "a".repeat(999),
];

/** Calls of the control plane's API whose heads are right more often than not, and whose bodies are not. */
const brokenApi: Draw = (random) => {
  const body = mutate(Buffer.from(pick(random, bodies)), random);
  const type = pick(random, ["application/json", "application/json", "application/x-ndjson", "text/plain"]);
  const method = pick(random, ["POST", "POST", "PUT", "DELETE", "GET"]);
  const head = `${method} /v1/${pick(random, paths)} HTTP/1.1\r\nHost: a\r\nContent-Type: ${type}\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n`;
  return Buffer.concat([Buffer.from(head), body]);
};

/** Up to four bytes changed, cut out, or said twice; one in five stays as it is. */
function mutate(input: Buffer, random: SeededRandom): Buffer {
  let output = Buffer.from(input);
  for (let count = Math.floor(random.draw() * 5); count > 0; count--) {
    const at = Math.floor(random.draw() * output.length);
    const way = Math.floor(random.draw() * 3);
    if (way === 0 && output.length > 0) output[at] = Math.floor(random.draw() * 256);
    if (way === 1)
      output = Buffer.concat([output.subarray(0, at), output.subarray(at + 1 + Math.floor(random.draw() * 8))]);
    if (way === 2) output = Buffer.concat([output.subarray(0, at), output.subarray(Math.floor(at / 2))]);
  }
  return output;
}

function pick<T>(random: SeededRandom, from: readonly T[]): T {
  return from[Math.floor(random.draw() * from.length)] as T;
}

function inbound(): number {
  return Number(orders.ready["inbound"]);
}

/** Every process runs, and its event loop answers. */
async function allAlive(): Promise<void> {
  const processes = { control, web, orders };
  const ended = Object.entries(processes).filter(
    ([, { child }]) => child.exitCode !== null || child.signalCode !== null,
  );
  expect(ended.map(([name, started]) => `${name} ended: ${started.output().slice(-2_000)}`)).toEqual([]);
  await Promise.all([metricsOf(web), metricsOf(orders)]);
  await served(web);
}
