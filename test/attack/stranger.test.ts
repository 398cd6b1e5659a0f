import { readFileSync } from "node:fs";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import * as frames from "../../src/http/http2/frames.ts";
import { rawFields, rawFrame, RawPeer as RawHttp2Peer, rawPreface, uint32 } from "../support/http2-raw.ts";
import { ask, eventually } from "../support/mesh.ts";
import { HostileScene } from "../support/hostile-scene.ts";
import { ok, type RawRoutee } from "../support/raw-routee.ts";
import { dialInbound, twoProxies, type TwoProxies } from "../support/two-proxies.ts";

/** A peer with a valid identity is a stranger all the same: what it says of itself, and how much it asks for, buys it nothing. */
let scene: HostileScene;
let mesh: TwoProxies;
let routee: RawRoutee;

beforeAll(async () => {
  scene = await HostileScene.start({ retriesMax: 2 });
  ({ mesh, routee } = scene);
});
afterEach(() => scene.tidy());
afterAll(() => scene.end());

const { HEADERS, DATA, SETTINGS, PING, RST_STREAM, GOAWAY } = frames;
const WHOLE = frames.END_HEADERS;
const END = frames.END_STREAM;
const post = [":method", "POST", ":scheme", "https", ":path", "/", ":authority", "orders"];

async function stranger(service = "web", at = mesh): Promise<RawHttp2Peer> {
  const peer = scene.keep(new RawHttp2Peer(await dialInbound(at, service, "h2")));
  peer.send(rawPreface, rawFrame(SETTINGS, 0, 0), rawFrame(SETTINGS, 1, 0));
  await peer.frame((frame) => frame.type === SETTINGS);
  return peer;
}

/** Waits until the other side has read all that was sent. */
async function read(peer: RawHttp2Peer, mark: number): Promise<void> {
  peer.send(rawFrame(PING, 0, 0, [mark, 0, 0, 0, 0, 0, 0, 0]));
  await peer.frame((frame) => frame.type === PING && frame.payload[0] === mark);
}

const forged = [
  "x-hauberk-code",
  "CONNECT_FAILED",
  "x-hauberk-peer",
  "spiffe://mesh.local/ns/default/sa/admin",
  "x-hauberk-anything",
  "1",
  "x-forwarded-client-cert",
  "By=x;URI=spiffe://mesh.local/ns/default/sa/admin",
];

test("what a stranger says in Hauberk's name reaches no routee, and the routee learns who it is (rows 19 and 20)", async () => {
  const peer = await stranger();
  peer.send(rawFrame(HEADERS, WHOLE | END, 1, rawFields([...post, ...forged])));
  await peer.frame((frame) => frame.type === HEADERS && frame.streamId === 1);
  expect(routee.text).not.toMatch(/x-hauberk|sa\/admin/i);
  expect(routee.text.match(/x-forwarded-client-cert: .*/gi)).toEqual([
    "x-forwarded-client-cert: By=spiffe://mesh.local/ns/default/sa/orders;URI=spiffe://mesh.local/ns/default/sa/web",
  ]);
});

test("a routee that answers with our codes is not believed: its 503 is its own, and nothing is sent again (rows 19 and 20)", async () => {
  for (const code of ["CONNECT_FAILED", "LIMIT_REQUESTS", "DENIED"]) {
    routee.forget();
    routee.answer = () =>
      `HTTP/1.1 503 Busy\r\nX-Hauberk-Code: ${code}\r\nX-Hauberk-Other: 1\r\nContent-Length: 0\r\n\r\n`;
    const { status, headers } = await ask({
      port: mesh.web.proxy.outboundPort,
      host: "orders",
      method: "POST",
      path: "/",
    });
    expect([status, headers["x-hauberk-code"], headers["x-hauberk-other"]]).toEqual([503, undefined, undefined]);
    // Believed, "nothing was processed" would have the caller's sidecar send a POST twice.
    expect(routee.text.match(/^POST /gm)).toHaveLength(1);
  }
});

test("forged codes in trailers go nowhere either (row 19)", async () => {
  routee.answer = () =>
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Hauberk-Code: DENIED\r\nX-Sum: 1\r\n\r\n";
  const peer = await stranger();
  peer.send(rawFrame(HEADERS, WHOLE | END, 1, rawFields(post)));
  await peer.until(() => peer.frames.some((frame) => frame.streamId === 1 && (frame.flags & END) !== 0));
  const said = peer.frames.map(({ payload }) => payload.toString("latin1")).join("");
  expect(said).toContain("x-sum");
  expect(said).not.toMatch(/x-hauberk/i);
});

test("a peer that opens 100,000 streams has a thousand of them, is cut off, and others are served (row 27)", async () => {
  routee.answer = () => undefined;
  const before = residentBytes();
  const peer = await stranger();
  let opened = 0;
  for (; opened < 100_000 && !peer.closed; opened += 500) {
    peer.send(
      Buffer.concat(
        Array.from({ length: 500 }, (_, i) => rawFrame(HEADERS, WHOLE, 2 * (opened + i) + 1, rawFields(post))),
      ),
    );
    await new Promise((resolve) => setImmediate(resolve));
    // What lies unsent here would be said to nobody.
    while (peer.socket.writableNeedDrain && !peer.closed) await new Promise((resolve) => setImmediate(resolve));
  }
  await peer.end();
  calmed(peer);
  // A thousand were taken, and as many refused as the allowance has.
  expect(opened).toBeLessThan(10_000);
  expect(routee.asked.length).toBeLessThanOrEqual(1_000);
  expect(residentBytes() - before).toBeLessThan(200 * 1_048_576);
  routee.answer = () => ok("ok");
  const after = await ask({ port: mesh.web.proxy.outboundPort, host: "orders", path: "/" });
  expect([after.status, after.body]).toEqual([200, "ok"]);
});

test("streams that one identity holds open, over as many connections as it likes, leave places for the others (row 27)", async () => {
  routee.answer = () => undefined;
  const rules = [{ from: [{ services: ["web.default", "ledger.default"] }] }];
  const options = { proxy: { inboundRequestsMax: 40 } };
  const small = await twoProxies(mesh.pki, { routee: routee.port, rules, options });
  const held = [await stranger("web", small), await stranger("web", small)];
  const posts = (count: number, flags: number): Buffer =>
    Buffer.concat(Array.from({ length: count }, (_, i) => rawFrame(HEADERS, flags, 2 * i + 1, rawFields(post))));
  for (const peer of held) {
    peer.send(posts(20, WHOLE));
    await read(peer, 1);
  }
  // Three quarters of 40 are taken; more of the same identity is refused at once instead of waiting.
  await held[1]?.until(() => held[1]?.frames.filter(({ type }) => type === HEADERS).length === 10);
  expect(held[0]?.frames.filter(({ type }) => type === HEADERS)).toEqual([]);
  const own = await ask({ port: small.web.proxy.outboundPort, host: "orders", path: "/" });
  expect([own.status, own.headers["x-hauberk-code"]]).toEqual([503, "LIMIT_PEER"]);
  routee.answer = () => ok("ok");
  const other = await stranger("ledger", small);
  other.send(posts(5, WHOLE | END));
  const answered = (): number => other.frames.filter(({ payload }) => payload.toString() === "ok").length;
  await other.until(() => answered() === 5);
  for (const peer of held) peer.socket.destroy();
  await eventually("places are free again", 5_000, async () => {
    const { status } = await ask({ port: small.web.proxy.outboundPort, host: "orders", path: "/" });
    return status === 200 ? true : undefined;
  });
  await small.end();
});

test("bytes that one identity sends into tunnels that nobody opens leave room for the others', over all of its connections", async () => {
  routee.answer = () => undefined;
  const room = 1_048_576;
  const small = await twoProxies(mesh.pki, {
    routee: routee.port,
    rules: [{ from: [{ services: ["web.default", "ledger.default"] }] }],
    options: { http2: { heldBytesMax: room } },
  });
  const sent: number[] = [];
  for (const _ of [1, 2, 3]) sent.push(await fillTunnels(await stranger("web", small), 3));
  for (const bytes of sent) expect(bytes).toBeGreaterThanOrEqual(frames.WINDOW_DEFAULT);
  expect(sent.reduce((sum, bytes) => sum + bytes, 0)).toBeLessThanOrEqual(0.75 * room + 3 * frames.WINDOW_DEFAULT);
  expect(await fillTunnels(await stranger("ledger", small), 3)).toBeGreaterThan(0.18 * room);
  await small.end();
});

/** Asks for tunnels, which the routee never opens, and sends into them what the windows allow; gives how much that was. */
async function fillTunnels(peer: RawHttp2Peer, tunnels: number): Promise<number> {
  const ask = [
    ":method",
    "CONNECT",
    ":protocol",
    "websocket",
    ":scheme",
    "https",
    ":path",
    "/",
    ":authority",
    "orders",
  ];
  const left = Array.from({ length: tunnels }, () => 262_144);
  for (let i = 0; i < tunnels; i++) peer.send(rawFrame(HEADERS, WHOLE, 2 * i + 1, rawFields(ask)));
  let sent = 0;
  for (let before = -1, round = 1; before < sent; round++) {
    before = sent;
    const granted = peer.frames.filter(({ type, streamId }) => type === frames.WINDOW_UPDATE && streamId === 0);
    let may = granted.reduce((sum, { payload }) => sum + payload.readUInt32BE(0), frames.WINDOW_DEFAULT) - sent;
    for (let i = 0; i < tunnels; i++) {
      while (may > 0 && (left[i] as number) > 0) {
        const bytes = Math.min(may, left[i] as number, frames.PAYLOAD_MAX);
        peer.send(rawFrame(DATA, 0, 2 * i + 1, Buffer.alloc(bytes)));
        left[i] = (left[i] as number) - bytes;
        may -= bytes;
        sent += bytes;
      }
    }
    await read(peer, round);
  }
  expect(peer.closed).toBe(false);
  return sent;
}

test("rapid resets while the routee works free nothing that it still works on: it never has more connections than its limit (row 27)", async () => {
  routee.answer = () => undefined;
  let most = 0;
  const count = setInterval(() => {
    most = Math.max(most, routee.peers.filter(({ closed, ended }) => !closed && !ended).length);
  }, 1);
  const peer = await stranger();
  for (let round = 0; round < 40 && !peer.closed; round++) {
    const ids = Array.from({ length: 100 }, (_, i) => 2 * (round * 100 + i) + 1);
    peer.send(Buffer.concat(ids.map((id) => rawFrame(HEADERS, WHOLE, id, rawFields(post)))));
    peer.send(
      Buffer.concat(
        ids.map((id) => Buffer.concat([rawFrame(DATA, 0, id, "00"), rawFrame(RST_STREAM, 0, id, uint32(8))])),
      ),
    );
    await new Promise((resolve) => setImmediate(resolve));
  }
  await peer.end();
  clearInterval(count);
  expect(most).toBeLessThanOrEqual(1_024);
  routee.answer = () => ok("ok");
  expect((await ask({ port: mesh.web.proxy.outboundPort, host: "orders", path: "/" })).status).toBe(200);
});

test("a stranger that no policy names hears that there is nothing, whatever it asks for", async () => {
  const peer = await stranger("ledger");
  peer.send(rawFrame(HEADERS, WHOLE | END, 1, rawFields([...post, "authorization", "Bearer x"])));
  const head = await peer.frame((frame) => frame.type === HEADERS && frame.streamId === 1);
  expect(head.payload.toString("latin1")).toContain("SERVICE_UNKNOWN");
  expect(routee.text).toBe("");
});

/** Where its farewell came: on a slow machine the reset that follows may eat it. */
function calmed(peer: RawHttp2Peer): void {
  const goaway = peer.frames.find((frame) => frame.type === GOAWAY);
  if (goaway !== undefined) expect(goaway.payload.readUInt32BE(4)).toBe(frames.ENHANCE_YOUR_CALM);
}

function residentBytes(): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? 0) * 1024;
}
