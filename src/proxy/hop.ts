import type { Clock } from "../base/clock.ts";
import { failures, isRefusal, messageOf, refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { Published } from "../base/published.ts";
import { drainAtMs } from "../resilience/renewal.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { ClientConnection } from "../transport/exchange.ts";
import type { Tenure } from "../transport/tls-tenure.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import type { Meters } from "./meters.ts";
import type { proxyOptions } from "./options.ts";

/** Where a hop leads, and who must answer there. */
export interface HopTarget {
  readonly address: string;
  readonly port: number;
  /** The SPIFFE ID that the server must present, exactly. */
  readonly expect: string;
}

export interface Dialled {
  readonly connection: ClientConnection;
  /** The server's certificate: a connection outlives neither end's. */
  readonly peer: { readonly notBeforeMs: number; readonly notAfterMs: number };
  /** Until when it may go on, where its certificates can be proven anew. */
  readonly tenure?: HopTenure;
}

export type HopTenure = Pick<Tenure, "own" | "peer" | "renewed" | "retire" | "rejudge" | "drain">;

/** What a connection says of itself after it was dialled. */
export interface HopEvents {
  closed(because: string): void;
  goaway(): void;
}

/** Opens one verified connection that has shown its SETTINGS. A refusal is a connect failure: not a byte of a request was sent. */
export type Dial = (target: HopTarget, identity: TlsIdentity, events: HopEvents) => Promise<Dialled | Refusal>;

/** A request that waits for a connection: it is called once. */
export interface Waiter {
  connected(connection: ClientConnection): void;
  failed(refusal: Refusal): void;
}

export interface HopContext {
  readonly clock: Clock;
  readonly log: Logger;
  readonly options: OptionValues<typeof proxyOptions>;
  readonly identity: Published<TlsIdentity | undefined>;
  readonly dial: Dial;
  readonly meters: Meters;
  /** Something of ours threw, and cost nothing more than what it was about: for the log. */
  readonly onFault: (thrown: unknown) => void;
}

/** One connection of a hop, with the certificate that it was made with. */
interface Held {
  readonly connection: ClientConnection;
  readonly identity: TlsIdentity;
  readonly tenure: HopTenure | undefined;
  usedAtMs: number;
  cancelEnd: () => void;
}

const redialAfterMs = 1_000;

/**
 * The connections to one endpoint: one multiplexed connection per identity, one dial at a time, more connections only when
 * all streams are in use. Requests that find none wait in a bounded queue.
 *
 * After a renewal the old connection serves until the new one stands, which the next request sets off: a fleet of idle
 * hops is not dialled anew at one moment. What is still under way on the old one then goes on, for as long as both ends prove
 * their newest certificates on it.
 */
export class Hop {
  readonly #context: HopContext;
  readonly #target: HopTarget;
  /** The newest last; requests take the last one that has room. */
  #held: Held[] = [];
  /** Take no request any more, and end with their last exchange. */
  readonly #retired = new Set<Held>();
  #waiting: Waiter[] = [];
  #dialling = false;
  #failedAtMs = -Infinity;
  /** When a connection broke, until that is answered with a second dial. */
  #brokeAtMs = -Infinity;
  #ended = false;

  constructor(context: HopContext, target: HopTarget) {
    this.#context = context;
    this.#target = target;
  }

  get connections(): number {
    return this.#held.length;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /** A connection that can take a request now. The hot path: one comparison per connection. */
  ready(nowMs: number): ClientConnection | undefined {
    for (let i = this.#held.length - 1; i >= 0; i--) {
      const held = this.#held[i] as Held;
      const { connection } = held;
      if (!connection.open || connection.exchanges >= connection.exchangesMax) continue;
      held.usedAtMs = nowMs;
      if (held.identity !== this.#context.identity.read()) this.#renew(nowMs);
      return connection;
    }
    return undefined;
  }

  /** Waits for a connection; gives a refusal where too many wait already. */
  wait(waiter: Waiter): Refusal | undefined {
    if (this.#ended) return this.#gone();
    if (this.#waiting.length >= this.#context.options.waitingMax) {
      return refuse(
        "LIMIT_REQUESTS",
        `Cannot wait for a connection: ${this.#waiting.length} requests wait for this endpoint already`,
        "Try again later; the endpoint is slow or out of streams",
      );
    }
    this.#waiting.push(waiter);
    this.#dial();
    return undefined;
  }

  /** Somebody who waited went away. */
  leave(waiter: Waiter): void {
    const at = this.#waiting.indexOf(waiter);
    if (at >= 0) this.#waiting.splice(at, 1);
  }

  /** An exchange ended: whoever waits may have its place. */
  freed(): void {
    try {
      if (this.#waiting.length > 0) this.#serve();
    } catch (thrown) {
      this.#context.onFault(thrown); // Called from a microtask, where nobody else would catch it.
    }
  }

  /** The own certificate is another: it is proven where something is under way. */
  renewed(): void {
    for (const held of [...this.#held, ...this.#retired]) held.tenure?.renewed();
  }

  /** The roots are others: no connection that was made under the old ones is used again. */
  rejudge(): void {
    const { drainMs } = this.#context.options;
    for (const held of this.#retired) held.tenure?.rejudge(drainMs);
    for (const held of this.#held.slice()) {
      if (held.tenure === undefined) this.#drain(held);
      else if (this.#letGo(held)) held.tenure.rejudge(drainMs);
    }
    if (this.#waiting.length > 0) this.#serve();
  }

  /** Closes what carried nothing for `hopIdleMs`. */
  closeIdle(nowMs: number): void {
    for (const held of this.#held.slice()) {
      if (held.connection.exchanges === 0 && nowMs - held.usedAtMs >= this.#context.options.hopIdleMs)
        this.#drain(held);
    }
  }

  /** The endpoint left: nobody is connected to it any more. */
  end(): void {
    this.#ended = true;
    for (const held of this.#held.slice()) this.#drain(held);
    for (const held of this.#retired) held.tenure?.drain(this.#context.options.drainMs);
    this.#fail(this.#gone());
  }

  #renew(nowMs: number): void {
    const identity = this.#context.identity.read();
    if (identity === undefined || this.#dialling || nowMs - this.#failedAtMs < redialAfterMs) return;
    if (this.#held.some((held) => held.identity === identity && held.connection.open)) return;
    this.#dial();
  }

  #dial(): void {
    if (this.#dialling || this.#ended) return;
    const identity = this.#context.identity.read();
    if (identity === undefined) {
      this.#fail(
        refuse(
          "NO_IDENTITY",
          "Cannot connect: this workload has no identity now",
          "Wait for enrollment or renewal; see the log",
        ),
      );
      return;
    }
    const current = this.#held.filter((held) => held.identity === identity && held.connection.open);
    if (current.length >= this.#context.options.hopConnectionsMax) return;
    this.#dialling = true;
    let over: string | undefined;
    let held: Held | undefined;
    const events: HopEvents = {
      closed: (because) => {
        over = because;
        if (held !== undefined) this.#lost(held);
      },
      goaway: () => this.#replace(held),
    };
    this.#context
      .dial(this.#target, identity, events)
      .catch((thrown: unknown) => connectFailed(messageOf(thrown)))
      .then((dialled) => {
        this.#dialling = false;
        if (isRefusal(dialled)) this.#dialFailed(dialled);
        else if (over !== undefined) this.#dialFailed(connectFailed(over));
        else held = this.#opened(dialled, identity);
      })
      .catch((thrown: unknown) => {
        this.#context.onFault(thrown);
        // Whoever waited for this dial would wait for nothing.
        this.#fail(connectFailed(`a bug: ${messageOf(thrown)}`));
      });
  }

  #dialFailed(refusal: Refusal): void {
    this.#failedAtMs = this.#context.clock.monotonicMs();
    const { address, port, expect } = this.#target;
    this.#context.log.warn("a connection to an endpoint could not be made", {
      code: refusal.code,
      because: refusal.message,
      address,
      port,
      expect,
    });
    this.#context.meters.handshakeRefused("outbound", refusal.code);
    if (refusal.code === "CONNECT_FAILED" && this.#failedAtMs - this.#brokeAtMs < redialAfterMs) {
      // Of a process that is killed the system ends the connections first, and then what listens: a dial in between is
      // taken by nobody and reset, where another worker, or the next start of the program, takes the one after it.
      this.#brokeAtMs = -Infinity;
      if (this.#waiting.length > 0) return this.#dial();
    }
    this.#fail(asAnswer(refusal));
  }

  #opened(dialled: Dialled, identity: TlsIdentity): Held | undefined {
    const { connection } = dialled;
    this.#context.meters.opened("outbound", serialOf(identity));
    const held: Held = {
      connection,
      identity,
      tenure: dialled.tenure,
      usedAtMs: this.#context.clock.monotonicMs(),
      cancelEnd: () => undefined,
    };
    if (this.#ended) {
      connection.drain(0);
      return undefined;
    }
    held.cancelEnd = this.#planEnd(held, dialled);
    this.#held.push(held);
    this.#context.log.debug("a connection to an endpoint stands", { ...this.#target, serial: serialOf(identity) });
    this.#context.meters.openConnections.with("outbound").add(1);
    for (const older of this.#held.slice()) {
      if (older.identity.generation < identity.generation) this.#retire(older);
    }
    this.#serve();
    return held;
  }

  /** Retires it before the first of both certificates ends, which moves when they are proven anew. */
  #planEnd(held: Held, dialled: Dialled): () => void {
    const { clock } = this.#context;
    const { tenure, identity } = held;
    let cancel = (): void => undefined;
    const look = (): void => {
      const { notBeforeMs, notAfterMs } = tenure?.peer.leaf ?? dialled.peer;
      const drainAt = Math.min(drainAtMs(tenure?.own ?? identity), drainAtMs({ issuedAtMs: notBeforeMs, notAfterMs }));
      const leftMs = drainAt - clock.wallMs();
      if (leftMs > 0) cancel = clock.after(leftMs, look);
      else this.#retire(held, Math.max(0, Math.min(identity.notAfterMs, notAfterMs) - clock.wallMs()));
    };
    cancel = clock.after(0, look);
    return () => cancel();
  }

  /** Takes no request any more; what is under way may go on for as long as its certificates are proven anew, else `withinMs`. */
  #retire(held: Held, withinMs: number = this.#context.options.drainMs): void {
    if (held.tenure === undefined) this.#drain(held, withinMs);
    else if (this.#letGo(held)) held.tenure.retire();
    if (this.#waiting.length > 0) this.#serve();
  }

  /** Gives it no request any more, but hears of its end. */
  #letGo(held: Held): boolean {
    if (!this.#remove(held)) return false;
    this.#context.meters.drained("outbound", serialOf(held.identity));
    this.#retired.add(held);
    return true;
  }

  /** Is gone in `withinMs`. */
  #drain(held: Held, withinMs: number = this.#context.options.drainMs): void {
    if (!this.#remove(held)) return;
    this.#context.meters.drained("outbound", serialOf(held.identity));
    const { clock } = this.#context;
    // Whatever the drain allows, the connection ends with the certificate that it was made with.
    if (held.tenure !== undefined) held.tenure.drain(withinMs);
    else held.connection.drain(Math.max(0, Math.min(withinMs, held.identity.notAfterMs - clock.wallMs())));
    if (this.#waiting.length > 0) this.#serve();
  }

  /** The server says goodbye: the next connection is dialled before a request has to wait for it. */
  #replace(held: Held | undefined): void {
    if (held === undefined || !this.#letGo(held)) return;
    held.tenure?.retire();
    const idle = this.#context.clock.monotonicMs() - held.usedAtMs >= redialAfterMs * 10;
    if (!idle || this.#waiting.length > 0) this.#dial();
  }

  #lost(held: Held): void {
    this.#context.log.debug("a connection to an endpoint is over", {
      ...this.#target,
      serial: serialOf(held.identity),
    });
    this.#retired.delete(held);
    if (this.#remove(held)) this.#brokeAtMs = this.#context.clock.monotonicMs();
    if (this.#waiting.length > 0) this.#serve();
  }

  #remove(held: Held): boolean {
    const at = this.#held.indexOf(held);
    if (at < 0) return false;
    this.#held.splice(at, 1);
    held.cancelEnd();
    this.#context.meters.openConnections.with("outbound").add(-1);
    return true;
  }

  #serve(): void {
    const nowMs = this.#context.clock.monotonicMs();
    while (this.#waiting.length > 0) {
      const connection = this.ready(nowMs);
      if (connection === undefined) {
        this.#dial();
        return;
      }
      (this.#waiting.shift() as Waiter).connected(connection);
    }
  }

  #fail(refusal: Refusal): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const waiter of waiting) waiter.failed(refusal);
  }

  #gone(): Refusal {
    return connectFailed("the endpoint has left");
  }
}

/**
 * What whoever asked is told. That the endpoint's certificate is wrong is the endpoint's failure: by its own status it would
 * read as if the caller were denied.
 */
function asAnswer(refusal: Refusal): Refusal {
  if (failures[refusal.code].status === failures.CONNECT_FAILED.status) return refusal;
  return refuse("CONNECT_FAILED", `Cannot connect to the endpoint, ${refusal.code}: ${refusal.message}`, refusal.hint);
}

export function connectFailed(because: string): Refusal {
  return refuse(
    "CONNECT_FAILED",
    `Cannot connect to the endpoint: ${because}`,
    "Try again; see the sidecar's log if it lasts",
  );
}

/** The serial of the own leaf, in hexadecimal digits. */
export function serialOf(identity: TlsIdentity): string {
  return identity.chain[0]?.serial ?? "";
}
