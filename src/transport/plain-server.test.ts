import { createHash, randomBytes } from "node:crypto";
import { request } from "node:http";
import { connect as connectHttp2, type ClientHttp2Session } from "node:http2";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { afterEach, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { defaultsOf } from "../base/options.ts";
import type { ServerExchange } from "./exchange.ts";
import { http2Options } from "./http2-options.ts";
import { lendReads } from "./lent-reads.ts";
import { http1Options } from "./options.ts";
import { servePlain } from "./plain-server.ts";

const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

/** Keeps every chunk until the body has ended: what was lent and not copied would be another's by then. */
function echo(exchange: ServerExchange): void {
  const chunks: Buffer[] = [];
  const answer = (): void => {
    const body = Buffer.concat(chunks);
    const fields = ["x-protocol", exchange.connection.protocol];
    exchange.respond({ status: 200, fields, bodyLength: body.length }, body.length === 0);
    if (body.length === 0) return;
    exchange.write(body);
    exchange.end();
  };
  exchange.listen({
    data: (chunk) => {
      chunks.push(chunk);
      exchange.consume(chunk.length);
    },
    end: answer,
    aborted: () => undefined,
    drained: () => undefined,
  });
  if (exchange.bodyless) answer();
}

async function serve(lends = true): Promise<{ port: number; clock: ManualClock; accepted: number }> {
  const clock = new ManualClock();
  const state = { port: 0, clock, accepted: 0 };
  const server: Server = createServer({ allowHalfOpen: true, noDelay: true }, (accepted) => {
    const lent = lends ? lendReads(accepted) : undefined;
    const socket = lent?.socket ?? accepted;
    ends.push(() => socket.destroy());
    const facts = { remoteAddress: "", localPort: 0, peer: undefined };
    const context = { clock, http1: defaultsOf(http1Options), http2: defaultsOf(http2Options) };
    servePlain(socket, facts, echo, lent === undefined ? context : { ...context, reads: lent.reads });
    state.accepted++;
  });
  ends.push(() => server.close());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  state.port = (server.address() as AddressInfo).port;
  return state;
}

function http1(port: number, body: Buffer): Promise<{ protocol: unknown; body: Buffer }> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ host: "127.0.0.1", port, method: "POST", path: "/", agent: false }, (incoming) => {
      const chunks: Buffer[] = [];
      incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
      incoming.once("end", () => resolve({ protocol: incoming.headers["x-protocol"], body: Buffer.concat(chunks) }));
    });
    outgoing.once("error", reject);
    outgoing.end(body);
  });
}

function session(port: number): ClientHttp2Session {
  const made = connectHttp2(`http://127.0.0.1:${port}`);
  made.on("error", () => undefined);
  ends.push(() => made.destroy());
  return made;
}

function http2(client: ClientHttp2Session, body: Buffer): Promise<{ protocol: unknown; body: Buffer }> {
  return new Promise((resolve, reject) => {
    const stream = client.request({ ":method": "POST", ":path": "/" });
    const chunks: Buffer[] = [];
    let protocol: unknown;
    stream.on("response", (headers) => (protocol = headers["x-protocol"]));
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.once("end", () => resolve({ protocol, body: Buffer.concat(chunks) }));
    stream.once("error", reject);
    stream.end(body);
  });
}

function raw(port: number): Promise<{ socket: Socket; text: () => string; closed: Promise<void> }> {
  return new Promise((resolve) => {
    let text = "";
    const socket = connect({ host: "127.0.0.1", port }, () => resolve({ socket, text: () => text, closed }));
    const closed = new Promise<void>((over) => socket.once("close", () => over()));
    socket.on("data", (chunk: Buffer) => (text += chunk.toString("latin1")));
    socket.on("error", () => undefined);
    ends.push(() => socket.destroy());
  });
}

const digest = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");

test("one port serves HTTP/1.1 and HTTP/2 with prior knowledge at the same time, and no body loses a byte", async () => {
  for (const lends of [true, false]) {
    const { port } = await serve(lends);
    const client = session(port);
    const bodies = Array.from({ length: 12 }, (_, i) => randomBytes(1 + i * 9_001));
    const got = await Promise.all(bodies.flatMap((body) => [http2(client, body), http1(port, body)] as const));
    const wanted = bodies.flatMap((body) => [
      ["h2", digest(body)],
      ["http/1.1", digest(body)],
    ]);
    expect(got.map(({ protocol, body }) => [protocol, digest(body)])).toEqual(wanted);
  }
});

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", "latin1");
const settingsBegins = "\0\0";

test("a preface that arrives in any two pieces is HTTP/2", async () => {
  const { port } = await serve();
  await Promise.all(
    Array.from({ length: preface.length - 1 }, async (_, i) => {
      const { socket, text } = await raw(port);
      socket.setNoDelay(true);
      socket.write(preface.subarray(0, i + 1));
      // Later than the first piece was read.
      await http1(port, Buffer.from("x"));
      socket.write(preface.subarray(i + 1));
      // Its own settings, and the acknowledgement of ours.
      await expect.poll(() => text().includes("\0\0\0\x04\x01\0\0\0\0")).toBe(true);
      expect(text().startsWith(settingsBegins)).toBe(true);
    }),
  );
});

test("a client that is silent is not answered before it has spoken, and is let go when it is idle for too long", async () => {
  const started = await serve();
  const { closed, text } = await raw(started.port);
  await expect.poll(() => started.accepted).toBe(1);
  const { idleMs } = defaultsOf(http1Options);
  started.clock.advance(idleMs - 1_000);
  await http1(started.port, Buffer.from("x"));
  expect(text()).toBe("");
  started.clock.advance(2_000);
  await closed;
  expect(text()).toBe("");
});

test("first bytes that could still be either are waited for as long as a head, then refused with a sentence", async () => {
  const started = await serve();
  const { socket, closed, text } = await raw(started.port);
  socket.setNoDelay(true);
  socket.write("P");
  await http1(started.port, Buffer.from("x"));
  const { headersMs } = defaultsOf(http1Options);
  started.clock.advance(headersMs - 1_000);
  socket.write("R");
  await http1(started.port, Buffer.from("x"));
  expect(text()).toBe("");
  started.clock.advance(2_000);
  await closed;
  expect(text()).toMatch(/^HTTP\/1\.1 408 [\s\S]*x-hauberk-code: REQUEST_TIMEOUT/i);
});

test("a method that begins like the preface is HTTP/1.1", async () => {
  const { port } = await serve();
  const { socket, text } = await raw(port);
  socket.write("PR");
  await http1(port, Buffer.from("x"));
  socket.write("OPFIND / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nz");
  await expect.poll(() => text()).toMatch(/^HTTP\/1\.1 200 [\s\S]*z$/);
});
