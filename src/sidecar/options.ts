import type { OptionTable } from "../base/options.ts";

export const sidecarOptions = {
  askMs: {
    env: "HAUBERK_ASK_MS",
    default: 3_000,
    min: 50,
    max: 60_000,
    why: "A first call waits this long for the control plane's answer about a service; a healthy one answers in milliseconds.",
  },
  freshMs: {
    env: "HAUBERK_FRESH_MS",
    default: 300,
    min: 0,
    max: 60_000,
    why: "A start with a snapshot on disk waits this long for a newer state; a healthy control plane sends it in a tenth of that, one that refuses is not waited for.",
  },
  subscriptionsMax: {
    env: "HAUBERK_SUBSCRIPTIONS_MAX",
    default: 512,
    min: 1,
    max: 10_000,
    why: "A workload that invents names must not grow the sidecar's memory or the control plane's work.",
  },
  unknownMs: {
    env: "HAUBERK_UNKNOWN_MS",
    default: 10_000,
    min: 100,
    max: 600_000,
    why: "How long an unknown service stays subscribed, so that a policy that allows it takes effect at once; then it is forgotten.",
  },
  reconnectMinMs: {
    env: "HAUBERK_RECONNECT_MIN_MS",
    default: 200,
    min: 10,
    max: 60_000,
    why: "The first wait after a lost watch, doubled each time with full jitter: a fleet must not come back in step.",
  },
  reconnectMaxMs: {
    env: "HAUBERK_RECONNECT_MAX_MS",
    default: 5_000,
    min: 100,
    max: 600_000,
    why: "The longest wait between two attempts to reach the control plane; recovery should be seen within seconds.",
  },
  silenceMs: {
    env: "HAUBERK_SILENCE_MS",
    default: 30_000,
    min: 1_000,
    max: 600_000,
    why: "A watch on which nothing came for this long, pings included, is dead although TCP has not noticed.",
  },
  snapshotWriteMs: {
    env: "HAUBERK_SNAPSHOT_WRITE_MS",
    default: 500,
    min: 0,
    max: 60_000,
    why: "Changes that come in a burst are written to disk once.",
  },
  drainMs: {
    env: "HAUBERK_DRAIN_MS",
    default: 10_000,
    min: 0,
    max: 600_000,
    why: "How long requests under way may take to end when the sidecar stops.",
  },
} as const satisfies OptionTable;
