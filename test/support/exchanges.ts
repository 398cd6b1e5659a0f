import { asksForTunnel, type Fields, type RequestHead, type ResponseHead } from "../../src/http/message.ts";
import type {
  BodyEvents,
  ClientConnection,
  ClientExchange,
  ConnectionFacts,
  Loss,
  PeerIdentity,
  ResponseEvents,
  ServerExchange,
} from "../../src/transport/exchange.ts";

/** Exchanges in memory, for tests of what lies between a server connection and a client connection. */

export interface Asked {
  method?: string;
  authority?: string;
  path?: string;
  scheme?: string;
  fields?: Fields;
  bodyLength?: number;
  upgrade?: string;
  /** No body unless said: then `send` and `finish` write it. */
  body?: boolean;
  protocol?: "http/1.1" | "h2" | "tcp";
  peer?: PeerIdentity;
  remoteAddress?: string;
  localPort?: number;
}

/** What a client of the sidecar sends and sees. */
export class FakeServerExchange implements ServerExchange {
  readonly head: RequestHead;
  readonly bodyless: boolean;
  readonly connection: ConnectionFacts;
  events: BodyEvents | undefined;
  informed: ResponseHead[] = [];
  answer: ResponseHead | undefined;
  chunks: Buffer[] = [];
  trailers: Fields | undefined;
  over: "no" | "ended" | "aborted" = "no";
  loss: Loss | undefined;
  consumed = 0;
  /** Until so many bytes are written `write` gives true. */
  roomBytes = Infinity;

  constructor(asked: Asked = {}) {
    this.bodyless = asked.body !== true;
    this.head = {
      method: asked.method ?? "GET",
      scheme: asked.scheme ?? "http",
      authority: asked.authority ?? "orders",
      path: asked.path ?? "/",
      fields: asked.fields ?? [],
      bodyLength: asked.bodyLength ?? (asked.body === true ? -1 : 0),
      ...(asked.upgrade === undefined ? {} : { upgrade: asked.upgrade }),
    };
    this.connection = {
      protocol: asked.protocol ?? "http/1.1",
      // An explicit undefined stays: what nobody could see.
      remoteAddress: "remoteAddress" in asked ? asked.remoteAddress : "127.0.0.1",
      localPort: asked.localPort ?? 15_001,
      peer: asked.peer,
    };
  }

  listen(events: BodyEvents): void {
    this.events = events;
  }

  inform(head: ResponseHead): void {
    if (this.over === "no") this.informed.push(head);
  }

  respond(head: ResponseHead, end: boolean): void {
    if (this.over !== "no") return;
    if (this.answer !== undefined) throw new Error("a second head");
    this.answer = head;
    if (end) this.over = "ended";
  }

  write(chunk: Buffer): boolean {
    if (this.over !== "no") return true;
    if (this.answer === undefined) throw new Error("a body before its head");
    this.chunks.push(chunk);
    this.roomBytes -= chunk.length;
    return this.roomBytes > 0;
  }

  end(trailers?: Fields): void {
    if (this.over !== "no") return;
    this.over = "ended";
    this.trailers = trailers;
  }

  consume(bytes: number): void {
    this.consumed += bytes;
  }

  abort(loss: Loss): void {
    if (this.over !== "no") return;
    this.over = "aborted";
    this.loss = loss;
  }

  // What the client does.
  send(text: string | Buffer): void {
    this.events?.data(Buffer.from(text as string));
  }

  finish(trailers?: Fields): void {
    this.events?.end(trailers);
  }

  leave(): void {
    if (this.over === "aborted") return;
    this.over = "aborted";
    this.events?.aborted({ kind: "cancelled", because: "the client went away" });
  }

  drain(): void {
    this.roomBytes = Infinity;
    this.events?.drained();
  }

  text(): string {
    return Buffer.concat(this.chunks).toString("utf8");
  }
}

/** A server exchange with its answer at hand. */
export function fakeExchange(asked: Asked = {}) {
  const exchange = new FakeServerExchange(asked);
  return {
    exchange,
    get head() {
      return exchange.answer;
    },
    get over() {
      return exchange.over;
    },
    text: () => exchange.text(),
  };
}

/** One request as it arrived at a fake upstream. */
export class FakeClientExchange implements ClientExchange {
  readonly head: RequestHead;
  readonly events: ResponseEvents;
  readonly connection: FakeConnection;
  chunks: Buffer[] = [];
  ended: boolean;
  trailers: Fields | undefined;
  aborted: Loss | undefined;
  over = false;
  /** Our direction of a tunnel is over, the other is not. */
  answerEnded = false;
  consumed = 0;
  roomBytes = Infinity;

  constructor(head: RequestHead, end: boolean, about: { events: ResponseEvents; connection: FakeConnection }) {
    this.head = head;
    this.ended = end;
    this.events = about.events;
    this.connection = about.connection;
  }

  write(chunk: Buffer): boolean {
    if (this.over || this.aborted !== undefined) return true;
    if (this.ended) throw new Error("a body after its end");
    this.chunks.push(chunk);
    this.roomBytes -= chunk.length;
    return this.roomBytes > 0;
  }

  end(trailers?: Fields): void {
    if (this.over || this.aborted !== undefined) return;
    if (this.ended) throw new Error("a second end");
    this.ended = true;
    this.trailers = trailers;
    if (this.answerEnded) this.#finish();
  }

  consume(bytes: number): void {
    this.consumed += bytes;
  }

  abort(loss: Loss): void {
    if (this.over || this.aborted !== undefined) return;
    this.aborted = loss;
    this.connection.gone(this);
  }

  text(): string {
    return Buffer.concat(this.chunks).toString("utf8");
  }

  // What the upstream does; nothing is told to a caller that gave the exchange up.
  respond(status: number, fields: Fields = [], end = true): void {
    if (this.over || this.aborted !== undefined) return;
    if (end) this.#answered();
    this.events.head({ status, fields, bodyLength: end ? 0 : -1 }, end);
  }

  inform(status: number, fields: Fields = []): void {
    if (!this.over && this.aborted === undefined) this.events.informed({ status, fields, bodyLength: 0 });
  }

  data(text: string | Buffer): void {
    if (!this.over && this.aborted === undefined) this.events.data(Buffer.from(text as string));
  }

  finish(trailers?: Fields): void {
    if (this.over || this.aborted !== undefined) return;
    this.#answered();
    this.events.end(trailers);
  }

  lose(kind: Loss["kind"], because = "lost in the test", whole?: object): void {
    if (this.over || this.aborted !== undefined) return;
    this.#finish();
    this.events.aborted({ kind, because, ...(whole === undefined ? {} : { whole }) });
  }

  drain(): void {
    this.roomBytes = Infinity;
    if (!this.over && this.aborted === undefined) this.events.drained();
  }

  #answered(): void {
    this.answerEnded = true;
    if (this.ended || !asksForTunnel(this.head)) this.#finish();
  }

  #finish(): void {
    this.over = true;
    this.connection.gone(this);
  }
}

/** A client connection whose other end is the test. */
export class FakeConnection implements ClientConnection {
  readonly protocol: "http/1.1" | "h2";
  exchangesMax = 100;
  open = true;
  drained = false;
  destroyed: string | undefined;
  readonly under = new Set<FakeClientExchange>();
  readonly requests: FakeClientExchange[] = [];
  onRequest: ((exchange: FakeClientExchange) => void) | undefined;
  onClosed: ((because: string) => void) | undefined;

  constructor(protocol: "http/1.1" | "h2" = "h2") {
    this.protocol = protocol;
  }

  get exchanges(): number {
    return this.under.size;
  }

  request(head: RequestHead, end: boolean, events: ResponseEvents): FakeClientExchange | undefined {
    if (!this.open || this.under.size >= this.exchangesMax) return undefined;
    const exchange = new FakeClientExchange(head, end, { events, connection: this });
    this.under.add(exchange);
    this.requests.push(exchange);
    this.onRequest?.(exchange);
    return exchange;
  }

  gone(exchange: FakeClientExchange): void {
    this.under.delete(exchange);
    if (this.drained && this.under.size === 0) this.close("drained");
  }

  drain(): void {
    this.open = false;
    this.drained = true;
    if (this.under.size === 0) this.close("drained");
  }

  destroy(because: string): void {
    this.close(because);
  }

  /** The socket ends: what is under way is lost. */
  close(because = "closed in the test", kind: Loss["kind"] = "lost"): void {
    if (this.destroyed !== undefined) return;
    this.open = false;
    this.destroyed = because;
    const whole = {};
    for (const exchange of this.under) exchange.lose(kind, because, whole);
    this.onClosed?.(because);
  }

  get last(): FakeClientExchange {
    const last = this.requests.at(-1);
    if (last === undefined) throw new Error("no request has arrived");
    return last;
  }
}
