import { timingSafeEqual } from "node:crypto";
import type { Socket } from "node:net";
import type { Clock } from "../base/clock.ts";
import { type FailureCode, messageOf } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import { MessageParser, type MessageEvents } from "../http/http1/message-parser.ts";
import { RequestHeadReader } from "../http/http1/request-head.ts";
import { fieldOf, type Fields, type RequestHead } from "../http/message.ts";
import type { BodyEvents, ConnectionFacts, Handler, Loss, ServerConnection } from "./exchange.ts";
import { connectionRefusal, refusalText } from "./http1-refusal.ts";
import { Http1ServerExchange, type ExchangeOwner } from "./http1-server-exchange.ts";
import { tellLent, type LentReads } from "./lent-reads.ts";
import { Ticker, type Ticking } from "./http1-ticker.ts";
import { Http1Tunnel } from "./http1-tunnel.ts";
import { Http1Writer } from "./http1-writer.ts";
import type { http1Options } from "./options.ts";

export interface Http1ServerContext {
  readonly clock: Clock;
  readonly options: OptionValues<typeof http1Options>;
  /** Bytes that were read from the socket already. */
  readonly first?: Buffer;
  /** What `Proxy-Authorization` has to be, whole: `Basic …`; the field is taken out. Undefined: it is passed on as any. */
  readonly secret?: string;
  /** "http" by default; what `head.scheme` says of a request in origin form. */
  readonly scheme?: "http" | "https";
  /** A handler threw: the exchange is answered with BUG, and this is for the log. */
  readonly onFault?: (thrown: unknown) => void;
  /** What the socket reads with, where it has no buffers of its own. */
  readonly reads?: LentReads;
}

/** What one read of a socket can bring beyond the point at which reading was to stop. */
const readBytesMax = 65_536;
/** The rest of a request whose answer is complete is read and dropped up to here, so that the connection can go on. */
const discardBytesMax = 262_144;
const bodyWindowMs = 30_000;
/** How long an answer that ends its connection waits for the client to read it. */
const lingerMs = 2000;
const extensionBytesMax = 4096;

/** Serves HTTP/1.1 requests from a socket, one after the other, each as one call of `handler`. */
export function serveHttp1(
  socket: Socket,
  facts: ConnectionFacts,
  handler: Handler,
  context: Http1ServerContext,
): ServerConnection {
  return new Http1Server(socket, facts, handler, context);
}

class Http1Server implements ServerConnection, ExchangeOwner, MessageEvents<RequestHead>, Ticking {
  readonly facts: ConnectionFacts;
  readonly writer: Http1Writer;
  readonly #socket: Socket;
  readonly #handler: Handler;
  readonly #context: Http1ServerContext;
  readonly #reader: RequestHeadReader;
  readonly #parser: MessageParser<RequestHead>;
  readonly #ticker: Ticker;
  #current: Http1ServerExchange | undefined;
  /** Once it has started, every byte read is its own. */
  #tunnel: Http1Tunnel | undefined;
  /** The client ended its direction before the answer to its request for a tunnel. */
  #endedEarly = false;
  /** Bytes of requests behind the current one: at most what one read brought; reading rests meanwhile. */
  #rest: Buffer | undefined;
  #reading = false;
  /** What is fed now is good until this read returns. */
  #lent = false;
  #paused = false;
  #unconsumed = 0;
  /** The answer is complete and the request is not: what comes of it is dropped. */
  #discarding = false;
  #discarded = 0;
  /** No further request is taken. */
  #closing = false;
  /** The last answer is written; only the end of the socket is waited for. */
  #lingering = false;
  #deadlineMs: number;
  #headTimed = false;
  #bodyBytes = 0;
  #bodyCheckMs = Infinity;
  #stalledBytes = -1;
  #stallMs = Infinity;
  /** While reading rests: until when something of the body has to be taken. */
  #restMs = Infinity;
  #cancelDrain: (() => void) | undefined;

  constructor(socket: Socket, facts: ConnectionFacts, handler: Handler, context: Http1ServerContext) {
    this.#socket = socket;
    this.facts = facts;
    this.#handler = handler;
    this.#context = context;
    this.writer = new Http1Writer(socket, context.onFault);
    const limits = {
      headBytesMax: context.options.headBytesMax,
      fieldsMax: context.options.fieldsMax,
      extensionBytesMax,
    };
    this.#reader = new RequestHeadReader(context.scheme ?? "http", limits);
    this.#parser = new MessageParser(this.#reader, this, limits);
    this.#ticker = Ticker.of(context.clock);
    this.#ticker.add(this);
    this.#deadlineMs = this.#ticker.deadline(context.options.idleMs);
    if (context.reads === undefined) socket.on("data", (chunk: Buffer) => this.#read(chunk));
    else {
      context.reads.to((lent) => this.#readLent(lent));
      socket.resume(); // Nobody hears "data", and the end is to be heard all the same.
    }
    socket.on("end", () => this.#guarded(() => this.#ended()));
    socket.on("drain", () => this.#drained());
    // `close` follows every error, and says what there is to say.
    socket.on("error", () => undefined);
    socket.on("close", () => this.#closed());
    if (socket.isPaused()) socket.resume(); // Whoever read the first bytes may have stopped there.
    if (context.first !== undefined && context.first.length > 0) this.#read(context.first);
  }

  get exchanges(): number {
    return this.#current === undefined ? 0 : 1;
  }

  drain(withinMs: number): void {
    if (this.#socket.destroyed) return;
    // One that ends anyway may take its time with the answer: it has no more of it than the others.
    if (this.#cancelDrain === undefined && !this.#closing) {
      this.#closing = true;
      if (this.#current === undefined && this.#parser.idle) return this.#shut();
    }
    this.#cancelDrain?.();
    this.#cancelDrain = this.#context.clock.after(withinMs, () => this.destroy("draining took too long"));
  }

  destroy(because: string): void {
    this.#parser.hold();
    this.#closing = true;
    const tunnel = this.#tunnel;
    const endsByClose = this.#current?.endsByClose === true;
    this.#lose({ kind: "lost", because });
    // What is unsent is lost, and so is the rest of an answer without a length: a clean end would say that this was all.
    if (tunnel === undefined && !endsByClose && this.#socket.writableLength === 0) this.#socket.destroy();
    else this.#reset();
  }

  // What the socket says

  #read(chunk: Buffer): void {
    if (this.#lingering) return;
    if (this.#tunnel !== undefined) return this.#tunnelRead(this.#tunnel, chunk);
    if (this.#rest !== undefined) {
      this.#rest = Buffer.concat([this.#rest, chunk]);
      return;
    }
    this.#bodyBytes += chunk.length;
    this.#feed(chunk);
  }

  #tunnelRead(tunnel: Http1Tunnel, chunk: Buffer | undefined): void {
    try {
      if (chunk === undefined) tunnel.readEnded();
      else tunnel.read(chunk, this.#lent);
    } catch (thrown) {
      this.broke(thrown);
    }
  }

  #guarded(task: () => void): void {
    try {
      task();
    } catch (thrown) {
      this.broke(thrown);
    }
  }

  /** Something of ours threw: it costs this connection, not the process. */
  broke(thrown: unknown): void {
    this.#context.onFault?.(thrown);
    this.destroy(messageOf(thrown));
  }

  #readLent(lent: Buffer): void {
    this.#lent = true;
    this.#read(lent);
    this.#lent = false;
  }

  #feed(chunk: Buffer): void {
    this.#reading = true;
    let taken = 0;
    try {
      taken = this.#parser.feed(chunk);
    } catch (thrown) {
      this.broke(thrown); // Somebody who was told of the body did.
    }
    this.#reading = false;
    if (taken < chunk.length && !this.#closing) {
      const rest = taken === 0 ? chunk : chunk.subarray(taken);
      this.#rest = this.#lent ? Buffer.from(rest) : rest;
    }
    try {
      this.#settle();
    } catch (thrown) {
      this.broke(thrown);
    }
  }

  /** After each read: what was answered leaves, reading stops or goes on, deadlines are set. */
  #settle(): void {
    if (this.#current?.headWritten === true) this.writer.plan();
    else this.writer.flush();
    if (this.#parser.inHead && !this.#headTimed) {
      this.#headTimed = true;
      this.#deadlineMs = this.#ticker.deadline(this.#context.options.headersMs);
    }
    this.#steer();
  }

  #steer(): void {
    const pause = this.#rest !== undefined || this.#unconsumed > this.#context.options.windowBytes - readBytesMax;
    if (pause === this.#paused) return;
    this.#paused = pause;
    this.#restMs = pause ? this.#ticker.deadline(this.#context.options.writeStallMs) : Infinity;
    if (pause) this.#socket.pause();
    else this.#socket.resume();
  }

  #ended(): void {
    const current = this.#current;
    if (this.#tunnel !== undefined) return this.#tunnelRead(this.#tunnel, undefined);
    if (current?.asksTunnel === true && this.#socket.allowHalfOpen) {
      this.#endedEarly = true;
      return;
    }
    if (current !== undefined && current.requestEnded && this.#socket.allowHalfOpen) {
      this.#closing = true; // A client that sends no more may still read its answer.
      return;
    }
    this.#lose({ kind: "cancelled", because: "the client closed the connection" });
    this.#parser.hold();
    if (current === undefined) this.#shut();
    else this.#socket.destroy();
  }

  #closed(): void {
    this.#ticker.remove(this);
    this.#cancelDrain?.();
    this.#parser.hold();
    this.#closing = true;
    this.#rest = undefined;
    this.#lose({ kind: "cancelled", because: "the connection to the client ended" });
  }

  #drained(): void {
    const current = this.#current;
    try {
      if (current?.tunnel !== undefined) return current.tunnel.drained();
      if (current === undefined || !current.waiting) return;
      current.waiting = false;
      current.events?.drained();
    } catch (thrown) {
      this.broke(thrown);
    }
  }

  #lose(loss: Loss): void {
    const current = this.#current;
    if (current === undefined) return;
    this.#current = undefined;
    this.#tunnel = undefined;
    current.detach();
    try {
      current.events?.aborted(loss);
    } catch (thrown) {
      this.#context.onFault?.(thrown); // It is over in any case, and so is what called this.
    }
  }

  // What the parser says

  head(head: RequestHead, bodyless: boolean): void {
    this.#headTimed = false;
    this.#deadlineMs = Infinity;
    if (!this.#admits(head)) return;
    const exchange = new Http1ServerExchange(this, head, bodyless, this.#reader);
    this.#current = exchange;
    if (!bodyless && this.#context.options.bodyBytesPerSecond > 0) {
      this.#bodyBytes = this.#parser.remaining;
      this.#bodyCheckMs = this.#ticker.deadline(bodyWindowMs);
    }
    try {
      this.#handler(exchange);
    } catch (thrown) {
      this.#context.onFault?.(thrown);
      exchange.fault("BUG", "its handler failed");
    }
    if (bodyless && this.#current === exchange) this.#parser.hold();
  }

  data(chunk: Buffer): void {
    const events = this.#current?.events;
    if (events !== undefined) {
      this.#unconsumed += chunk.length;
      if (this.#lent) tellLent(events, chunk);
      else events.data(chunk);
    } else if (this.#discarding) {
      this.#discarded += chunk.length;
      if (this.#discarded > discardBytesMax) this.#shut();
    }
  }

  end(trailers: Fields | undefined): void {
    this.#bodyCheckMs = Infinity;
    const exchange = this.#current;
    if (exchange === undefined) {
      this.#discarding = false;
      if (!this.#closing) this.#next();
      else if (!this.#lingering) this.#shut();
      return;
    }
    exchange.requestEnded = true;
    exchange.events?.end(trailers);
    if (this.#current === exchange) this.#parser.hold();
  }

  failed(code: FailureCode, because: string): void {
    const exchange = this.#current;
    this.#discarding = false;
    if (this.#reader.foreign) return this.#shut();
    if (exchange === undefined || !exchange.headWritten) {
      this.#lose({ kind: "invalid", because });
      this.#answerRefusal(code, because);
    } else {
      this.#lose({ kind: "invalid", because });
      this.#socket.destroy();
    }
  }

  #admits(head: RequestHead): boolean {
    const secret = this.#context.secret;
    if (secret === undefined) return true;
    const given = fieldOf(head.fields, "proxy-authorization");
    if (given === undefined || !sameSecret(given, secret)) {
      this.#answerRefusal("PROXY_SECRET_WRONG", "the proxy's secret is missing or wrong", [
        "proxy-authenticate",
        'Basic realm="hauberk"',
      ]);
      return false;
    }
    for (let i = head.fields.length - 2; i >= 0; i -= 2) {
      if ((head.fields[i] as string).toLowerCase() === "proxy-authorization") head.fields.splice(i, 2);
    }
    return true;
  }

  #answerRefusal(code: FailureCode, because: string, more: Fields = []): void {
    this.writer.text(refusalText(connectionRefusal(code, because), more));
    this.#shut();
  }

  // What the current exchange says

  /** Text and chunks were added: now or at the end of this turn they leave. */
  sent(complete: boolean): void {
    if (this.#reading) return;
    if (complete) this.writer.flush();
    else this.writer.plan();
  }

  consumed(bytes: number): void {
    this.#unconsumed = Math.max(0, this.#unconsumed - bytes);
    if (this.#paused && bytes > 0) this.#restMs = this.#ticker.deadline(this.#context.options.writeStallMs);
    if (this.#paused && !this.#reading && this.#unconsumed < this.#context.options.windowBytes / 2) this.#steer();
  }

  opened(exchange: Http1ServerExchange): Http1Tunnel {
    const tunnel = new Http1Tunnel(this.#socket, exchange.events ?? deaf, {
      writer: this.writer,
      windowBytes: this.#context.options.windowBytes,
      onOver: () => {
        this.#tunnel = undefined;
        this.finished(exchange);
      },
    });
    // Whoever answers is through with that before it hears of bytes that came early.
    queueMicrotask(() => this.#guarded(() => this.#startTunnel(exchange, tunnel)));
    return tunnel;
  }

  #startTunnel(exchange: Http1ServerExchange, tunnel: Http1Tunnel): void {
    if (this.#current !== exchange) return;
    this.#tunnel = tunnel;
    const early = this.#rest;
    this.#rest = undefined;
    tunnel.start();
    if (early !== undefined) this.#tunnelRead(tunnel, early);
    if (this.#endedEarly) this.#tunnelRead(tunnel, undefined);
  }

  answering(): void {
    this.#bodyCheckMs = Infinity;
  }

  get closing(): boolean {
    return this.#closing;
  }

  /** The answer is complete. */
  finished(exchange: Http1ServerExchange): void {
    if (this.#current !== exchange) return;
    this.#current = undefined;
    exchange.detach();
    this.#unconsumed = 0;
    this.#bodyCheckMs = Infinity;
    if (!exchange.persistent) return this.#shut();
    if (exchange.requestEnded) return this.#next();
    this.#discarding = true;
    this.#discarded = 0;
    this.#deadlineMs = this.#ticker.deadline(this.#context.options.headersMs);
    if (!this.#reading) this.#steer();
  }

  gaveUp(exchange: Http1ServerExchange, reset: boolean): void {
    if (this.#current !== exchange) return;
    this.#current = undefined;
    this.#tunnel = undefined;
    exchange.detach();
    this.#parser.hold();
    this.#closing = true;
    this.writer.flush();
    // Without a length only a reset tells an HTTP/1.0 client that its answer is not whole.
    if (reset) this.#reset();
    else this.#socket.destroy();
  }

  /** Tells that what was sent is not whole. Only TCP has a reset. Over TLS the missing close_notify says the same; a Unix socket can only be closed. */
  #reset(): void {
    try {
      this.#socket.resetAndDestroy();
    } catch {
      this.#socket.destroy();
    }
  }

  #next(): void {
    if (this.#closing) return this.#shut();
    this.#deadlineMs = this.#ticker.deadline(this.#context.options.idleMs);
    this.#parser.release();
    if (this.#reading) return;
    const rest = this.#rest;
    this.#rest = undefined;
    if (rest === undefined) this.#steer();
    else this.#feed(rest);
  }

  /** Says goodbye: what is written still leaves, and the client has a moment to read it before a reset could eat it. */
  #shut(): void {
    if (this.#lingering) return;
    this.#closing = true;
    this.#lingering = true;
    this.#rest = undefined;
    this.#parser.hold();
    this.writer.flush();
    this.#socket.end();
    this.#deadlineMs = this.#ticker.deadline(lingerMs);
    this.#unconsumed = 0;
    this.#steer();
  }

  // Time

  tick(nowMs: number): void {
    if (this.#tunnel !== undefined) return; // How long a tunnel may rest is for its handler to say.
    if (nowMs >= this.#deadlineMs) this.#late();
    if (nowMs >= this.#bodyCheckMs) this.#checkBody();
    this.#checkStall(nowMs);
    // A connection that rests cannot see that its client has gone.
    if (nowMs >= this.#restMs && this.#rest === undefined) this.destroy("nobody takes the body of the request");
  }

  #late(): void {
    this.#deadlineMs = Infinity;
    if (this.#lingering) this.#linger();
    else if (this.#headTimed)
      this.#answerRefusal("REQUEST_TIMEOUT", `its head took more than ${this.#context.options.headersMs} ms`);
    else this.#shut();
  }

  /** What is still being read is not cut off; who reads nothing of it is found by the check for that. */
  #linger(): void {
    if (this.#socket.writableLength > 0) this.#deadlineMs = this.#ticker.deadline(lingerMs);
    else this.#socket.destroy();
  }

  #checkBody(): void {
    this.#bodyCheckMs = this.#ticker.deadline(bodyWindowMs);
    const enough = (this.#context.options.bodyBytesPerSecond * bodyWindowMs) / 1000;
    const slow = this.#bodyBytes < enough && !this.#paused;
    this.#bodyBytes = 0;
    if (!slow || this.#current === undefined) return;
    this.#lose({ kind: "cancelled", because: "the client sends its body too slowly" });
    this.#answerRefusal("REQUEST_TIMEOUT", "its body comes too slowly");
  }

  #checkStall(nowMs: number): void {
    const waiting = this.#socket.writableLength;
    const written = this.#socket.bytesWritten - waiting;
    if (waiting === 0 || written !== this.#stalledBytes) {
      this.#stalledBytes = waiting === 0 ? -1 : written;
      this.#stallMs = nowMs + this.#context.options.writeStallMs;
    } else if (nowMs >= this.#stallMs) this.destroy("the client does not read its answer");
  }
}

const deaf: BodyEvents = {
  data: () => undefined,
  end: () => undefined,
  aborted: () => undefined,
  drained: () => undefined,
};

function sameSecret(given: string, wanted: string): boolean {
  const a = Buffer.from(given, "latin1");
  const b = Buffer.from(wanted, "latin1");
  return a.length === b.length && timingSafeEqual(a, b);
}
