import type { OptionTable } from "../base/options.ts";
import { limits } from "../contract/limits.ts";

/** How long the registry believes that somebody is where they were. */
export const registryOptions = {
  endpointsMax: {
    env: "HAUBERK_SERVICE_ENDPOINTS_MAX",
    default: 10_000,
    min: 1,
    max: limits.endpointsMax,
    why: "Every caller of a service is told of all its endpoints, and refuses a longer list; who comes after that is not registered.",
  },
  graceMs: {
    env: "HAUBERK_LEASE_GRACE_MS",
    default: 30_000,
    min: 100,
    max: 3_600_000,
    why: "A sidecar whose stream ended is back within seconds; half a minute later it is most likely gone, and callers have judged it long before.",
  },
  reconnectWindowMs: {
    env: "HAUBERK_LEASE_RECONNECT_WINDOW_MS",
    default: 60_000,
    min: 100,
    max: 3_600_000,
    why: "After a start, or when many streams end at once, the fault is here or in between: everybody gets this long to come back.",
  },
  massLossRatio: {
    env: "HAUBERK_LEASE_MASS_LOSS_RATIO",
    default: 0.15,
    min: 0,
    max: 1,
    why: "When more of the streams than this end within one grace period, machines do not die by chance: the network is cut.",
  },
  massLossMin: {
    env: "HAUBERK_LEASE_MASS_LOSS_MIN",
    default: 2,
    min: 1,
    max: 1_000,
    why: "One stream is more than 15 % of a small mesh, and still only one machine that died; two within half a minute are a pattern.",
  },
  sweepEveryMs: {
    env: "HAUBERK_LEASE_SWEEP_EVERY_MS",
    default: 1_000,
    min: 10,
    max: 60_000,
    why: "Leases that ended are looked for this often; it costs nothing while every stream stands.",
  },
} as const satisfies OptionTable;
