import { randomBytes } from "node:crypto";
import type { Clock } from "../base/clock.ts";
import type { Random } from "../base/random.ts";

/** The one place where the real clock, the real randomness and the environment are read. */
export const systemClock: Clock = {
  monotonicMs: () => performance.now(),
  wallMs: () => Date.now(),
  after(delayMs, task) {
    // Node runs a longer delay at once; whoever waits longer is woken early and looks again.
    const timer = setTimeout(task, Math.min(delayMs, 2 ** 31 - 1));
    timer.unref();
    return () => clearTimeout(timer);
  },
};

export const systemRandom: Random = {
  draw: () => Math.random(),
  bytes: (length) => randomBytes(length),
};

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
    process.getBuiltinModule("node:v8").setFlagsFromString("--expose-gc");
    const collect = process.getBuiltinModule("node:vm").runInNewContext("gc") as (how: object) => void;
    collect({ type: "major", execution: "sync", flavor: "last-resort" });
  },
};

export type Environment = Readonly<Record<string, string | undefined>>;

export function systemEnvironment(): Environment {
  return process.env;
}
