/** A rate with bursts: the bucket fills at a steady pace up to its brim, and each event takes from it. */
export class TokenBucket {
  readonly #perMs: number;
  readonly #max: number;
  #tokens: number;
  #atMs: number;

  /** Starts full. `perSecond` tokens come in, `burstMax` is the most it holds. */
  constructor(rate: { perSecond: number; burstMax: number }, nowMs: number) {
    this.#perMs = rate.perSecond / 1_000;
    this.#max = rate.burstMax;
    this.#tokens = rate.burstMax;
    this.#atMs = nowMs;
  }

  /** Takes `cost` tokens (1 by default); false, and nothing is taken, where there are too few. */
  take(nowMs: number, cost = 1): boolean {
    if (nowMs > this.#atMs) {
      this.#tokens = Math.min(this.#max, this.#tokens + (nowMs - this.#atMs) * this.#perMs);
      this.#atMs = nowMs;
    }
    if (this.#tokens < cost) return false;
    this.#tokens -= cost;
    return true;
  }
}
