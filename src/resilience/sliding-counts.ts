/**
 * Two counts over a sliding window, in ten buckets of a tenth of the window each.
 *
 * A mutable class with two typed arrays and not a frozen value: it is written once or twice per request, and a new value
 * each time would be the largest source of garbage on the data path. Time goes in as an argument, nothing is scheduled.
 */
const bucketCount = 10;

export class SlidingCounts {
  readonly #bucketMs: number;
  readonly #first = new Float64Array(bucketCount);
  readonly #second = new Float64Array(bucketCount);
  #firstTotal = 0;
  #secondTotal = 0;
  /** Number of the newest bucket since the clock's zero. */
  #newest = 0;

  constructor(windowMs: number) {
    this.#bucketMs = windowMs / bucketCount;
  }

  addFirst(nowMs: number): void {
    const index = this.#bucketAt(nowMs);
    this.#first[index] = (this.#first[index] as number) + 1;
    this.#firstTotal++;
  }

  addSecond(nowMs: number): void {
    const index = this.#bucketAt(nowMs);
    this.#second[index] = (this.#second[index] as number) + 1;
    this.#secondTotal++;
  }

  first(nowMs: number): number {
    this.#bucketAt(nowMs);
    return this.#firstTotal;
  }

  second(nowMs: number): number {
    this.#bucketAt(nowMs);
    return this.#secondTotal;
  }

  clear(): void {
    this.#first.fill(0);
    this.#second.fill(0);
    this.#firstTotal = 0;
    this.#secondTotal = 0;
  }

  /** Index of the bucket of now; empties those that have slid out. A clock that stands still or steps back adds to the newest. */
  #bucketAt(nowMs: number): number {
    const number = Math.floor(nowMs / this.#bucketMs);
    if (number > this.#newest) this.#slide(number);
    return this.#newest % bucketCount;
  }

  #slide(number: number): void {
    if (number - this.#newest >= bucketCount) this.clear();
    else {
      for (let passed = this.#newest + 1; passed <= number; passed++) {
        const index = passed % bucketCount;
        this.#firstTotal -= this.#first[index] as number;
        this.#secondTotal -= this.#second[index] as number;
        this.#first[index] = 0;
        this.#second[index] = 0;
      }
    }
    this.#newest = number;
  }
}
