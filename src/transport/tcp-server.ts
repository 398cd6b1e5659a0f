import type { Socket } from "node:net";
import type { Clock } from "../base/clock.ts";
import { messageOf } from "../base/errors.ts";
import { opensTunnel, type RequestHead, type ResponseHead } from "../http/message.ts";
import type { BodyEvents, ConnectionFacts, Handler, Loss, ServerConnection, ServerExchange } from "./exchange.ts";
import { Http1Tunnel } from "./http1-tunnel.ts";
import { Http1Writer } from "./http1-writer.ts";
import type { LentReads } from "./lent-reads.ts";
import { limitLinger } from "./linger.ts";

export interface TcpServerContext {
  readonly clock: Clock;
  readonly options: {
    /** Bytes of the client that may wait before reading stops. */
    readonly windowBytes: number;
    /** How long the client may take nothing of the last bytes, once both directions have ended. */
    readonly writeStallMs: number;
  };
  /** Bytes that were read from the socket already. */
  readonly first?: Buffer;
  /** What the socket reads with, where it has no buffers of its own. */
  readonly reads?: LentReads;
  /** The handler threw, or whoever is told of the connection: it is closed, and this is for the log. */
  readonly onFault?: (thrown: unknown) => void;
}

/**
 * Serves a TCP connection as one CONNECT, made in its client's name: 2xx opens it, any other answer resets it, because there
 * is nothing else that could be said. Nothing is read before it is open, so either side may speak first.
 */
export function serveTcp(
  socket: Socket,
  facts: ConnectionFacts,
  handler: Handler,
  context: TcpServerContext,
): ServerConnection {
  return new TcpServer(socket, facts, handler, context);
}

const deaf: BodyEvents = { data() {}, end() {}, aborted() {}, drained() {} };

class TcpServer implements ServerConnection, ServerExchange {
  readonly head: RequestHead = {
    method: "CONNECT",
    scheme: "tcp",
    authority: "",
    path: "",
    fields: [],
    bodyLength: -1,
  };
  readonly bodyless = false;
  readonly connection: ConnectionFacts;
  readonly #socket: Socket;
  readonly #context: TcpServerContext;
  #events: BodyEvents = deaf;
  #tunnel: Http1Tunnel | undefined = undefined;
  /** What was read before the connection was open. */
  #early: Buffer[];
  #answered = false;
  #over = false;
  #cancelDrain: (() => void) | undefined = undefined;

  constructor(socket: Socket, facts: ConnectionFacts, handler: Handler, context: TcpServerContext) {
    this.#socket = socket;
    this.connection = facts;
    this.#context = context;
    this.#early = context.first === undefined || context.first.length === 0 ? [] : [context.first];
    const { reads } = context;
    if (reads === undefined) socket.on("data", (chunk: Buffer) => this.#read(chunk));
    else reads.to((lent) => this.#read(lent, true));
    socket.on("end", () => this.#guarded(() => this.#tunnel?.readEnded()));
    socket.on("drain", () => this.#guarded(() => this.#tunnel?.drained()));
    // `close` follows every error, and says what there is to say.
    socket.on("error", () => undefined);
    socket.on("close", () => this.#ended("the client's connection closed"));
    socket.pause();
    if (socket.destroyed) return;
    this.#guarded(() => handler(this));
  }

  get exchanges(): number {
    return this.#over ? 0 : 1;
  }

  drain(withinMs: number): void {
    this.#cancelDrain?.();
    this.#cancelDrain = this.#context.clock.after(withinMs, () => this.destroy("drained as long as allowed"));
  }

  destroy(because: string): void {
    this.#reset();
    this.#ended(because);
  }

  listen(events: BodyEvents): void {
    this.#events = events;
  }

  inform(): void {
    // TCP has no words for it.
  }

  respond(head: ResponseHead, end: boolean): void {
    if (this.#answered || this.#over) return;
    this.#answered = true;
    if (!opensTunnel(this.head, head.status)) {
      // The rest of this answer may never come: the end of the socket tells whoever gives it that nobody waits.
      this.#over = end;
      this.#reset();
      return;
    }
    const tunnel = new Http1Tunnel(this.#socket, this.#events, {
      writer: new Http1Writer(this.#socket, this.#context.onFault),
      windowBytes: this.#context.options.windowBytes,
      onOver: () => this.#linger(),
    });
    this.#tunnel = tunnel;
    if (end) tunnel.end();
    // Whoever answers is through with that before it hears of bytes.
    queueMicrotask(() => this.#guarded(() => this.#begin(tunnel)));
  }

  write(chunk: Buffer): boolean {
    return this.#tunnel === undefined || this.#over || this.#tunnel.write(chunk);
  }

  writeLent(chunk: Buffer): boolean {
    return this.#tunnel === undefined || this.#over || this.#tunnel.write(chunk, true);
  }

  end(): void {
    if (this.#over) return;
    if (this.#tunnel === undefined) this.#over = this.#answered;
    else this.#tunnel.end();
  }

  consume(bytes: number): void {
    if (!this.#over) this.#tunnel?.consume(bytes);
  }

  abort(_loss: Loss): void {
    if (this.#over) return;
    this.#over = true;
    this.#reset();
  }

  #begin(tunnel: Http1Tunnel): void {
    const early = this.#early;
    this.#early = [];
    for (const chunk of early) if (!this.#over) tunnel.read(chunk);
    if (!this.#over) tunnel.start();
  }

  #read(chunk: Buffer, lent = false): void {
    if (this.#over) return;
    // One read may be under way as reading is stopped.
    if (this.#tunnel === undefined || this.#early.length > 0) this.#early.push(lent ? Buffer.from(chunk) : chunk);
    else this.#guarded(() => this.#tunnel?.read(chunk, lent));
  }

  #ended(because: string): void {
    this.#cancelDrain?.();
    if (this.#over) return;
    this.#over = true;
    this.#lose({ kind: "cancelled", because });
  }

  /** Both directions have ended; what the client has not read yet is still on its way. */
  #linger(): void {
    this.#over = true;
    const { clock, options } = this.#context;
    limitLinger(this.#socket, { clock, stallMs: options.writeStallMs, reset: () => this.#reset() });
  }

  #reset(): void {
    resetSocket(this.#socket);
  }

  /** Told once: whoever throws as it hears of the end has nothing left that could be ended. */
  #lose(loss: Loss): void {
    const events = this.#events;
    this.#events = deaf;
    try {
      events.aborted(loss);
    } catch (thrown) {
      this.#context.onFault?.(thrown);
    }
  }

  #guarded(task: () => void): void {
    try {
      task();
    } catch (thrown) {
      this.#context.onFault?.(thrown);
      this.#over = true;
      this.#socket.destroy();
      this.#lose({ kind: "lost", because: `a bug: ${messageOf(thrown)}` });
    }
  }
}

/** RST, so that the other side does not take what it has for all there was; a Unix socket knows no such thing. */
export function resetSocket(socket: Socket): void {
  if (socket.destroyed) return;
  if (socket.remotePort === undefined || socket.connecting) socket.destroy();
  else socket.resetAndDestroy();
}
