import { repeat, type Clock } from "../base/clock.ts";

/** Something that looks at its own deadlines twice a second. */
export interface Ticking {
  tick(nowMs: number): void;
  /** Its `tick` threw: it says so, and ends what it looks after. The others are looked at all the same. */
  broke(thrown: unknown): void;
}

/** How late a deadline may be noticed; half a second of ten is nothing, and a timer per request would be something. */
export const tickMs = 500;

const tickers = new WeakMap<Clock, Ticker>();

/** One coarse timer for all connections of a clock: starting a deadline costs one addition. */
export class Ticker {
  #nowMs: number;
  readonly #clock: Clock;
  readonly #members = new Set<Ticking>();
  #cancel: (() => void) | undefined;

  private constructor(clock: Clock) {
    this.#clock = clock;
    this.#nowMs = clock.monotonicMs();
  }

  static of(clock: Clock): Ticker {
    let ticker = tickers.get(clock);
    if (ticker === undefined) tickers.set(clock, (ticker = new Ticker(clock)));
    return ticker;
  }

  /** The time by which at least `delayMs` from now have passed, in milliseconds of the clock. */
  deadline(delayMs: number): number {
    return this.#nowMs + delayMs + tickMs;
  }

  add(member: Ticking): void {
    this.#members.add(member);
    if (this.#cancel !== undefined) return;
    this.#nowMs = this.#clock.monotonicMs();
    this.#cancel = repeat(this.#clock, tickMs, () => this.#tick());
  }

  remove(member: Ticking): void {
    this.#members.delete(member);
  }

  #tick(): void {
    this.#nowMs = this.#clock.monotonicMs();
    let failed: { readonly thrown: unknown } | undefined;
    for (const member of this.#members) {
      try {
        this.#look(member);
      } catch (thrown) {
        failed ??= { thrown };
      }
    }
    if (this.#members.size === 0) {
      this.#cancel?.();
      this.#cancel = undefined;
    }
    if (failed !== undefined) throw failed.thrown;
  }

  #look(member: Ticking): void {
    try {
      member.tick(this.#nowMs);
    } catch (thrown) {
      member.broke(thrown);
    }
  }
}
