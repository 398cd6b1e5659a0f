import type { Socket } from "node:net";
import type { Clock } from "../base/clock.ts";
import type { Random } from "../base/random.ts";
import { messageOf, type FailureCode } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import { MessageParser, type MessageEvents } from "../http/http1/message-parser.ts";
import { ResponseHeadReader } from "../http/http1/response-head.ts";
import { keyBytes, webSocketAccept } from "../http/http1/websocket.ts";
import { lastChunkText, requestHeadText, upgradeHeadText } from "../http/http1/write.ts";
import type { Fields, RequestHead, ResponseHead } from "../http/message.ts";
import type { ClientConnection, ClientExchange, Loss, ResponseEvents } from "./exchange.ts";
import { HeldBytes } from "./held-bytes.ts";
import { tellLent, type LentReads } from "./lent-reads.ts";
import { limitLinger } from "./linger.ts";
import { Http1Tunnel } from "./http1-tunnel.ts";
import { Http1Writer } from "./http1-writer.ts";
import type { http1Options } from "./options.ts";

export interface Http1ClientContext {
  readonly clock: Clock;
  /** For the keys of WebSocket handshakes. */
  readonly random: Random;
  readonly options: OptionValues<typeof http1Options>;
  /** The connection can take a request again. Called before the `end` of the exchange that used it. */
  readonly onIdle?: () => void;
  /** The connection is a tunnel from here to its end. */
  readonly onTunnel?: () => void;
  /** Called once, whatever ended it. */
  readonly onClosed?: (because: string) => void;
  /** Somebody who was told of an answer threw: for the log. */
  readonly onFault?: (thrown: unknown) => void;
  /** What the socket reads with, where it has no buffers of its own. */
  readonly reads?: LentReads;
}

const readBytesMax = 65_536;
const extensionBytesMax = 4096;
/** More interim answers to one request are no conversation. */
const interimMax = 16;
/** How long the system may take nothing of the rest of a request whose answer is whole, as in HTTP/2 (http2-client.ts). */
const restMs = 1_000;
/** A kernel that refuses a write of up to this size has taken nothing of it: its buffers are never smaller. */
const wholeWriteBytesMax = 4096;

/** Sends HTTP/1.1 requests over a connected socket, one at a time. */
export function connectHttp1(socket: Socket, context: Http1ClientContext): ClientConnection {
  return new Http1Client(socket, context);
}

class Http1Client implements ClientConnection, MessageEvents<ResponseHead> {
  readonly protocol = "http/1.1";
  readonly exchangesMax = 1;
  readonly writer: Http1Writer;
  readonly #socket: Socket;
  readonly #context: Http1ClientContext;
  readonly #reader: ResponseHeadReader;
  readonly #parser: MessageParser<ResponseHead>;
  #current: Http1ClientExchange | undefined;
  #open = true;
  /** Both directions of a tunnel have ended; the last bytes are still on their way out. */
  #lingering = false;
  /** The answer is whole, and of its request all was said and not all was taken. */
  #restUnsent = false;
  #paused = false;
  #reading = false;
  #unconsumed = 0;
  #interims = 0;
  #error: NodeJS.ErrnoException | undefined;
  #because = "the connection ended";
  #cancelDrain: (() => void) | undefined;

  constructor(socket: Socket, context: Http1ClientContext) {
    this.#socket = socket;
    this.#context = context;
    this.writer = new Http1Writer(socket, context.onFault);
    const limits = {
      headBytesMax: context.options.headBytesMax,
      fieldsMax: context.options.fieldsMax,
      extensionBytesMax,
    };
    this.#reader = new ResponseHeadReader(limits);
    this.#parser = new MessageParser(this.#reader, this, limits);
    if (context.reads === undefined) socket.on("data", (chunk: Buffer) => this.#read(chunk));
    else {
      context.reads.to((lent) => this.#read(lent));
      socket.resume(); // Nobody hears "data", and the end is to be heard all the same.
    }
    socket.on("end", () => this.#ended());
    socket.on("drain", () => this.#drained());
    socket.on("error", (error: NodeJS.ErrnoException) => {
      this.#error = error;
      this.#because = error.message;
    });
    socket.on("close", () => this.#closed());
  }

  get exchanges(): number {
    return this.#current === undefined ? 0 : 1;
  }

  get open(): boolean {
    return this.#open && this.#socket.writable;
  }

  request(head: RequestHead, end: boolean, events: ResponseEvents): ClientExchange | undefined {
    if (!this.open || this.#current !== undefined) return undefined;
    const text = head.upgrade === undefined ? this.#plainText(head, end) : this.#upgradeText(head);
    const exchange = new Http1ClientExchange(this, head, end, events);
    if (text === undefined) {
      exchange.detach();
      const because = "the request's target, authority or a field cannot be written in HTTP/1.1";
      queueMicrotask(() =>
        this.#guarded(() => {
          // Whoever took the connection out of its idle ones gets it back unused.
          if (this.open && this.#current === undefined) this.#context.onIdle?.();
          events.aborted({ kind: "unprocessed", because });
        }),
      );
      return exchange;
    }
    this.#current = exchange;
    this.#reader.method = head.method;
    this.#interims = 0;
    exchange.flushesBefore = this.writer.flushes;
    this.writer.text(text);
    if (end) this.writer.flush();
    else this.writer.plan();
    return exchange;
  }

  #plainText(head: RequestHead, end: boolean): string | undefined {
    this.#reader.accept = undefined;
    return requestHeadText(head, end);
  }

  #upgradeText(head: RequestHead): string | undefined {
    const key = this.#context.random.bytes(keyBytes).toString("base64");
    this.#reader.accept = webSocketAccept(key);
    return upgradeHeadText(head, key);
  }

  drain(withinMs: number): void {
    if (this.#cancelDrain !== undefined) return;
    this.#open = false;
    if (this.#current === undefined && !this.#lingering) this.destroy("drained");
    else this.#cancelDrain = this.#context.clock.after(withinMs, () => this.destroy("draining took too long"));
  }

  destroy(because: string): void {
    this.#open = false;
    this.#because = because;
    this.#parser.hold();
    const tunnel = this.#current?.tunnel;
    this.#lose({ kind: this.#lossKind(), because });
    if (tunnel === undefined) this.#socket.destroy();
    else resetSocket(this.#socket);
  }

  // What the socket says

  #read(chunk: Buffer): void {
    if (this.#current === undefined) return this.destroy("the other side sent bytes that nobody asked for");
    this.#reading = true;
    try {
      this.#parser.feed(chunk);
    } catch (thrown) {
      this.#broke(thrown);
    }
    this.#reading = false;
    this.#steer();
  }

  #guarded(task: () => void): void {
    try {
      task();
    } catch (thrown) {
      this.#broke(thrown);
    }
  }

  /** Something of ours threw: it costs this connection, not the process. */
  #broke(thrown: unknown): void {
    this.#context.onFault?.(thrown);
    this.destroy(messageOf(thrown));
  }

  #steer(): void {
    const pause = this.#unconsumed > this.#context.options.windowBytes - readBytesMax;
    if (pause === this.#paused) return;
    this.#paused = pause;
    if (pause) this.#socket.pause();
    else this.#socket.resume();
  }

  #ended(): void {
    this.#open = false;
    const tunnel = this.#current?.tunnel;
    try {
      if (tunnel === undefined) this.#parser.finish();
      else return tunnel.readEnded();
    } catch (thrown) {
      this.#context.onFault?.(thrown);
    }
    if (!this.#lingering) this.destroy("the other side closed the connection");
  }

  #closed(): void {
    this.#open = false;
    this.#parser.hold();
    this.#cancelDrain?.();
    this.#lose({ kind: this.#lossKind(), because: this.#because });
    this.#guarded(() => this.#context.onClosed?.(this.#because));
  }

  #drained(): void {
    const current = this.#current;
    try {
      if (current?.tunnel !== undefined) return current.tunnel.drained();
      if (current === undefined || !current.waiting) return;
      current.waiting = false;
      current.events.drained();
    } catch (thrown) {
      this.#broke(thrown);
    }
  }

  /** Whether the other side can have seen anything of the request (DESIGN, section 8). */
  #lossKind(): "unprocessed" | "lost" {
    const current = this.#current;
    if (current === undefined) return "lost";
    const flushes = this.writer.flushes - current.flushesBefore;
    if (flushes === 0) return "unprocessed";
    // The very first write was refused as a whole: the connection was dead before a byte of the request.
    const refused =
      this.#error?.syscall === "write" && flushes === 1 && this.writer.lastFlushBytes <= wholeWriteBytesMax;
    return refused && !("encrypted" in this.#socket) && !current.answered ? "unprocessed" : "lost";
  }

  #lose(loss: Loss): void {
    const current = this.#current;
    if (current === undefined) return;
    this.#current = undefined;
    current.detach();
    try {
      current.events.aborted(loss);
    } catch (thrown) {
      this.#context.onFault?.(thrown); // It is over in any case, and so is what called this.
    }
  }

  // What the parser says

  head(head: ResponseHead, bodyless: boolean): void {
    const current = this.#current;
    if (current === undefined) return this.destroy("the other side sent an answer that nobody asked for");
    current.answered = true;
    if (this.#reader.interim) {
      if (++this.#interims > interimMax)
        this.failed("UPSTREAM_INVALID", `it has more than ${interimMax} interim answers`);
      else current.events.informed(head);
      return;
    }
    if (head.status === 101) return this.#switched(current, head);
    if (bodyless) this.#finish(current);
    current.events.head(head, bodyless);
    if (bodyless) this.#endUnlessReusable();
  }

  data(chunk: Buffer): void {
    const current = this.#current;
    if (current === undefined) return;
    const lent = this.#context.reads !== undefined;
    if (current.tunnel !== undefined) return current.tunnel.read(chunk, lent);
    this.#unconsumed += chunk.length;
    if (lent) tellLent(current.events, chunk);
    else current.events.data(chunk);
  }

  /** The routee speaks WebSocket: what was held goes out, and the socket is raw from here on. */
  #switched(current: Http1ClientExchange, head: ResponseHead): void {
    const tunnel = new Http1Tunnel(this.#socket, current.events, {
      writer: this.writer,
      windowBytes: this.#context.options.windowBytes,
      onOver: () => this.#tunnelOver(current),
    });
    this.#context.onTunnel?.();
    const owes = current.switched(tunnel);
    current.events.head(head, false);
    if (owes && this.#current === current) current.events.drained();
  }

  #tunnelOver(exchange: Http1ClientExchange): void {
    if (this.#current !== exchange) return;
    this.#current = undefined;
    exchange.detach();
    this.#open = false;
    this.#lingering = true;
    this.#because = "the tunnel ended";
    const { clock, options } = this.#context;
    limitLinger(this.#socket, { clock, stallMs: options.writeStallMs, reset: () => resetSocket(this.#socket) });
    this.#socket.destroySoon();
  }

  end(trailers: Fields | undefined): void {
    const current = this.#current;
    if (current === undefined) return;
    this.#finish(current);
    current.events.end(trailers);
    this.#endUnlessReusable();
  }

  failed(_code: FailureCode, because: string): void {
    this.#open = false;
    this.#because = because;
    this.#parser.hold();
    this.#lose({ kind: "invalid", because });
    this.#socket.destroy();
  }

  /** The answer is whole. The connection is free before its receiver hears so: who asks again at once finds it. */
  #finish(exchange: Http1ClientExchange): void {
    this.#current = undefined;
    exchange.detach();
    this.#unconsumed = 0;
    // Bytes behind an answer, or an answer before the end of its request, leave the connection in no known state.
    const reusable =
      this.#reader.persistent &&
      exchange.requestEnded &&
      this.#parser.remaining === 0 &&
      this.#socket.writableLength === 0;
    this.#restUnsent = exchange.requestEnded && this.#parser.remaining === 0 && this.#socket.writableLength > 0;
    if (!reusable) this.#open = false;
    if (this.open) this.#context.onIdle?.();
  }

  #endUnlessReusable(): void {
    if (this.#open || this.#current !== undefined) return;
    this.#parser.hold();
    this.#because = "the connection was used up";
    if (!this.#restUnsent) return void this.#socket.destroy();
    // Whoever asked has said all of it and has its answer: what is left of it goes on as long as some of it is taken each second.
    this.#lingering = true;
    limitLinger(this.#socket, { clock: this.#context.clock, stallMs: restMs, reset: () => resetSocket(this.#socket) });
    this.#socket.destroySoon();
  }

  // What the current exchange says

  consumed(exchange: Http1ClientExchange, bytes: number): void {
    if (this.#current !== exchange) return;
    this.#unconsumed = Math.max(0, this.#unconsumed - bytes);
    if (this.#paused && !this.#reading && this.#unconsumed < this.#context.options.windowBytes / 2) this.#steer();
  }

  gaveUp(exchange: Http1ClientExchange, because: string): void {
    if (this.#current !== exchange) return;
    this.#current = undefined;
    exchange.detach();
    if (exchange.tunnel !== undefined) resetSocket(this.#socket);
    this.destroy(because);
  }
}

class Http1ClientExchange implements ClientExchange {
  readonly events: ResponseEvents;
  requestEnded: boolean;
  answered = false;
  waiting = false;
  /** From the answer that opens it. */
  tunnel: Http1Tunnel | undefined;
  flushesBefore = 0;
  #client: Http1Client | undefined;
  readonly #chunked: boolean;
  #left: number;
  /** What is written before the answer to a request for a tunnel; undefined for all others, and from then on. */
  #held: HeldBytes | undefined;
  #endWanted: boolean;

  constructor(client: Http1Client, head: RequestHead, end: boolean, events: ResponseEvents) {
    this.#client = client;
    this.events = events;
    if (head.upgrade !== undefined) this.#held = new HeldBytes();
    this.requestEnded = end && this.#held === undefined;
    this.#endWanted = end;
    this.#chunked = head.bodyLength < 0;
    this.#left = head.bodyLength;
  }

  /** Writes what was held; true where somebody waits to hear that there is room again. */
  switched(tunnel: Http1Tunnel): boolean {
    const held = this.#held;
    this.#held = undefined;
    this.tunnel = tunnel;
    let room = true;
    for (const chunk of held ?? []) room = tunnel.write(chunk);
    if (this.#endWanted) tunnel.end();
    return held !== undefined && held.bytes > 0 && room && !this.#endWanted;
  }

  write(chunk: Buffer): boolean {
    return this.#write(chunk, false);
  }

  writeLent(chunk: Buffer): boolean {
    return this.#write(chunk, true);
  }

  #write(chunk: Buffer, lent: boolean): boolean {
    const client = this.#client;
    if (client === undefined || this.requestEnded || chunk.length === 0) return true;
    if (this.tunnel !== undefined) return this.tunnel.write(chunk, lent);
    if (this.#held !== undefined) {
      this.#held.add(chunk, lent); // Not a byte reaches the routee before it has said 101.
      return false;
    }
    const writer = client.writer;
    if (this.#chunked) {
      writer.text(`${chunk.length.toString(16)}\r\n`);
      writer.chunk(chunk, lent);
      writer.text("\r\n");
    } else {
      this.#left -= chunk.length;
      if (this.#left < 0) {
        this.#breakOff("the request is longer than it said");
        return true;
      }
      writer.chunk(chunk, lent);
    }
    writer.plan();
    this.waiting = writer.full;
    return !this.waiting;
  }

  end(trailers?: Fields): void {
    const client = this.#client;
    if (client === undefined || this.requestEnded) return;
    if (this.tunnel !== undefined) return this.tunnel.end();
    if (this.#held !== undefined) {
      this.#endWanted = true;
      return;
    }
    if (!this.#chunked && this.#left > 0) return this.#breakOff("the request is shorter than it said");
    this.requestEnded = true;
    if (this.#chunked) client.writer.text(lastChunkText(trailers) ?? "0\r\n\r\n");
    client.writer.flush();
  }

  consume(bytes: number): void {
    if (this.tunnel === undefined) this.#client?.consumed(this, bytes);
    else if (this.#client !== undefined) this.tunnel.consume(bytes);
  }

  abort(loss: Loss): void {
    this.#client?.gaveUp(this, loss.because);
  }

  detach(): void {
    this.#client = undefined;
  }

  #breakOff(because: string): void {
    this.#client?.gaveUp(this, because);
    this.events.aborted({ kind: "invalid", because });
  }
}

/** Only TCP has a reset: a clean end would say that all bytes of the tunnel came. */
function resetSocket(socket: Socket): void {
  try {
    socket.resetAndDestroy();
  } catch {
    socket.destroy();
  }
}
