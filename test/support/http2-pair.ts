import { duplexPair } from "node:stream";
import type { Duplex } from "node:stream";
import { defaultsOf } from "../../src/base/options.ts";
import type { OptionValues } from "../../src/base/options.ts";
import type { Fields, RequestHead, ResponseHead } from "../../src/http/message.ts";
import type {
  BodyEvents,
  ClientConnection,
  ClientExchange,
  ConnectionFacts,
  Handler,
  Loss,
  ResponseEvents,
  ServerConnection,
  ServerExchange,
} from "../../src/transport/exchange.ts";
import { connectHttp2 } from "../../src/transport/http2-client.ts";
import { http2Options } from "../../src/transport/http2-options.ts";
import { serveHttp2 } from "../../src/transport/http2-server.ts";
import { RawPeer, rawFrame, rawPreface } from "./http2-raw.ts";
import { ManualClock } from "./manual-clock.ts";

export const facts: ConnectionFacts = { protocol: "h2", remoteAddress: "127.0.0.1", localPort: 15443, peer: undefined };

export type Options = OptionValues<typeof http2Options>;

export function optionsWith(some: Partial<Options> = {}): Options {
  // The window that tests count with, whatever is the default.
  return { ...defaultsOf(http2Options), streamWindowBytes: 262_144, ...some };
}

/** What happened to one body, in the order in which it did. */
export class Heard implements ResponseEvents {
  readonly log: string[] = [];
  readonly chunks: Buffer[] = [];
  heads: ResponseHead[] = [];
  trailers: Fields | undefined;
  loss: Loss | undefined;
  ended = false;
  drains = 0;
  /** Consumes what it gets at once. */
  consumes: { consume(bytes: number): void } | undefined;
  onDrained: (() => void) | undefined;
  #waiters: (() => void)[] = [];

  get body(): string {
    return Buffer.concat(this.chunks).toString();
  }
  get bytes(): number {
    return this.chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  }
  /** Resolves when the exchange is over for this side. */
  async over(): Promise<this> {
    await this.until(() => this.ended || this.loss !== undefined);
    return this;
  }
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }
  informed(head: ResponseHead): void {
    this.#note(`informed ${head.status}`);
  }
  head(head: ResponseHead, end: boolean): void {
    this.heads.push(head);
    if (end) this.ended = true;
    this.#note(`head ${head.status}${end ? " end" : ""}`);
  }
  data(chunk: Buffer): void {
    this.chunks.push(chunk);
    this.consumes?.consume(chunk.length);
    this.#note("data");
  }
  end(trailers: Fields | undefined): void {
    this.ended = true;
    this.trailers = trailers;
    this.#note("end");
  }
  aborted(loss: Loss): void {
    this.loss = loss;
    this.#note(`aborted ${loss.kind}`);
  }
  drained(): void {
    this.drains++;
    this.onDrained?.();
    this.#note("drained");
  }
  #note(event: string): void {
    this.log.push(event);
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter();
  }
}

export function get(path = "/", fields: Fields = [], method = "GET"): RequestHead {
  return { method, scheme: "http", authority: "orders", path, fields, bodyLength: method === "POST" ? -1 : 0 };
}

/** A client connection and its closing, kept. */
export interface Ends {
  readonly clock: ManualClock;
  readonly closed: string[];
  /** What was told of bugs, for the log. */
  readonly faults: unknown[];
  goaways: number;
}

export function endsOf(clock = new ManualClock()): Ends {
  return { clock, closed: [], faults: [], goaways: 0 };
}

export function contextOf(ends: Ends, options: Options) {
  return {
    clock: ends.clock,
    options,
    onClosed: (because: string): void => void ends.closed.push(because),
    onGoaway: (): void => void ends.goaways++,
    onFault: (thrown: unknown): void => void ends.faults.push(thrown),
  };
}

/** Our server with a peer that is spoken by hand, its preface sent. */
export function rawToServer(handler: Handler, some: Partial<Options> = {}, begin: Buffer = rawFrame(4, 0, 0)) {
  const [near, far] = duplexPair();
  const ends = endsOf();
  const server: ServerConnection = serveHttp2(far, facts, handler, contextOf(ends, optionsWith(some)));
  const peer = new RawPeer(near);
  peer.send(rawPreface, begin);
  return { peer, server, ends, clock: ends.clock };
}

/** Our client with a server that is spoken by hand, its settings sent. */
export async function rawToClient(some: Partial<Options> = {}, settings: Buffer = rawFrame(4, 0, 0)) {
  const [near, far] = duplexPair();
  const ends = endsOf();
  const peer = new RawPeer(near, rawPreface.length);
  const connecting = connectHttp2(far, contextOf(ends, optionsWith(some)));
  peer.send(settings);
  const client: ClientConnection = await connecting;
  return { peer, client, ends, clock: ends.clock };
}

/** Our client and our server. */
export async function bothEnds(
  handler: Handler,
  some: { client?: Partial<Options>; server?: Partial<Options>; sockets?: [Duplex, Duplex] } = {},
) {
  const [near, far] = some.sockets ?? duplexPair();
  const atServer = endsOf();
  const atClient = endsOf();
  const server = serveHttp2(far, facts, handler, contextOf(atServer, optionsWith(some.server)));
  const client = await connectHttp2(near, contextOf(atClient, optionsWith(some.client)));
  return { client, server, atServer, atClient };
}

/** Sends a request; what it hears consumes by itself. */
export function ask(
  client: ClientConnection,
  head: RequestHead,
  end = true,
): { exchange: ClientExchange; heard: Heard } {
  const heard = new Heard();
  const exchange = client.request(head, end, heard);
  if (exchange === undefined) throw new Error("the connection took no request");
  heard.consumes = exchange;
  return { exchange, heard };
}

/** Answers with the method, path and body of the request. */
export function echo(exchange: ServerExchange): void {
  const heard: Heard = new Heard();
  heard.consumes = exchange;
  const answer = (trailers: Fields | undefined): void => {
    const body = Buffer.concat(heard.chunks);
    exchange.respond({ status: 200, fields: ["x-path", exchange.head.path], bodyLength: body.length }, false);
    exchange.write(body);
    exchange.end(trailers);
  };
  const events: BodyEvents = {
    data: (chunk) => heard.data(chunk),
    end: answer,
    aborted: (loss) => heard.aborted(loss),
    drained: () => heard.drained(),
  };
  exchange.listen(events);
  if (exchange.bodyless) answer(undefined);
}
