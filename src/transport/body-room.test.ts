import { duplexPair } from "node:stream";
import { expect, test } from "vitest";
import { contextOf, endsOf, facts, get, Heard, optionsWith } from "../../test/support/http2-pair.ts";
import { BodyRoom, type RoomShare } from "./body-room.ts";
import type { ServerExchange } from "./exchange.ts";
import { connectHttp2 } from "./http2-client.ts";
import { serveHttp2 } from "./http2-server.ts";

/** What every connection has in any case (RFC 9113, 6.9.2). */
const windowBytes = 65_535;
const bodyBytes = 300_000;

/** A peer that posts bodies on a connection to a server of ours, at which nobody reads them. */
class Peer {
  readonly bodies: Body[] = [];
  readonly #end: () => void;

  private constructor(end: () => void) {
    this.#end = end;
  }

  static async open(room: RoomShare, streams: number): Promise<Peer> {
    const [near, far] = duplexPair();
    const peer: Peer = new Peer(() => {
      client.destroy("the test ends it");
      server.destroy("the test ends it");
    });
    const server = serveHttp2(far, facts, (exchange) => peer.bodies.push(new Body(exchange)), {
      ...contextOf(endsOf(), optionsWith()),
      room,
    });
    const client = await connectHttp2(near, contextOf(endsOf(), optionsWith()));
    for (let i = 0; i < streams; i++) {
      const exchange = client.request(get("/", [], "POST"), false, new Heard());
      exchange?.write(Buffer.alloc(bodyBytes));
      exchange?.end();
    }
    return peer;
  }

  get held(): number {
    return this.bodies.reduce((sum, { held }) => sum + held, 0);
  }

  end(): void {
    this.#end();
  }
}

class Body {
  held = 0;
  came = 0;
  ended = false;
  readonly #exchange: ServerExchange;
  #reads = false;

  constructor(exchange: ServerExchange) {
    this.#exchange = exchange;
    exchange.listen({
      data: (chunk) => {
        this.held += chunk.length;
        this.came += chunk.length;
        if (this.#reads) this.read();
      },
      end: () => (this.ended = true),
      aborted: () => undefined,
      drained: () => undefined,
    });
  }

  /** All that is here, and all that comes from now on. */
  read(): void {
    this.#reads = true;
    const { held } = this;
    this.held = 0;
    this.#exchange.consume(held);
  }
}

/** Until nothing moves any more. */
async function still(peers: readonly Peer[]): Promise<void> {
  let before = "";
  for (let same = 0; same < 20;) {
    await new Promise((resolve) => setImmediate(resolve));
    const now = peers.map(({ bodies }) => bodies.map(({ came, ended }) => `${came}${ended}`).join()).join(";");
    same = now === before ? same + 1 : 0;
    before = now;
  }
}

function sum(peers: readonly Peer[]): number {
  return peers.reduce((all, { held }) => all + held, 0);
}

async function open(room: RoomShare, connections: number, streams: number): Promise<Peer[]> {
  const peers: Peer[] = [];
  for (let i = 0; i < connections; i++) peers.push(await Peer.open(room, streams));
  await still(peers);
  return peers;
}

test("bodies that nobody reads hold what there is room for and the window of each connection, however many they are", async () => {
  const room = new BodyRoom(1_048_576);
  const peers = await open(room.share(1), 10, 8);
  expect(sum(peers)).toBeLessThanOrEqual(room.bytesMax + 10 * windowBytes);
  expect(sum(peers)).toBeGreaterThan(room.bytesMax);
  // Nobody is shut out: each may send what the protocol gives it.
  for (const { held } of peers) expect(held).toBeGreaterThanOrEqual(windowBytes);
  // One that is read goes on to its end, though all others still hold what they had.
  for (const body of peers.at(-1)?.bodies ?? []) body.read();
  await still(peers);
  expect(peers.at(-1)?.bodies.map(({ ended }) => ended)).toEqual(Array.from({ length: 8 }, () => true));
  for (const { bodies } of peers) for (const body of bodies) body.read();
  await still(peers);
  expect(peers.flatMap(({ bodies }) => bodies.filter(({ ended }) => ended))).toHaveLength(80);
  for (const peer of peers) peer.end();
  expect(room.taken).toBe(0);
});

test("a body that nobody reads does not stop the others of its connection while there is room", async () => {
  const room = new BodyRoom(16_777_216);
  const [peer] = (await open(room.share(1), 1, 8)) as [Peer];
  // Each stream's own window is full, and the connection's is not.
  expect(peer.held).toBe(8 * 262_144);
  peer.bodies[7]?.read();
  await still([peer]);
  expect(peer.bodies.map(({ ended }) => ended)).toEqual([false, false, false, false, false, false, false, true]);
  peer.end();
});

test("room that somebody leaves goes to those who wait for it, without a word of theirs", async () => {
  const room = new BodyRoom(1_048_576);
  const share = room.share(1);
  const [first] = (await open(share, 1, 8)) as [Peer];
  const others = await open(share, 20, 1);
  for (const { held } of others) expect(held).toBe(windowBytes);
  first.end();
  await still(others);
  expect(others.filter(({ held }) => held >= 2 * windowBytes).length).toBeGreaterThanOrEqual(15);
  expect(sum(others)).toBeLessThanOrEqual(room.bytesMax + 20 * windowBytes);
  expect(sum(others)).toBeGreaterThan(room.bytesMax);
  for (const { bodies } of others) bodies[0]?.read();
  await still(others);
  expect(others.filter(({ bodies }) => bodies[0]?.ended)).toHaveLength(20);
  for (const peer of others) peer.end();
  expect(room.taken).toBe(0);
});

test("one peer, over however many connections, leaves room for the others", async () => {
  const room = new BodyRoom(2_097_152);
  const greedy = await open(room.share(0.75), 10, 8);
  expect(sum(greedy)).toBeLessThanOrEqual(0.75 * room.bytesMax + 10 * windowBytes);
  const [other] = (await open(room.share(0.75), 1, 2)) as [Peer];
  expect(other.held).toBeGreaterThan(0.75 * 0.25 * room.bytesMax);
  for (const peer of [...greedy, other]) peer.end();
  expect(room.taken).toBe(0);
});

test("room that one peer leaves goes to another that had all of its share, without a word of its own", async () => {
  const room = new BodyRoom(2_097_152);
  const first = await open(room.share(0.75), 4, 8);
  const [other] = (await open(room.share(0.75), 1, 8)) as [Peer];
  const { held } = other;
  for (const peer of first) peer.end();
  await still([other]);
  expect(other.held).toBeGreaterThan(2 * held);
  other.end();
  expect(room.taken).toBe(0);
});

test("a connection whose socket throws at every write gives its room back, and its streams hear of its end", async () => {
  const room = new BodyRoom(1_048_576);
  const [near, far] = duplexPair();
  const heard: string[] = [];
  const exchanges: ServerExchange[] = [];
  const serve = (exchange: ServerExchange): void => {
    exchanges.push(exchange);
    exchange.listen({ data() {}, end() {}, aborted: () => heard.push("aborted"), drained() {} });
  };
  serveHttp2(far, facts, serve, {
    ...contextOf(endsOf(), optionsWith()),
    room: room.share(1),
    onClosed: () => heard.push("closed"),
    onFault: () => heard.push("fault"),
  });
  const client = await connectHttp2(near, contextOf(endsOf(), optionsWith()));
  client.request(get("/", [], "POST"), false, new Heard())?.write(Buffer.alloc(bodyBytes));
  while (room.taken === 0) await new Promise((resolve) => setImmediate(resolve));
  far.write = () => {
    throw new Error("a bug");
  };
  exchanges[0]?.respond({ status: 200, fields: [], bodyLength: -1 }, false);
  while (!far.closed) await new Promise((resolve) => setImmediate(resolve));
  expect(heard).toEqual(["fault", "aborted", "closed"]);
  expect(room.taken).toBe(0);
});
