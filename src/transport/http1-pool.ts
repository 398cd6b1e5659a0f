import type { Socket } from "node:net";
import type { Clock } from "../base/clock.ts";
import type { OptionValues } from "../base/options.ts";
import type { Random } from "../base/random.ts";
import type { RequestHead } from "../http/message.ts";
import type { ClientConnection, ClientExchange, ResponseEvents } from "./exchange.ts";
import { connectHttp1 } from "./http1-client.ts";
import type { LentReads } from "./lent-reads.ts";
import { Ticker, type Ticking } from "./http1-ticker.ts";
import type { http1Options } from "./options.ts";
import { dialRoutee, type RouteeTarget } from "./routee-dial.ts";
import { WaitingExchange } from "./waiting-exchange.ts";

export interface Http1PoolContext {
  readonly target: RouteeTarget;
  readonly clock: Clock;
  readonly random: Random;
  readonly options: OptionValues<typeof http1Options>;
  readonly onFault?: (thrown: unknown) => void;
}

interface Member {
  readonly connection: ClientConnection;
  idleUntilMs: number;
}

/**
 * Keep-alive connections to one routee, one request on each at a time; dialled when needed, bounded in number, with a
 * bounded queue that fails at once when it is full. It retries nothing: a `Loss` says what the caller may do.
 */
export class Http1Pool implements Ticking {
  readonly #context: Http1PoolContext;
  readonly #ticker: Ticker;
  readonly #members = new Set<Member>();
  /** They wait more than they work, and how many there may be is for who opens them to say. */
  readonly #tunnels = new Set<Member>();
  /** The one that was used last is used next, so that spare ones come of age. */
  readonly #idle: Member[] = [];
  readonly #waiting = new Set<WaitingExchange>();
  readonly #dialling = new Set<Socket>();
  /** How many requests have had to wait so far. */
  #asked = 0;
  #closed = false;

  constructor(context: Http1PoolContext) {
    this.#context = context;
    this.#ticker = Ticker.of(context.clock);
    this.#ticker.add(this);
  }

  /** Connections that are there or being made, without those that have become tunnels. */
  get connections(): number {
    return this.#members.size + this.#dialling.size;
  }

  get idle(): number {
    return this.#idle.length;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /** Sends a request now or as soon as a connection is there; what fails is told by `events.aborted`. */
  request(head: RequestHead, end: boolean, events: ResponseEvents): ClientExchange {
    if (this.#waiting.size === 0) {
      const exchange = this.#requestNow(head, end, events);
      if (exchange !== undefined) return exchange;
    }
    const waiting = new WaitingExchange(this.#waiting, { head, bodyless: end, events, onFault: this.#context.onFault });
    if (this.#closed) return waiting.failSoon("the pool is closed");
    const { routeeConnectionsMax, routeeQueueMax } = this.#context.options;
    const queued = this.#waiting.size - this.#dialling.size;
    if (this.connections >= routeeConnectionsMax && queued >= routeeQueueMax) {
      return waiting.failSoon("the queue for the routee is full");
    }
    waiting.order = ++this.#asked;
    this.#waiting.add(waiting);
    if (this.#dialling.size < this.#waiting.size && this.connections < routeeConnectionsMax) this.#dial();
    return waiting;
  }

  /** Takes no new request; those under way may end within `withinMs`. */
  close(withinMs: number): void {
    this.#closed = true;
    this.#ticker.remove(this);
    this.#failAll("the pool is closed");
    for (const socket of this.#dialling) socket.destroy();
    for (const member of [...this.#members, ...this.#tunnels]) member.connection.drain(withinMs);
  }

  tick(nowMs: number): void {
    // The oldest are in front.
    while (this.#idle[0] !== undefined && nowMs >= this.#idle[0].idleUntilMs)
      this.#idle.shift()?.connection.destroy("idle for too long");
  }

  broke(thrown: unknown): void {
    this.#context.onFault?.(thrown);
  }

  #requestNow(head: RequestHead, end: boolean, events: ResponseEvents): ClientExchange | undefined {
    for (let member = this.#idle.pop(); member !== undefined; member = this.#idle.pop()) {
      const exchange = member.connection.request(head, end, events);
      if (exchange !== undefined) return exchange;
    }
    return undefined;
  }

  #dial(): void {
    const { target, clock, options, onFault } = this.#context;
    const begun = this.#asked;
    const socket: Socket = dialRoutee(
      target,
      { clock, connectMs: options.routeeConnectMs, onFault },
      {
        connected: (connected, reads) => {
          this.#dialling.delete(socket);
          this.#adopt(connected, reads);
        },
        failed: (because) => {
          this.#dialling.delete(socket);
          this.#dialFailed(because, begun);
        },
      },
    );
    this.#dialling.add(socket);
  }

  #adopt(socket: Socket, reads: LentReads): void {
    const { clock, random, options, onFault } = this.#context;
    const member: Member = {
      idleUntilMs: 0,
      connection: connectHttp1(socket, {
        clock,
        random,
        options,
        reads,
        onIdle: () => this.#free(member),
        onTunnel: () => this.#leave(member),
        onClosed: () => this.#gone(member),
        ...(onFault === undefined ? {} : { onFault }),
      }),
    };
    this.#members.add(member);
    this.#free(member);
  }

  /** A connection can take a request: the one that waits longest gets it. */
  #free(member: Member): void {
    for (const waiting of this.#waiting) {
      if (!member.connection.open) return; // Its end is on its way, and lets another be dialled.
      this.#waiting.delete(waiting);
      if (waiting.start(member.connection)) return;
    }
    if (this.#closed) return member.connection.destroy("the pool is closed");
    member.idleUntilMs = this.#ticker.deadline(this.#context.options.routeeIdleMs);
    this.#idle.push(member);
  }

  #leave(member: Member): void {
    this.#members.delete(member);
    this.#tunnels.add(member);
    this.#redial();
  }

  #gone(member: Member): void {
    this.#members.delete(member);
    this.#tunnels.delete(member);
    const at = this.#idle.indexOf(member);
    if (at >= 0) this.#idle.splice(at, 1);
    this.#redial();
  }

  #redial(): void {
    if (this.#closed || this.#waiting.size <= this.#dialling.size) return;
    if (this.connections < this.#context.options.routeeConnectionsMax) this.#dial();
  }

  /**
   * One dial fails one request, so that a dead routee fails them all, each within two connect timeouts; but none that came
   * after the dial began, which may have been made for somebody who has gone since.
   */
  #dialFailed(because: string, begun: number): void {
    for (const waiting of this.#waiting) {
      if (waiting.order > begun) break;
      this.#waiting.delete(waiting);
      waiting.fail({ kind: "unprocessed", because });
      break;
    }
    this.#redial();
  }

  #failAll(because: string): void {
    for (const waiting of this.#waiting) {
      this.#waiting.delete(waiting);
      waiting.fail({ kind: "unprocessed", because });
    }
  }
}
