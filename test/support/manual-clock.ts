import type { Clock } from "../../src/base/clock.ts";

/** A clock that tests move. `advance` runs what falls due, in order of time, tasks planned meanwhile included. */
export class ManualClock implements Clock {
  #monotonicMs = 0;
  #wallMs: number;
  #tasks: { atMs: number; order: number; task: () => void }[] = [];
  #order = 0;

  constructor(wallMs = Date.UTC(2026, 0, 1)) {
    this.#wallMs = wallMs;
  }

  monotonicMs(): number {
    return this.#monotonicMs;
  }

  wallMs(): number {
    return this.#wallMs;
  }

  after(delayMs: number, task: () => void): () => void {
    const entry = { atMs: this.#monotonicMs + Math.max(0, delayMs), order: this.#order++, task };
    this.#tasks.push(entry);
    return () => {
      this.#tasks = this.#tasks.filter((other) => other !== entry);
    };
  }

  advance(durationMs: number): void {
    const untilMs = this.#monotonicMs + durationMs;
    for (;;) {
      this.#tasks.sort((a, b) => a.atMs - b.atMs || a.order - b.order);
      const next = this.#tasks[0];
      if (next === undefined || next.atMs > untilMs) break;
      this.#tasks.shift();
      this.#moveTo(next.atMs);
      next.task();
    }
    this.#moveTo(untilMs);
  }

  /** An operator sets the wall clock; durations do not notice. */
  setWall(wallMs: number): void {
    this.#wallMs = wallMs;
  }

  get waiting(): number {
    return this.#tasks.length;
  }

  #moveTo(atMs: number): void {
    this.#wallMs += atMs - this.#monotonicMs;
    this.#monotonicMs = atMs;
  }
}

/** For what is not expected to fail: whoever advances the clock hears of it. */
export function rethrow(thrown: unknown): never {
  throw thrown;
}
