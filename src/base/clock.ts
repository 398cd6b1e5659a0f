/**
 * Time as an argument: everything that waits or compares times is given a Clock, so that tests move it by hand.
 * `cli/system.ts` holds the real one, `test/support/manual-clock.ts` the one that tests move.
 */
export interface Clock {
  /** Milliseconds for durations: never jumps, means nothing elsewhere. */
  monotonicMs(): number;
  /** Milliseconds since 1970 for certificates and tokens: an operator may change it under us. */
  wallMs(): number;
  /**
   * Runs `task` once after `delayMs`; returns its cancel. The timer alone never keeps a process alive. What a task throws is
   * heard by whoever made the clock, and never by another task.
   */
  after(delayMs: number, task: () => void): () => void;
}

/** Runs `task` every `everyMs` until cancelled. The next run is planned when the last one is over, also where it threw. */
export function repeat(clock: Clock, everyMs: number, task: () => void): () => void {
  let cancel = clock.after(everyMs, run);
  let ended = false;
  function run(): void {
    try {
      task();
    } finally {
      if (!ended) cancel = clock.after(everyMs, run);
    }
  }
  return () => {
    ended = true;
    cancel();
  };
}
