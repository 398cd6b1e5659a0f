import type { Gauge } from "../telemetry/metrics.ts";
import { isOverShare } from "../resilience/fair-share.ts";

/** A number that goes up and down. */
export type Level = Pick<Gauge, "add" | "value">;

/** What one identity has open, counted beside what all have: a peer with a valid identity is still a stranger. */
export class PeerShare implements Level {
  readonly #all: Level;
  #own = 0;

  constructor(all: Level) {
    this.#all = all;
  }

  /** Of all. */
  get value(): number {
    return this.#all.value;
  }

  add(amount: number): void {
    this.#own += amount;
    this.#all.add(amount);
  }

  /** Whether the one that was counted last is more than its share of `max`. */
  isExceeded(max: number, ratio: number): boolean {
    return isOverShare({ max, ratio, taken: this.#all.value - 1, own: this.#own - 1 });
  }
}

/** What the connections of one identity have in common, for as long as there is one. */
export class PerPeer<T> {
  readonly #make: () => T;
  readonly #kept = new Map<string, { readonly of: T; connections: number }>();

  constructor(make: () => T) {
    this.#make = make;
  }

  /** For one more connection of this identity; `leave` says, once, that it has ended. */
  join(id: string): { of: T; leave: () => void } {
    let kept = this.#kept.get(id);
    if (kept === undefined) {
      kept = { of: this.#make(), connections: 0 };
      this.#kept.set(id, kept);
    }
    const { of } = kept;
    const mine = kept;
    mine.connections++;
    return {
      of,
      leave: () => {
        if (--mine.connections === 0) this.#kept.delete(id);
      },
    };
  }

  get size(): number {
    return this.#kept.size;
  }
}
