import type { Clock } from "../base/clock.ts";

/**
 * What a peer may do without use to anybody: spent by cheap frames and resets, earned by time and by useful work, so
 * that a busy peer may do more of it than an idle one. The clock is read only when all is spent.
 */
export class Allowance {
  readonly #max: number;
  readonly #perMs: number;
  #left: number;
  #atMs: number;

  constructor(max: number, perSecond: number, clock: Clock) {
    this.#max = max;
    this.#perMs = perSecond / 1_000;
    this.#left = max;
    this.#atMs = clock.monotonicMs();
  }

  /** False when the peer has overdrawn. */
  spend(cost: number, clock: Clock): boolean {
    this.#left -= cost;
    if (this.#left >= 0) return true;
    const nowMs = clock.monotonicMs();
    this.#left = Math.min(this.#max, this.#left + (nowMs - this.#atMs) * this.#perMs);
    this.#atMs = nowMs;
    return this.#left >= 0;
  }

  earn(tokens: number): void {
    const left = this.#left + tokens;
    this.#left = left > this.#max ? this.#max : left;
  }
}
