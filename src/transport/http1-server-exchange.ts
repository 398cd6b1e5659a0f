import type { FailureCode } from "../base/errors.ts";
import type { RequestHeadReader } from "../http/http1/request-head.ts";
import { webSocketAccept } from "../http/http1/websocket.ts";
import { interimHeadText, lastChunkText, responseHeadText, tunnelHeadText } from "../http/http1/write.ts";
import type { Fields, RequestHead, ResponseHead } from "../http/message.ts";
import type { BodyEvents, ConnectionFacts, Loss, ServerExchange } from "./exchange.ts";
import { connectionRefusal, refusalText } from "./http1-refusal.ts";
import type { Http1Tunnel } from "./http1-tunnel.ts";
import type { Http1Writer } from "./http1-writer.ts";

/** What an exchange needs of its connection. */
export interface ExchangeOwner {
  readonly facts: ConnectionFacts;
  readonly writer: Http1Writer;
  /** No further request is taken. */
  readonly closing: boolean;
  /** Text and chunks were added: now or at the end of this turn they leave. */
  sent(complete: boolean): void;
  consumed(bytes: number): void;
  /** The answer's head is written. */
  answering(): void;
  /** The answer's head is written, and it opens the tunnel: bytes that came before it are told afterwards. */
  opened(exchange: Http1ServerExchange): Http1Tunnel;
  /** The answer is complete. */
  finished(exchange: Http1ServerExchange): void;
  /** The answer will not be complete; `reset`: only a reset tells the client so. */
  gaveUp(exchange: Http1ServerExchange, reset: boolean): void;
}

/** How the answer's body is written. */
const bodies = { none: 0, counted: 1, chunked: 2, untilClose: 3 } as const;

/** One request and its answer; a value of its own, so that calls that come too late find nothing. */
export class Http1ServerExchange implements ServerExchange {
  readonly head: RequestHead;
  readonly bodyless: boolean;
  readonly connection: ConnectionFacts;
  events: BodyEvents | undefined;
  requestEnded: boolean;
  headWritten = false;
  persistent: boolean;
  /** `write` said false, and `drained` is owed. */
  waiting = false;
  /** The request asks for a tunnel. */
  readonly asksTunnel: boolean;
  /** From the answer that opens it. */
  tunnel: Http1Tunnel | undefined;
  readonly #key: string;
  readonly #old: boolean;
  readonly #expects: boolean;
  #server: ExchangeOwner | undefined;
  #body: number = bodies.none;
  #left = 0;

  constructor(server: ExchangeOwner, head: RequestHead, bodyless: boolean, reader: RequestHeadReader) {
    this.#server = server;
    this.head = head;
    this.asksTunnel = reader.tunnel;
    this.#key = reader.webSocketKey;
    this.bodyless = bodyless && !reader.tunnel;
    this.requestEnded = bodyless;
    this.connection = server.facts;
    // Bytes behind a tunnel that was refused may be the tunnel's or a request: nobody can tell (CVE-2025-64763).
    this.persistent = reader.persistent && !reader.tunnel;
    this.#old = reader.old;
    this.#expects = reader.expectsContinue && !bodyless;
  }

  listen(events: BodyEvents): void {
    this.events = events;
  }

  inform(head: ResponseHead): void {
    if (this.#server === undefined || this.headWritten || this.#old || head.status === 101) return;
    const text = interimHeadText(head);
    if (text === undefined) return;
    this.#server.writer.text(text);
    this.#server.sent(true);
  }

  respond(head: ResponseHead, end: boolean): void {
    const server = this.#server;
    if (server === undefined || this.headWritten) return;
    if (this.asksTunnel && this.#open(server, head, end)) return;
    const bodyless = this.head.method === "HEAD" || head.status === 204 || head.status === 304;
    const bodyLength = end ? 0 : head.bodyLength;
    // A client that waits for 100 may send its body after the answer or not: such a connection has no known state.
    const unknown =
      (this.#old && bodyLength < 0 && !bodyless) || (this.#expects && !this.requestEnded) || server.closing;
    if (unknown) this.persistent = false;
    const framing = { bodyless, bodyLength, old: this.#old, persistent: this.persistent };
    const text = head.status < 200 ? undefined : responseHeadText(head, framing);
    if (text === undefined) return this.fault("UPSTREAM_INVALID", "its status or a field cannot be written");
    this.headWritten = true;
    this.#body = bodyless
      ? bodies.none
      : bodyLength >= 0
        ? bodies.counted
        : this.#old
          ? bodies.untilClose
          : bodies.chunked;
    this.#left = bodyLength;
    server.answering();
    server.writer.text(text);
    server.sent(end);
    if (end) server.finished(this);
  }

  /** Whether the answer opens the tunnel, or is none that may be given: then nothing is left to do. */
  #open(server: ExchangeOwner, head: ResponseHead, end: boolean): boolean {
    const upgrade = this.head.upgrade !== undefined;
    if (head.status !== 101 && (head.status < 200 || head.status > 299)) return false;
    const text =
      upgrade === (head.status === 101)
        ? tunnelHeadText(head, upgrade ? webSocketAccept(this.#key) : undefined)
        : undefined;
    if (text === undefined) {
      this.fault(
        "UPSTREAM_INVALID",
        "its status or a field cannot be written as the answer to the request for a tunnel",
      );
      return true;
    }
    this.headWritten = true;
    this.requestEnded = false;
    server.answering();
    server.writer.text(text);
    server.sent(true);
    this.tunnel = server.opened(this);
    if (end) this.tunnel.end();
    return true;
  }

  write(chunk: Buffer): boolean {
    return this.#write(chunk, false);
  }

  writeLent(chunk: Buffer): boolean {
    return this.#write(chunk, true);
  }

  #write(chunk: Buffer, lent: boolean): boolean {
    if (this.tunnel !== undefined) return this.#server === undefined || this.tunnel.write(chunk, lent);
    const server = this.#server;
    if (server === undefined || !this.headWritten || this.#body === bodies.none || chunk.length === 0) return true;
    const writer = server.writer;
    if (this.#body === bodies.counted) {
      this.#left -= chunk.length;
      if (this.#left < 0) {
        this.#breakOff("the answer is longer than it said");
        return true;
      }
      writer.chunk(chunk, lent);
    } else if (this.#body === bodies.chunked) {
      writer.text(`${chunk.length.toString(16)}\r\n`);
      writer.chunk(chunk, lent);
      writer.text("\r\n");
    } else writer.chunk(chunk, lent);
    server.sent(false);
    this.waiting = writer.full;
    return !this.waiting;
  }

  end(trailers?: Fields): void {
    const server = this.#server;
    if (server === undefined || !this.headWritten) return;
    if (this.tunnel !== undefined) return this.tunnel.end();
    if (this.#body === bodies.counted && this.#left > 0) return this.#breakOff("the answer is shorter than it said");
    if (this.#body === bodies.chunked) server.writer.text(lastChunkText(trailers) ?? "0\r\n\r\n");
    server.sent(true);
    server.finished(this);
  }

  consume(bytes: number): void {
    if (this.tunnel === undefined) this.#server?.consumed(bytes);
    else if (this.#server !== undefined) this.tunnel.consume(bytes);
  }

  abort(_loss: Loss): void {
    this.#server?.gaveUp(this, this.endsByClose || this.tunnel !== undefined);
  }

  /** Answers instead of a handler that cannot; where the answer has begun, breaks it off. */
  fault(code: FailureCode, because: string): void {
    const server = this.#server;
    if (server === undefined) return;
    if (this.headWritten) return this.#breakOff(because);
    this.events?.aborted({ kind: "cancelled", because });
    this.headWritten = true;
    this.persistent = false;
    server.writer.text(refusalText(connectionRefusal(code, because)));
    server.sent(true);
    server.finished(this);
  }

  /** Only the end of the connection tells where the answer ends. */
  get endsByClose(): boolean {
    return this.#body === bodies.untilClose;
  }

  detach(): void {
    this.#server = undefined;
  }

  #breakOff(because: string): void {
    const server = this.#server;
    server?.gaveUp(this, this.endsByClose);
    this.events?.aborted({ kind: "invalid", because });
  }
}
