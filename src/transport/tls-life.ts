import type { Clock } from "../base/clock.ts";
import { Ticker, tickMs, type Ticking } from "./http1-ticker.ts";

/** A connection's last moment, and the moment from which it should wind up. */
export interface Life {
  /** Milliseconds since 1970. */
  readonly endsAtMs: number;
  /** An end proved a new certificate on the running connection: that is when the first of both ends now. */
  extend(endsAtMs: number): void;
  /** Ends at `endsAtMs` if that is before its own end, wherever that moves. */
  shorten(endsAtMs: number): void;
  /** Takes back every `shorten`. */
  relieve(): void;
  cancel(): void;
}

export interface LifeTerms {
  readonly clock: Clock;
  readonly endsAtMs: number;
  /** How long before its end the connection is asked to drain; a quarter of what is left where that is less. */
  readonly leadMs: number;
}

/** Whose life it is. */
export interface LifeOwner {
  /** Asks to drain within so many milliseconds. Called once per end. */
  onEnding(withinMs: number): void;
  onEnd(): void;
  /** A look at it threw: it ends, and this is for the log. */
  onFault(thrown: unknown): void;
}

/**
 * No connection outlives the certificates at its ends (DESIGN, promise 4). The wall clock is looked at twice a second
 * instead of setting timers: certificates end by wall time, and machines sleep. The look that ends a connection is the last
 * one before its certificate ends, not the first one after.
 */
export function limitLife(owner: LifeOwner, terms: LifeTerms): Life {
  return new LimitedLife(owner, terms);
}

class LimitedLife implements Life, Ticking {
  readonly #owner: LifeOwner;
  readonly #clock: Clock;
  readonly #leadMs: number;
  #endsAtMs: number;
  #endingAtMs = 0;
  /** By when it was asked to be gone, whatever its certificates allow. */
  #goneByMs = Infinity;

  constructor(owner: LifeOwner, { clock, endsAtMs, leadMs }: LifeTerms) {
    this.#owner = owner;
    this.#clock = clock;
    this.#leadMs = leadMs;
    this.#endsAtMs = endsAtMs;
    this.#plan();
    Ticker.of(clock).add(this);
  }

  get endsAtMs(): number {
    return Math.min(this.#endsAtMs, this.#goneByMs);
  }

  extend(endsAtMs: number): void {
    this.#endsAtMs = endsAtMs;
    this.#plan();
  }

  shorten(endsAtMs: number): void {
    this.#goneByMs = Math.min(this.#goneByMs, endsAtMs);
  }

  relieve(): void {
    this.#goneByMs = Infinity;
  }

  cancel(): void {
    Ticker.of(this.#clock).remove(this);
  }

  tick(): void {
    const nowMs = this.#clock.wallMs();
    if (nowMs + tickMs >= this.#endsAtMs || nowMs >= this.#goneByMs) {
      this.cancel();
      this.#owner.onEnd();
    } else if (nowMs >= this.#endingAtMs) {
      this.#endingAtMs = Infinity;
      this.#owner.onEnding(this.#endsAtMs - tickMs - nowMs);
    }
  }

  broke(thrown: unknown): void {
    this.#owner.onFault(thrown);
    this.cancel();
    this.#owner.onEnd();
  }

  #plan(): void {
    const lastMs = this.#endsAtMs - tickMs;
    const leftMs = Math.max(0, lastMs - this.#clock.wallMs());
    this.#endingAtMs = lastMs - Math.min(this.#leadMs, leftMs / 4);
  }
}
