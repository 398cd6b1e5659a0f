import type { Clock } from "../base/clock.ts";
import { refuse, type Refusal } from "../base/errors.ts";
import { TokenBucket } from "../resilience/token-bucket.ts";

const bucketsMax = 10_000;

/** Rates per key (an address, an identity), in bounded memory: whoever was silent longest is forgotten first. */
export class Rates {
  readonly #clock: Clock;
  readonly #rate: { readonly perSecond: number; readonly burstMax: number };
  readonly #buckets = new Map<string, TokenBucket>();

  constructor(clock: Clock, rate: { readonly perSecond: number; readonly burstMax: number }) {
    this.#clock = clock;
    this.#rate = rate;
  }

  /** Counts one event of `key`; RATE_LIMITED where it has too many. */
  take(key: string): Refusal | undefined {
    const atMs = this.#clock.monotonicMs();
    const known = this.#buckets.get(key);
    const bucket = known ?? new TokenBucket(this.#rate, atMs);
    // Put last again: the order of the map is the order of use.
    if (known !== undefined) this.#buckets.delete(key);
    else if (this.#buckets.size >= bucketsMax) this.#forgetOldest();
    this.#buckets.set(key, bucket);
    if (bucket.take(atMs)) return undefined;
    return refuse(
      "RATE_LIMITED",
      `Cannot answer: more requests came than ${this.#rate.perSecond} per second, wanted fewer`,
      "Wait a second, then try again",
    );
  }

  get size(): number {
    return this.#buckets.size;
  }

  #forgetOldest(): void {
    const oldest = this.#buckets.keys().next();
    if (oldest.done !== true) this.#buckets.delete(oldest.value);
  }
}
