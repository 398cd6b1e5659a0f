import { repeat, type Clock } from "../base/clock.ts";

/** This process's memory, and whether anything happens in it. */
export interface Memory {
  residentBytes(): number;
  /** The share of time that the event loop was busy since this was last asked, 0 to 1. */
  busyShare(): number;
  /** Gives back what is not in use: stops everything for some 50 ms. */
  shrink(): void;
}

export interface TrimLimits {
  /** How often is looked, 0 for never. */
  readonly trimEveryMs: number;
}

/** Less than that is quiet: a ping and a line in the log now and then. */
const quietShare = 0.02;
/** What a start, or a burst of requests, leaves behind is more than this. */
const growthBytesMin = 4 * 1024 * 1024;

/**
 * A sidecar is one of many programs on its machine, and most of them wait. What its start and each burst of work leave in V8's heap
 * is given back once it has been quiet for a while: 5 of 80 MB after a start, more after load. Under load nothing happens.
 */
export function trimWhenQuiet(clock: Clock, memory: Memory, limits: TrimLimits): () => void {
  if (limits.trimEveryMs === 0) return () => undefined;
  let leftBytes = 0;
  memory.busyShare();
  return repeat(clock, limits.trimEveryMs, () => {
    if (memory.busyShare() > quietShare || memory.residentBytes() < leftBytes + growthBytesMin) return;
    memory.shrink();
    leftBytes = memory.residentBytes();
  });
}
