import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { connect as connectHttp2, type ClientHttp2Session } from "node:http2";
import { connect, type AddressInfo, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeTestPki } from "../support/pki.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { twoProxies, type TwoProxies } from "../support/two-proxies.ts";

/**
 * Buffers that are lent, and used again: whatever happens to one connection, no byte of it appears on another. Each body says in
 * every four bytes whose it is and where, so that a foreign or misplaced one is seen.
 */
let routee: Server;
let mesh: TwoProxies;
const sockets = new Set<Duplex>();

beforeAll(async () => {
  routee = createServer((request, response) => {
    answer(request, response).catch(() => response.destroy());
  });
  routee.listen(0, "127.0.0.1");
  await once(routee, "listening");
  const { port } = routee.address() as AddressInfo;
  // Connections that are cut in the middle would open the breaker.
  const resilience = { breakerFailuresMax: 1_000, breakerRequestsMin: 100_000 };
  mesh = await twoProxies(await makeTestPki({ wallMs: Date.now() }), { routee: port, options: { resilience } });
});

afterAll(async () => {
  for (const socket of sockets) socket.destroy();
  await mesh.end();
  routee.close();
  routee.closeAllConnections();
});

/** Bytes `from` to `from + length` of body number `seed`. */
function partOf(seed: number, from: number, length: number): Buffer {
  const part = Buffer.allocUnsafe(length);
  for (let i = 0; i < length; i++) {
    const at = from + i;
    const lane = at & 3;
    part[i] = lane === 0 ? seed : lane === 1 ? at >>> 18 : lane === 2 ? at >>> 10 : at >>> 2;
  }
  return part;
}

/** Where the bytes are not those of body `seed` from `from` on; -1 where they are. */
function wrongAt(bytes: Buffer, seed: number, from: number): number {
  const wanted = partOf(seed, from, bytes.length);
  if (bytes.equals(wanted)) return -1;
  return from + bytes.findIndex((byte, i) => byte !== wanted[i]);
}

/** `/SEED/BYTES` is answered with that body, in pieces; a body that comes is judged, and the verdict is the answer. */
async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const [, seed = 0, bytes = 0, upload] = (request.url ?? "").split("/").map(Number);
  if (upload !== undefined) {
    let at = 0;
    let wrong = -1;
    for await (const chunk of request as AsyncIterable<Buffer>) {
      if (wrong < 0) wrong = wrongAt(chunk, seed, at);
      at += chunk.length;
    }
    response.end(wrong < 0 && at === bytes ? "whole" : `wrong at ${wrong} of ${at}`);
    return;
  }
  let woken = (): void => undefined;
  response.on("drain", () => woken()).on("close", () => woken());
  response.writeHead(200, { "content-length": bytes });
  const sizes = [1_000, 70_000, 16_384, 30_000, 9_000, 131_072];
  for (let at = 0, i = seed; at < bytes && !response.destroyed; i++) {
    const length = Math.min(bytes - at, sizes[i % sizes.length] as number);
    const more = response.write(partOf(seed, at, length));
    at += length;
    if (!more && !response.destroyed) await new Promise<void>((go) => (woken = go));
  }
  response.end();
}

type Way = "plain" | "inside a CONNECT" | "inside a CONNECT over HTTP/2";
const ways: readonly Way[] = ["plain", "inside a CONNECT", "inside a CONNECT over HTTP/2"];

/** A connection on which HTTP/1.1 to `orders` can be spoken. */
async function dial(way: Way): Promise<Duplex> {
  const port = mesh.web.proxy.outboundPort;
  if (way === "inside a CONNECT over HTTP/2") {
    const session: ClientHttp2Session = connectHttp2(`http://127.0.0.1:${port}`);
    session.on("error", () => undefined);
    const stream = session.request({ ":method": "CONNECT", ":authority": "orders:80" });
    stream.on("error", () => undefined);
    stream.on("close", () => session.destroy());
    sockets.add(stream);
    await once(stream, "response");
    return stream;
  }
  const socket: Socket = connect(port, "127.0.0.1");
  socket.on("error", () => undefined);
  sockets.add(socket);
  if (way === "plain") return socket;
  socket.write("CONNECT orders:80 HTTP/1.1\r\nHost: orders:80\r\n\r\n");
  const [answer] = (await once(socket, "data")) as [Buffer];
  expect(answer.toString("latin1")).toMatch(/^HTTP\/1\.1 200 /);
  return socket;
}

/** Downloads one body; gives where it was wrong, or -1. `stopAt`: the connection is cut there. `slowly`: reads with pauses. */
async function download(
  way: Way,
  body: { seed: number; bytes: number; stopAt?: number; slowly?: boolean },
): Promise<number> {
  const socket = await dial(way);
  socket.write(`GET /${body.seed}/${body.bytes} HTTP/1.1\r\nHost: orders\r\n\r\n`);
  let head = "";
  let at = -1;
  for await (const piece of socket as AsyncIterable<Buffer>) {
    let chunk = piece;
    if (at < 0) {
      head += chunk.toString("latin1");
      const end = head.indexOf("\r\n\r\n");
      if (end < 0) continue;
      expect(head).toMatch(/^HTTP\/1\.1 200 /);
      chunk = Buffer.from(head.slice(end + 4), "latin1");
      at = 0;
    }
    const wrong = wrongAt(chunk, body.seed, at);
    if (wrong >= 0) return wrong;
    at += chunk.length;
    if (at >= (body.stopAt ?? body.bytes)) break;
    if (body.slowly === true) await new Promise((resolve) => setImmediate(resolve));
  }
  socket.destroy();
  return at >= (body.stopAt ?? body.bytes) ? -1 : at;
}

async function upload(way: Way, body: { seed: number; bytes: number }): Promise<number> {
  const socket = await dial(way);
  socket.write(`POST /${body.seed}/${body.bytes}/1 HTTP/1.1\r\nHost: orders\r\nContent-Length: ${body.bytes}\r\n\r\n`);
  for (let at = 0; at < body.bytes; at += 50_000) {
    const more = socket.write(partOf(body.seed, at, Math.min(50_000, body.bytes - at)));
    if (!more) await once(socket, "drain");
  }
  let text = "";
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    text += chunk.toString("latin1");
    if (/\r\n\r\n(?:whole|wrong)/.test(text)) break;
  }
  socket.destroy();
  return text.endsWith("whole") ? -1 : 0;
}

describe("bodies of many connections at once", () => {
  test.for(ways)("are each connection's own, %s", async (way) => {
    const random = new SeededRandom(7);
    const all: Promise<number>[] = [];
    for (let seed = 1; seed <= 16; seed++) {
      const bytes = 300_000 + Math.floor(random.draw() * 900_000);
      const stopAt = seed % 5 === 0 ? { stopAt: Math.floor(bytes / 3) } : {};
      all.push(download(way, { seed, bytes, ...stopAt, slowly: seed % 3 === 0 }));
      if (seed % 3 === 1) all.push(upload(way, { seed: seed + 100, bytes }));
    }
    expect(await Promise.all(all)).toEqual(all.map(() => -1));
  });

  test("are each connection's own where all ways are mixed", async () => {
    const all: Promise<number>[] = [];
    for (let seed = 1; seed <= 24; seed++) {
      const way = ways[seed % 3] as Way;
      all.push(download(way, { seed, bytes: 900_000, slowly: seed % 2 === 0 }));
    }
    expect(await Promise.all(all)).toEqual(all.map(() => -1));
  });
});
