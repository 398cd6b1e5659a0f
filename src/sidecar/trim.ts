import { repeat, type Clock } from "../base/clock.ts";

/** This process's memory, and whether anything happens in it. */
export interface Memory {
  /** The share of time that the event loop was busy since this was last asked, 0 to 1. */
  busyShare(): number;
  /** Gives back what is not in use: stops everything for some 50 ms. */
  shrink(): void;
}

export interface TrimLimits {
  /** How long it has to be quiet, 0 for never. */
  readonly trimAfterMs: number;
}

/** Less than that is quiet: a ping and a line in the log now and then. */
const quietShare = 0.02;
/** More than that is work, for which V8 compiles code. */
const workShare = 0.2;

/**
 * A sidecar is one of many programs on its machine, and most of them wait. What its start left in V8's heap, 5 of 80 MB, is
 * given back once it is quiet. Only once, and never after it has worked: with the garbage V8 gives up compiled code, and each
 * burst of requests behind a pause would begin as slowly as the first (measured: half as much CPU again for each request).
 */
export function trimAfterStart(clock: Clock, memory: Memory, limits: TrimLimits): () => void {
  if (limits.trimAfterMs === 0) return () => undefined;
  memory.busyShare();
  const cancel = repeat(clock, limits.trimAfterMs, () => {
    const share = memory.busyShare();
    if (share > quietShare && share <= workShare) return;
    cancel();
    if (share <= quietShare) memory.shrink();
  });
  return cancel;
}
