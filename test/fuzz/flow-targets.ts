import * as fc from "fast-check";
import { defaultsOf } from "../../src/base/options.ts";
import * as frames from "../../src/http/http2/frames.ts";
import type { ClientConnection, ConnectionFacts, ServerExchange } from "../../src/transport/exchange.ts";
import { connectHttp2 } from "../../src/transport/http2-client.ts";
import { http2Options } from "../../src/transport/http2-options.ts";
import { serveHttp2 } from "../../src/transport/http2-server.ts";
import { rawPreface } from "../support/http2-raw.ts";
import { ManualClock } from "../support/manual-clock.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { FakeSocket } from "./fake-socket.ts";
import { target, type Target } from "./target.ts";

/** Both roles over a wire that the test carries byte by byte, with somebody between them who counts every window. */

const INITIAL_WINDOW_SIZE = 4;

/** What one end may still send, by what it was told so far. */
class Ledger {
  readonly #of: string;
  #connection = frames.WINDOW_DEFAULT;
  #initial = frames.WINDOW_DEFAULT;
  readonly #streams = new Map<number, number>();

  constructor(of: string) {
    this.#of = of;
  }

  /** A frame has reached this end. */
  heard(type: number, flags: number, id: number, payload: Buffer): void {
    if (type === frames.WINDOW_UPDATE) {
      const by = payload.readUInt32BE(0);
      if (id === 0) this.#connection += by;
      else this.#streams.set(id, this.#left(id) + by);
      if (this.#connection > frames.WINDOW_MAX || this.#left(id) > frames.WINDOW_MAX)
        throw new Error(`the ${this.#of} was given more than a window can hold`);
    } else if (type === frames.SETTINGS && (flags & frames.ACK) === 0) {
      for (let at = 0; at < payload.length; at += 6) {
        if (payload.readUInt16BE(at) !== INITIAL_WINDOW_SIZE) continue;
        const next = payload.readUInt32BE(at + 2);
        for (const [stream, left] of this.#streams) this.#streams.set(stream, left + next - this.#initial);
        this.#initial = next;
      }
    }
  }

  /** A frame is sent by this end. */
  said(type: number, id: number, payload: number): void {
    if (type !== frames.DATA) return;
    this.#connection -= payload;
    this.#streams.set(id, this.#left(id) - payload);
    // An empty frame may always be sent.
    if (payload > 0 && (this.#connection < 0 || this.#left(id) < 0))
      throw new Error(`the ${this.#of} overran a window: ${this.#connection} and ${this.#left(id)} on stream ${id}`);
  }

  #left(id: number): number {
    return this.#streams.get(id) ?? this.#initial;
  }
}

/** One direction: bytes under way, delivered in random pieces, and the frames that they are. */
class Wire {
  readonly #queue: { bytes: Buffer; left: () => void }[] = [];
  readonly #to: FakeSocket;
  readonly #ledgers: { from: Ledger; to: Ledger };
  #said: Buffer = Buffer.alloc(0);
  #heard: Buffer = Buffer.alloc(0);
  #skip: { said: number; heard: number };

  constructor(from: FakeSocket, to: FakeSocket, about: { ledgers: { from: Ledger; to: Ledger }; skip: number }) {
    this.#to = to;
    this.#ledgers = about.ledgers;
    this.#skip = { said: about.skip, heard: about.skip };
    from.onWrite = (bytes, left) => {
      const copy = Buffer.from(bytes);
      this.#queue.push({ bytes: copy, left });
      this.#said = this.#scan(Buffer.concat([this.#said, copy]), "said");
    };
  }

  get waiting(): boolean {
    return this.#queue.length > 0;
  }

  deliver(sizeMax: number): void {
    const first = this.#queue[0];
    if (first === undefined || this.#to.isPaused()) return;
    const piece = Buffer.from(first.bytes.subarray(0, sizeMax));
    first.bytes = first.bytes.subarray(piece.length);
    this.#heard = this.#scan(Buffer.concat([this.#heard, piece]), "heard");
    this.#to.say(piece);
    if (first.bytes.length > 0) return;
    this.#queue.shift();
    first.left();
  }

  #scan(bytes: Buffer, which: "said" | "heard"): Buffer {
    let at = Math.min(this.#skip[which], bytes.length);
    this.#skip[which] -= at;
    while (at + 9 <= bytes.length && at + 9 + bytes.readUIntBE(at, 3) <= bytes.length) {
      const size = bytes.readUIntBE(at, 3);
      const [type, flags, id] = [bytes[at + 3] as number, bytes[at + 4] as number, bytes.readUInt32BE(at + 5)];
      if (which === "said") this.#ledgers.from.said(type, id, size);
      else this.#ledgers.to.heard(type, flags, id, bytes.subarray(at + 9, at + 9 + size));
      at += 9 + size;
    }
    return bytes.subarray(at);
  }
}

interface Case {
  readonly seed: number;
  readonly streams: readonly { readonly up: number; readonly down: number }[];
  readonly clientWindow: number;
  readonly serverWindow: number;
  readonly connectionWindow: number;
  /** Beyond the window that each connection has. */
  readonly room: number;
  readonly output: number;
  readonly pieceMax: number;
}

const window = fc.constantFrom(1, 10, 1_000, 16_384, 65_535, 70_000, 262_144);
const size = fc.constantFrom(0, 1, 100, 16_384, 65_535, 65_536, 100_000);
const cases: fc.Arbitrary<Case> = fc
  .record({
    seed: fc.integer({ min: 0 }),
    streams: fc.array(fc.record({ up: size, down: size }), { minLength: 1, maxLength: 5 }),
    clientWindow: window,
    serverWindow: window,
    connectionWindow: fc.constantFrom(65_535, 65_536, 100_000, 1_048_576),
    room: fc.constantFrom(0, 1, 30_000, 1_048_576),
    output: fc.constantFrom(1, 1_000, 32_768, 262_144),
    pieceMax: fc.constantFrom(50, 1_000, 20_000, 100_000),
  })
  // A window of a byte and a body of a hundred thousand is a hundred thousand round trips, and says no more than a hundred.
  .map((plan) => {
    const most = Math.min(plan.clientWindow, plan.serverWindow) * 100;
    const streams = plan.streams.map(({ up, down }) => ({ up: Math.min(up, most), down: Math.min(down, most) }));
    return { ...plan, streams };
  });

const facts: ConnectionFacts = { protocol: "h2", remoteAddress: "127.0.0.1", localPort: 1, peer: undefined };

/** A body of so many bytes, written as its receiver asks for it. */
class Sender {
  left: number;
  #blocked = false;
  readonly #random: SeededRandom;
  #to: { write(chunk: Buffer): boolean; end(): void } | undefined;

  constructor(bytes: number, random: SeededRandom) {
    this.left = bytes;
    this.#random = random;
  }

  begin(to: { write(chunk: Buffer): boolean; end(): void }): void {
    this.#to = to;
    this.go();
  }

  go(): void {
    this.#blocked = false;
    while (this.left > 0 && !this.#blocked) {
      const bytes = Math.min(this.left, 1 + Math.floor(this.#random.draw() * 40_000));
      this.left -= bytes;
      this.#blocked = this.#to?.write(Buffer.alloc(bytes, "b")) === false;
    }
    if (this.left === 0 && this.#to !== undefined) {
      this.#to.end();
      this.#to = undefined;
    }
  }
}

/** Bytes that were received and are consumed later, in any parts and order. */
class Consumer {
  held = 0;
  heldMost = 0;
  received = 0;
  ended = false;
  consume: (bytes: number) => void = () => undefined;

  take(bytes: number): void {
    this.received += bytes;
    this.held += bytes;
    this.heldMost = Math.max(this.heldMost, this.held);
  }

  free(random: SeededRandom): void {
    if (this.held === 0) return;
    const bytes = random.draw() < 0.5 ? this.held : 1 + Math.floor(random.draw() * this.held);
    this.held -= bytes;
    this.consume(bytes);
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function carry(plan: Case): Promise<void> {
  const random = new SeededRandom(plan.seed);
  const [near, far] = [new FakeSocket(), new FakeSocket()];
  const [ofClient, ofServer] = [new Ledger("client"), new Ledger("server")];
  const wires = [
    new Wire(near, far, { ledgers: { from: ofClient, to: ofServer }, skip: rawPreface.length }),
    new Wire(far, near, { ledgers: { from: ofServer, to: ofClient }, skip: 0 }),
  ];
  const closed: string[] = [];
  const context = (streamWindowBytes: number) => ({
    clock: new ManualClock(),
    options: {
      ...defaultsOf(http2Options),
      streamWindowBytes,
      connectionWindowBytes: plan.connectionWindow,
      heldBytesMax: plan.room,
      outputBytes: plan.output,
      noiseMax: 1_000_000,
    },
    onClosed: (because: string): void => void closed.push(because),
  });
  const consumers: Consumer[] = [];
  const ups: Consumer[] = [];
  const server = serveHttp2(
    far.socket,
    facts,
    (exchange: ServerExchange) => {
      const index = Number(exchange.head.path.slice(1));
      const up = listenOn(exchange, consumers);
      ups[index] = up.consumer;
      const down = new Sender(plan.streams[index]?.down ?? 0, random);
      exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
      up.onDrained = () => down.go();
      down.begin(exchange);
    },
    context(plan.serverWindow),
  );
  const connecting = connectHttp2(near.socket, context(plan.clientWindow));
  let client: ClientConnection | undefined;
  void connecting.then((made) => (client = made));
  const downs: Consumer[] = [];
  const step = (): void => {
    for (const wire of wires) if (random.draw() < 0.8) wire.deliver(1 + Math.floor(random.draw() * plan.pieceMax));
    for (const consumer of consumers) if (random.draw() < 0.6) consumer.free(random);
  };
  const done = (): boolean =>
    downs.length === plan.streams.length &&
    plan.streams.every(
      ({ up, down }, i) =>
        downs[i]?.ended === true && ups[i]?.ended === true && downs[i]?.received === down && ups[i]?.received === up,
    );
  try {
    let still = 0;
    let before = -1;
    while (!done()) {
      for (let i = 0; i < 20; i++) step();
      await turn();
      if (client !== undefined && downs.length === 0)
        for (const [i, { up }] of plan.streams.entries())
          downs.push(ask(client, { path: `/${i}`, up, random, consumers }));
      if (closed.length > 0) throw new Error(`the connection ended: ${closed.join(", ")}`);
      const now =
        consumers.reduce((sum, { received, held }) => sum + received * 2 - held, 0) +
        wires.filter((wire) => wire.waiting).length;
      const moving = now !== before || wires.some((wire) => wire.waiting) || consumers.some(({ held }) => held > 0);
      still = moving ? 0 : still + 1;
      before = now;
      if (still > 50)
        throw new Error(
          `nothing moves any more: ${JSON.stringify(plan.streams.map((of, i) => [of, ups[i]?.received, downs[i]?.received]))}`,
        );
    }
    const most = Math.max(...ups.map(({ heldMost }) => heldMost), 0);
    // Before the server's settings are known its streams have the window of RFC 9113, 6.9.2.
    if (most > Math.max(plan.serverWindow, 0))
      throw new Error(`${most} bytes lay unconsumed in a window of ${plan.serverWindow}`);
    if (downs.some(({ heldMost }) => heldMost > plan.clientWindow))
      throw new Error("an answer lay unconsumed beyond its window");
  } finally {
    server.destroy("the case is over");
    client?.destroy("the case is over");
    await turn();
  }
}

function listenOn(exchange: ServerExchange, consumers: Consumer[]): { consumer: Consumer; onDrained: () => void } {
  const consumer = new Consumer();
  const made = { consumer, onDrained: (): void => undefined };
  consumer.consume = (bytes) => exchange.consume(bytes);
  consumer.ended = exchange.bodyless;
  consumers.push(consumer);
  exchange.listen({
    data: (chunk) => consumer.take(chunk.length),
    end: () => (consumer.ended = true),
    aborted: (loss) => {
      throw new Error(loss.because);
    },
    drained: () => made.onDrained(),
  });
  return made;
}

function ask(
  client: ClientConnection,
  of: { path: string; up: number; random: SeededRandom; consumers: Consumer[] },
): Consumer {
  const consumer = new Consumer();
  const sender = new Sender(of.up, of.random);
  const head = { method: "POST", scheme: "http", authority: "orders", path: of.path, fields: [], bodyLength: -1 };
  const exchange = client.request(head, false, {
    informed: () => undefined,
    head: (_head, end) => (consumer.ended = end),
    data: (chunk) => consumer.take(chunk.length),
    end: () => (consumer.ended = true),
    aborted: (loss) => {
      throw new Error(loss.because);
    },
    drained: () => sender.go(),
  });
  if (exchange === undefined) throw new Error("the client takes no request");
  consumer.consume = (bytes) => exchange.consume(bytes);
  of.consumers.push(consumer);
  sender.begin(exchange);
  return consumer;
}

export const flowTargets: readonly Target[] = [
  target(
    {
      name: "http2-flow",
      says: "under any windows, pieces and order of consuming every body arrives whole, and no window is ever overrun",
      share: 0.03,
    },
    fc.asyncProperty(cases, carry),
  ),
];
