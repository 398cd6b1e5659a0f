import { once } from "node:events";
import { connect as connectHttp2 } from "node:http2";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { eventually } from "../support/mesh.ts";
import { makeTestPki } from "../support/pki.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { dialInbound, twoProxies, webMay, type TwoProxies } from "../support/two-proxies.ts";

/** Tunnels by every door, both directions at once, cut and reset in the middle: each byte is its own tunnel's, and nothing stays. */
let routee: Server;
let mesh: TwoProxies;
let direct: number;
const accepted = new Set<Socket>();
const dialled: { destroy(): unknown }[] = [];

beforeAll(async () => {
  routee = createServer({ allowHalfOpen: true }, (socket) => {
    accepted.add(socket);
    socket.on("close", () => accepted.delete(socket)).on("error", () => undefined);
    serve(socket).catch(() => socket.destroy());
  });
  routee.listen(0, "127.0.0.1");
  await once(routee, "listening");
  const { port } = routee.address() as AddressInfo;
  const free = createServer();
  free.listen(0, "127.0.0.1");
  await once(free, "listening");
  direct = (free.address() as AddressInfo).port;
  free.close();
  mesh = await twoProxies(await makeTestPki({ wallMs: Date.now() }), {
    routee: port,
    protocol: "tcp",
    to: [{ service: { service: "orders", namespace: "default" }, address: { host: "127.0.0.1", port: direct } }],
  });
});

afterAll(async () => {
  for (const one of dialled) one.destroy();
  await mesh.end();
  for (const socket of accepted) socket.destroy();
  routee.close();
});

function partOf(seed: number, from: number, length: number): Buffer {
  const part = Buffer.allocUnsafe(length);
  for (let i = 0; i < length; i++) {
    const at = from + i;
    const lane = at & 3;
    part[i] = lane === 0 ? seed : lane === 1 ? at >>> 18 : lane === 2 ? at >>> 10 : at >>> 2;
  }
  return part;
}

const isOwn = (bytes: Buffer, seed: number, from: number): boolean => bytes.equals(partOf(seed, from, bytes.length));

/** Sends `bytes` of body `seed` in uneven pieces; ends behind them. */
async function pour(to: Duplex, seed: number, bytes: number): Promise<void> {
  let woken = (): void => undefined;
  to.on("drain", () => woken()).on("close", () => woken());
  const sizes = [100, 9_000, 65_536, 1, 20_000, 140_000];
  for (let at = 0, i = seed; at < bytes && !to.destroyed; i++) {
    const length = Math.min(bytes - at, sizes[i % sizes.length] as number);
    const room = to.write(partOf(seed, at, length));
    at += length;
    if (!room && !to.destroyed) await new Promise<void>((go) => (woken = go));
  }
  to.end();
}

/** The first 9 bytes name the seed and how much is wanted; then both directions run. A wrong byte resets. */
async function serve(socket: Socket): Promise<void> {
  let head = Buffer.alloc(0);
  let at = 0;
  let poured: Promise<void> | undefined;
  for await (const piece of socket as AsyncIterable<Buffer>) {
    let chunk = piece;
    if (poured === undefined) {
      head = Buffer.concat([head, chunk]);
      if (head.length < 9) continue;
      // Seed 0 asks for one byte and silence.
      if (head[0] === 0) socket.write("x");
      poured = head[0] === 0 ? Promise.resolve() : pour(socket, head[0] as number, head.readUInt32BE(1));
      chunk = head.subarray(9);
    }
    if (!isOwn(chunk, (head[0] as number) ^ 0x80, at)) return void socket.resetAndDestroy();
    at += chunk.length;
  }
  if (at !== head.readUInt32BE(5)) socket.resetAndDestroy();
  await poured;
}

type Door = "--to" | "CONNECT" | "CONNECT over h2c" | "a peer over HTTP/1.1" | "a peer over HTTP/2";
const doors: readonly Door[] = ["--to", "CONNECT", "CONNECT over h2c", "a peer over HTTP/1.1", "a peer over HTTP/2"];

async function enter(door: Door): Promise<Duplex> {
  const { port } = routee.address() as AddressInfo;
  const authority = `orders.default.mesh:${port}`;
  if (door === "a peer over HTTP/2" || door === "CONNECT over h2c") {
    const socket = door === "CONNECT over h2c" ? undefined : await dialInbound(mesh, "web", "h2");
    const session = connectHttp2(
      `http://127.0.0.1:${mesh.web.proxy.outboundPort}`,
      socket === undefined ? {} : { createConnection: () => socket },
    );
    session.on("error", () => undefined);
    dialled.push(session);
    const stream = session.request({ ":method": "CONNECT", ":authority": authority });
    stream.on("error", () => undefined).on("close", () => session.close());
    await once(stream, "response");
    return stream;
  }
  const socket =
    door === "a peer over HTTP/1.1"
      ? await dialInbound(mesh, "web", "http/1.1")
      : connect({ port: door === "--to" ? direct : mesh.web.proxy.outboundPort, allowHalfOpen: true });
  socket.on("error", () => undefined);
  dialled.push(socket);
  if (door === "--to") return socket;
  socket.write(`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n\r\n`);
  const [answer] = (await once(socket, "data")) as [Buffer];
  expect(answer.toString("latin1")).toBe("HTTP/1.1 200 OK\r\n\r\n");
  return socket;
}

interface Wish {
  readonly seed: number;
  readonly down: number;
  readonly up: number;
  readonly stopAt: number;
  readonly slowly: boolean;
}

/** "whole", "cut" where it was to be, or what was wrong. */
async function run(door: Door, { seed, down, up, stopAt, slowly }: Wish): Promise<string> {
  const tunnel = await enter(door);
  const head = Buffer.alloc(9);
  head[0] = seed;
  head.writeUInt32BE(down, 1);
  head.writeUInt32BE(up, 5);
  tunnel.write(head);
  const poured = pour(tunnel, seed ^ 0x80, up).catch(() => undefined);
  let at = 0;
  try {
    for await (const chunk of tunnel as AsyncIterable<Buffer>) {
      if (!isOwn(chunk, seed, at)) return `foreign bytes near ${at}`;
      at += chunk.length;
      if (at >= stopAt) {
        if (seed % 2 === 0 && "resetAndDestroy" in tunnel && door !== "a peer over HTTP/1.1")
          (tunnel as Socket).resetAndDestroy();
        else tunnel.destroy();
        return "cut";
      }
      if (slowly) await new Promise((resolve) => setImmediate(resolve));
    }
  } catch (thrown) {
    return `${at} of ${down}, then ${String(thrown)}`;
  }
  await poured;
  return at === down ? "whole" : `${at} of ${down}`;
}

const gauge = (which: "web" | "orders", name: string): number =>
  mesh[which].metrics
    .renderPrometheus()
    .split("\n")
    .filter((line) => line.startsWith(`${name}{`))
    .reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);

describe("tunnels", () => {
  test.for([...doors, "all of them"] as const)("by %s carry their own bytes, and leave nothing", async (which) => {
    const random = new SeededRandom(11);
    const all: Promise<string>[] = [];
    const wanted: string[] = [];
    for (let i = 0; i < 20; i++) {
      const door = which === "all of them" ? (doors[i % doors.length] as Door) : which;
      const cut = random.draw() < 0.4;
      const down = Math.floor(random.draw() * 1_500_000);
      const up = Math.floor(random.draw() * 800_000);
      const stopAt = cut ? Math.floor((down * random.draw()) / 2) : Infinity;
      all.push(run(door, { seed: i + 1, down, up, stopAt, slowly: random.draw() < 0.3 }));
      wanted.push(cut ? "cut" : "whole");
    }
    expect(await Promise.all(all)).toEqual(wanted);
    const left = (): number[] => [
      accepted.size,
      ...(["web", "orders"] as const).flatMap((side) => [
        gauge(side, "hauberk_tunnels_open"),
        gauge(side, "hauberk_requests_open"),
      ]),
    ];
    await eventually("nothing is left", 5_000, () =>
      Promise.resolve(left().every((count) => count === 0) ? true : undefined),
    );
  });

  test("end by whichever door they came when policy denies them, and are opened again as soon as it does not", async () => {
    const open = async (): Promise<Duplex[]> => {
      const tunnels = await Promise.all([...doors, ...doors].map((door) => enter(door)));
      for (const tunnel of tunnels) {
        tunnel.on("error", () => undefined);
        tunnel.write(Buffer.alloc(9));
      }
      const firsts = await Promise.all(tunnels.map((tunnel) => once(tunnel, "data") as Promise<[Buffer]>));
      expect(firsts.map(([chunk]) => chunk.length)).toEqual(tunnels.map(() => 1));
      return tunnels;
    };
    const tunnels = await open();
    const closed = Promise.all(
      tunnels.map((tunnel) => new Promise((resolve) => tunnel.on("end", resolve).on("close", resolve))),
    );
    mesh.publish([{ from: [{ services: ["web.default"] }], to: [{ methods: ["GET"] }] }]);
    await closed;
    mesh.publish(webMay);
    for (const tunnel of await open()) tunnel.destroy();
  });
});
