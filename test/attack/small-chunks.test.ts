import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import * as frames from "../../src/http/http2/frames.ts";
import { rawFields, rawFrame, RawPeer, rawPreface } from "../support/http2-raw.ts";
import { heldNow } from "../support/memory.ts";
import { makeTestPki, type TestPki } from "../support/pki.ts";
import { dialInbound, twoProxies, webMay } from "../support/two-proxies.ts";

/**
 * Windows count bytes. A body that comes in frames of one byte and waits for its routee must not cost an object for each: what
 * the sidecar holds is measured against what the attacker sent for it, nine bytes of frame head for each byte included.
 */
const streams = 4;
const windowBytes = 1_048_576;
const { DATA, HEADERS, PING, SETTINGS, WINDOW_UPDATE } = frames;

let pki: TestPki;
beforeAll(async () => {
  pki = await makeTestPki({ wallMs: Date.now() });
});

let servers: { server: Server; sockets: Socket[] }[] = [];
afterAll(() => {
  for (const { server, sockets } of servers) {
    for (const socket of sockets) socket.destroy();
    server.close();
  }
  servers = [];
});

/** A routee that does this with each connection. */
async function routee(serve: (socket: Socket) => void): Promise<number> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
    sockets.push(socket);
    serve(socket);
  });
  servers.push({ server, sockets });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

const upload = [":method", "POST", ":scheme", "https", ":path", "/", ":authority", "orders"];
const tunnel = [":method", "CONNECT", ":protocol", "websocket", ...upload.slice(2)];
const reads = (socket: Socket): unknown => socket.resume();
const readsNothing = (socket: Socket): unknown => socket.pause();
/** HTTP/2 whose windows never open again. */
const opensNoWindow = (socket: Socket): unknown => socket.resume().write(rawFrame(SETTINGS, 0, 0));

test.each([
  ["of an upload, from a routee that does not read", "http", upload, readsNothing],
  ["of an upload, from a routee of HTTP/2 that opens no window", "h2", upload, opensNoWindow],
  ["into a tunnel that is not answered", "http", tunnel, reads],
] as const)("single bytes that wait, %s, take less than was sent for them", async (_, protocol, head, serve) => {
  const port = await routee(serve);
  const http2 = { streamWindowBytes: windowBytes };
  const mesh = await twoProxies(pki, { routee: port, protocol, rules: webMay, options: { http2 } });
  const peer = new RawPeer(await dialInbound(mesh, "web", "h2"));
  peer.send(rawPreface, rawFrame(SETTINGS, 0, 0), rawFrame(SETTINGS, 1, 0));
  for (let i = 0; i < streams; i++) peer.send(rawFrame(HEADERS, frames.END_HEADERS, 2 * i + 1, rawFields(head)));
  await peer.frame(({ type }) => type === SETTINGS);

  const before = heldNow();
  const bytes = await fill(peer);
  const grown = heldNow() - before;
  expect(peer.closed).toBe(false);
  expect(grown).toBeLessThan(bytes);

  peer.socket.destroy();
  await mesh.end();
});

/** Sends what the windows allow, byte by byte, and waits until it has arrived; gives how much that was with all frame heads. */
async function fill(peer: RawPeer): Promise<number> {
  const left = Array.from({ length: streams }, () => windowBytes);
  let sent = 0;
  let wire = 0;
  const granted = (): number => {
    const updates = peer.frames.filter(({ type, streamId }) => type === WINDOW_UPDATE && streamId === 0);
    return updates.reduce((sum, { payload }) => sum + payload.readUInt32BE(0), frames.WINDOW_DEFAULT);
  };
  for (let i = 0; sent < streams * windowBytes; i = (i + 1) % streams) {
    await peer.until(() => granted() > sent);
    const count = Math.min(granted() - sent, left[i] as number, 4_096);
    left[i] = (left[i] as number) - count;
    const one = rawFrame(DATA, 0, 2 * i + 1, "00");
    const piece = Buffer.alloc(count * one.length, one);
    peer.send(piece);
    sent += count;
    wire += piece.length;
    while (peer.socket.writableNeedDrain) await new Promise((resolve) => setImmediate(resolve));
  }
  peer.send(rawFrame(PING, 0, 0, Buffer.alloc(8, 1)));
  await peer.frame(({ type, payload }) => type === PING && payload[0] === 1);
  return wire;
}
