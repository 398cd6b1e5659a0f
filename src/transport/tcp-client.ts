import type { Socket } from "node:net";
import type { Clock } from "../base/clock.ts";
import { messageOf } from "../base/errors.ts";
import type { RequestHead } from "../http/message.ts";
import type { ClientExchange, Loss, ResponseEvents } from "./exchange.ts";
import { Http1Tunnel } from "./http1-tunnel.ts";
import { Http1Writer } from "./http1-writer.ts";
import type { LentReads } from "./lent-reads.ts";
import { limitLinger } from "./linger.ts";
import { dialRoutee, type RouteeTarget } from "./routee-dial.ts";
import { resetSocket } from "./tcp-server.ts";

export interface TcpDialerContext {
  /** Where the routee listens: declared here, never what a peer wrote. */
  readonly target: RouteeTarget;
  readonly clock: Clock;
  readonly options: {
    readonly routeeConnectMs: number;
    /** Bytes of the routee that may wait before reading stops. */
    readonly windowBytes: number;
    /** How long the routee may take nothing of the last bytes, once both directions have ended. */
    readonly writeStallMs: number;
  };
  readonly onFault?: (thrown: unknown) => void;
}

/**
 * Takes CONNECT requests for one declared TCP port of the routee: each is a connection of its own, answered with 200 when
 * the routee has accepted it. A routee that does not accept is `unprocessed`.
 */
export class TcpDialer {
  readonly #context: TcpDialerContext;
  readonly #open = new Set<TcpExchange>();
  #closed = false;

  constructor(context: TcpDialerContext) {
    this.#context = context;
  }

  /** Connections that are open, being made, or on their last bytes. */
  get connections(): number {
    return this.#open.size;
  }

  /** Undefined for what is no CONNECT, and after `close`. */
  request(head: RequestHead, end: boolean, events: ResponseEvents): ClientExchange | undefined {
    if (this.#closed || head.method !== "CONNECT") return undefined;
    const exchange = new TcpExchange(this.#context, events, () => this.#open.delete(exchange));
    this.#open.add(exchange);
    if (end) exchange.end();
    return exchange;
  }

  /** Opens no more; what is open may last `withinMs`. */
  close(withinMs: number): void {
    this.#closed = true;
    const endAll = (): void => {
      for (const exchange of this.#open) exchange.fail({ kind: "lost", because: "the sidecar stops" });
    };
    if (withinMs === 0) endAll();
    else this.#context.clock.after(withinMs, endAll);
  }
}

class TcpExchange implements ClientExchange {
  readonly #context: TcpDialerContext;
  readonly #events: ResponseEvents;
  readonly #onOver: () => void;
  readonly #socket: Socket;
  #tunnel: Http1Tunnel | undefined = undefined;
  /** Written before the routee had accepted; whoever follows the rules of exchanges has nothing here. */
  #early: Buffer[] = [];
  #ending = false;
  #over = false;
  #because = "the routee closed the connection";

  constructor(context: TcpDialerContext, events: ResponseEvents, onOver: () => void) {
    this.#context = context;
    this.#events = events;
    this.#onOver = onOver;
    this.#socket = dialRoutee(
      context.target,
      { clock: context.clock, connectMs: context.options.routeeConnectMs },
      {
        connected: (socket, reads) => this.#guarded(() => this.#connected(socket, reads)),
        failed: (because) => this.fail({ kind: "unprocessed", because }),
      },
    );
  }

  write(chunk: Buffer): boolean {
    if (this.#over || this.#ending) return true;
    if (this.#tunnel !== undefined) return this.#tunnel.write(chunk);
    this.#early.push(chunk);
    return false;
  }

  writeLent(chunk: Buffer): boolean {
    const open = this.#tunnel !== undefined && !this.#over && !this.#ending;
    return open ? (this.#tunnel as Http1Tunnel).write(chunk, true) : this.write(Buffer.from(chunk));
  }

  end(): void {
    if (this.#over || this.#ending) return;
    this.#ending = true;
    this.#tunnel?.end();
  }

  consume(bytes: number): void {
    if (!this.#over) this.#tunnel?.consume(bytes);
  }

  abort(_loss: Loss): void {
    this.#finish();
    resetSocket(this.#socket);
  }

  /** Ends it, and says why. */
  fail(loss: Loss): void {
    if (this.#over) return resetSocket(this.#socket); // Its last bytes, where there are any, have no more time.
    this.#finish();
    resetSocket(this.#socket);
    try {
      this.#events.aborted(loss);
    } catch (thrown) {
      this.#context.onFault?.(thrown);
    }
  }

  #connected(socket: Socket, reads: LentReads): void {
    if (this.#over) {
      socket.destroy();
      return;
    }
    const tunnel = new Http1Tunnel(socket, this.#events, {
      writer: new Http1Writer(socket, this.#context.onFault),
      windowBytes: this.#context.options.windowBytes,
      onOver: () => this.#linger(),
    });
    reads.to((lent) => this.#guarded(() => tunnel.read(lent, true)));
    socket.on("end", () => this.#guarded(() => tunnel.readEnded()));
    socket.on("drain", () => this.#guarded(() => tunnel.drained()));
    socket.on("error", (error) => {
      this.#because = error.message;
    });
    socket.on("close", () => {
      this.fail({ kind: "lost", because: this.#because });
      this.#onOver();
    });
    socket.resume(); // Nobody hears "data", and the end is to be heard all the same.
    this.#tunnel = tunnel;
    this.#events.head({ status: 200, fields: [], bodyLength: -1 }, false);
    if (this.#over) return;
    const early = this.#early;
    this.#early = [];
    let room = true;
    for (const chunk of early) room = tunnel.write(chunk);
    if (this.#ending) tunnel.end();
    else if (early.length > 0 && room) this.#events.drained();
    tunnel.start();
  }

  /** Both directions have ended; what the routee has not read yet is still on its way. */
  #linger(): void {
    if (this.#over) return;
    this.#over = true;
    const { clock, options } = this.#context;
    limitLinger(this.#socket, { clock, stallMs: options.writeStallMs, reset: () => resetSocket(this.#socket) });
  }

  #finish(): void {
    if (this.#over) return;
    this.#over = true;
    this.#early = [];
    this.#onOver();
  }

  #guarded(task: () => void): void {
    if (this.#over) return;
    try {
      task();
    } catch (thrown) {
      this.#context.onFault?.(thrown);
      this.fail({ kind: "lost", because: `a bug: ${messageOf(thrown)}` });
    }
  }
}
