import { randomBytes } from "node:crypto";
import { setFlagsFromString } from "node:v8";
import type { Clock } from "../base/clock.ts";
import type { Random } from "../base/random.ts";

/**
 * The one place where the real clock, the real randomness and the environment are read.
 * What a timer's task throws is told to `onFault`, and ends that task alone.
 */
export function systemClockFor(onFault: (thrown: unknown) => void): Clock {
  const run = (task: () => void): void => {
    try {
      task();
    } catch (thrown) {
      onFault(thrown);
    }
  };
  return {
    monotonicMs: () => performance.now(),
    wallMs: () => Date.now(),
    after(delayMs, task) {
      // Node runs a longer delay at once; whoever waits longer is woken early and looks again.
      const timer = setTimeout(run, Math.min(delayMs, 2 ** 31 - 1), task);
      timer.unref();
      return () => clearTimeout(timer);
    },
  };
}

/** For what runs once: a task that throws ends the process. */
export const systemClock: Clock = systemClockFor((thrown) => {
  throw thrown;
});

export const systemRandom: Random = {
  draw: () => Math.random(),
  bytes: (length) => randomBytes(length),
};

/**
 * For processes that carry traffic. V8 collects its young generation with several threads, which pays where much of it
 * lives on; of a proxy's next to nothing does, and to wake the others costs more than their help is worth (measured: 7 % of
 * what a hop costs).
 */
export function scavengeAlone(): void {
  setFlagsFromString("--no-parallel-scavenge");
}

let idle = performance.eventLoopUtilization();

/** For `sidecar/trim.ts`. */
export const systemMemory = {
  busyShare: () => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, idle);
    idle = now;
    return utilization;
  },
  /** V8 gives pages back only to one who says that memory is short, and that can be said through `gc` alone. */
  shrink: () => {
    setFlagsFromString("--expose-gc");
    const collect = process.getBuiltinModule("node:vm").runInNewContext("gc") as (how: object) => void;
    collect({ type: "major", execution: "sync", flavor: "last-resort" });
  },
};

export type Environment = Readonly<Record<string, string | undefined>>;

export function systemEnvironment(): Environment {
  return process.env;
}
