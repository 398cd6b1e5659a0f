import type { Socket } from "node:net";
import type { Clock } from "../base/clock.ts";
import { messageOf } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { RequestHead } from "../http/message.ts";
import type { ClientConnection, ClientExchange, ResponseEvents } from "./exchange.ts";
import type { RoomShare } from "./body-room.ts";
import { connectHttp2 } from "./http2-client.ts";
import { Ticker, type Ticking } from "./http1-ticker.ts";
import type { http2Options } from "./http2-options.ts";
import type { LentReads } from "./lent-reads.ts";
import type { http1Options } from "./options.ts";
import { dialRoutee, type RouteeTarget } from "./routee-dial.ts";
import { WaitingExchange } from "./waiting-exchange.ts";

export interface Http2PoolContext {
  readonly target: RouteeTarget;
  readonly clock: Clock;
  /** How a routee is connected to and waited for, whatever it speaks. */
  readonly routee: Pick<OptionValues<typeof http1Options>, "routeeConnectMs" | "routeeIdleMs" | "routeeQueueMax">;
  readonly http2: OptionValues<typeof http2Options>;
  readonly room?: RoomShare | undefined;
  readonly onFault?: (thrown: unknown) => void;
}

interface Member {
  readonly connection: ClientConnection;
  idleUntilMs: number;
}

/**
 * gRPC servers take PINGs of an idle connection for an attack ("too_many_pings"), and over loopback nobody dies in silence:
 * the kernel says so.
 */
const pingMs = 3_600_000;

/**
 * HTTP/2 connections to one routee, with prior knowledge and without TLS: one that carries everything at once, and more, up
 * to a bound, only while all streams that the routee allows are in use. Requests that find no stream wait in a bounded
 * queue. It retries nothing: a `Loss` says what the caller may do, and what GOAWAY or REFUSED_STREAM left out is
 * `unprocessed`.
 */
export class Http2Pool implements Ticking {
  readonly #context: Http2PoolContext;
  readonly #ticker: Ticker;
  /** The oldest first: it is used first, so that those behind it come of age. */
  #members: Member[] = [];
  readonly #waiting = new Set<WaitingExchange>();
  #dialling: Socket | undefined;
  #closed = false;
  #serving = false;

  constructor(context: Http2PoolContext) {
    this.#context = { ...context, http2: { ...context.http2, pingMs } };
    this.#ticker = Ticker.of(context.clock);
    this.#ticker.add(this);
  }

  /** Connections that stand. */
  get connections(): number {
    return this.#members.length;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /** Sends a request now or as soon as a connection has room; what fails is told by `events.aborted`. */
  request(head: RequestHead, end: boolean, events: ResponseEvents): ClientExchange {
    if (this.#waiting.size === 0) {
      const exchange = this.#ready()?.connection.request(head, end, events);
      if (exchange !== undefined) return exchange;
    }
    const waiting = new WaitingExchange(this.#waiting, { head, bodyless: end, events, onFault: this.#context.onFault });
    if (this.#closed) return waiting.failSoon("the pool is closed");
    // What waits for the connection that is being made will mostly have a place on it.
    const { routee, http2 } = this.#context;
    const queueMax = routee.routeeQueueMax + (this.#mayDial() ? http2.streamsMax : 0);
    if (this.#waiting.size >= queueMax) return waiting.failSoon("the queue for the routee is full");
    this.#waiting.add(waiting);
    this.#dial();
    return waiting;
  }

  /** Takes no new request; those under way may end within `withinMs`. */
  close(withinMs: number): void {
    this.#closed = true;
    this.#ticker.remove(this);
    this.#failAll("the pool is closed");
    this.#dialling?.destroy();
    for (const { connection } of this.#members.slice()) connection.drain(withinMs);
  }

  tick(nowMs: number): void {
    for (const member of this.#members.slice(1)) {
      if (member.connection.exchanges > 0) member.idleUntilMs = this.#idleUntil();
      else if (nowMs >= member.idleUntilMs) member.connection.drain(0);
    }
    // The routee may allow more streams than before.
    if (this.#waiting.size > 0) this.#serve();
  }

  broke(thrown: unknown): void {
    this.#context.onFault?.(thrown);
  }

  #idleUntil(): number {
    return this.#ticker.deadline(this.#context.routee.routeeIdleMs);
  }

  #ready(): Member | undefined {
    for (const member of this.#members) {
      const { connection } = member;
      if (connection.open && connection.exchanges < connection.exchangesMax) return member;
    }
    return undefined;
  }

  #mayDial(): boolean {
    if (this.#closed) return false;
    let open = 0;
    for (const { connection } of this.#members) if (connection.open) open++;
    return open < this.#context.http2.routeeConnectionsMax;
  }

  #dial(): void {
    if (this.#dialling !== undefined || !this.#mayDial()) return;
    const { target, clock, routee, onFault } = this.#context;
    const terms = { clock, connectMs: routee.routeeConnectMs, onFault };
    this.#dialling = dialRoutee(target, terms, {
      connected: (socket, reads) => this.#greet(socket, reads),
      failed: (because) => this.#dialFailed(because),
    });
  }

  /** The routee's SETTINGS say how many streams it takes, and that it speaks HTTP/2 at all. */
  #greet(socket: Socket, reads: LentReads): void {
    const { clock, http2, room, onFault } = this.#context;
    let member: Member | undefined;
    let over = false;
    connectHttp2(socket, {
      clock,
      options: http2,
      room,
      reads,
      onClosed: () => {
        over = true;
        if (member !== undefined) this.#gone(member);
      },
      onGoaway: () => this.#serveSoon(),
      onFreed: () => this.#serveSoon(),
      onFault,
    })
      .then(
        (connection) => {
          this.#dialling = undefined;
          if (over) return this.#serveSoon();
          member = { connection, idleUntilMs: this.#idleUntil() };
          this.#members.push(member);
          if (this.#closed) connection.drain(0);
          else this.#serve();
        },
        (thrown: unknown) => {
          socket.destroy();
          this.#dialFailed(messageOf(thrown));
        },
      )
      .catch((thrown: unknown) => {
        this.broke(thrown);
        socket.destroy();
      });
  }

  #gone(member: Member): void {
    const at = this.#members.indexOf(member);
    if (at >= 0) this.#members.splice(at, 1);
    this.#serveSoon();
  }

  /** A dead routee fails everybody who waits for it, each at most one connect timeout late. */
  #dialFailed(because: string): void {
    this.#dialling = undefined;
    this.#failAll(because);
  }

  #failAll(because: string): void {
    for (const waiting of this.#waiting) {
      this.#waiting.delete(waiting);
      waiting.fail({ kind: "unprocessed", because });
    }
  }

  /** Not in the middle of what a connection is about to finish. */
  #serveSoon(): void {
    if (this.#waiting.size === 0 || this.#serving) return;
    this.#serving = true;
    queueMicrotask(() => {
      this.#serving = false;
      try {
        this.#serve();
      } catch (thrown) {
        this.broke(thrown);
      }
    });
  }

  /** Whoever waits longest gets the next stream. */
  #serve(): void {
    for (const waiting of this.#waiting) {
      const member = this.#ready();
      if (member === undefined) return this.#dial();
      this.#waiting.delete(waiting);
      try {
        waiting.start(member.connection);
      } catch (thrown) {
        this.broke(thrown); // It has been told; the others have waited as long.
      }
    }
  }
}
