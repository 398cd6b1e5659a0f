import type { OptionTable, OptionValues } from "../base/options.ts";

export const resilienceOptions = {
  breakerFailuresMax: {
    env: "HAUBERK_BREAKER_FAILURES_MAX",
    default: 5,
    min: 1,
    max: 1_000,
    why: "So many failures in a row are no accident; fewer would open on a single lost connection with several requests on it.",
  },
  breakerSuccessRatio: {
    env: "HAUBERK_BREAKER_SUCCESS_RATIO",
    default: 0.8,
    min: 0,
    max: 1,
    why: "An endpoint that answers less than this share of its requests costs more retries than the budget has.",
  },
  breakerRequestsMin: {
    env: "HAUBERK_BREAKER_REQUESTS_MIN",
    default: 20,
    min: 1,
    max: 100_000,
    why: "A share of fewer requests than this is chance.",
  },
  breakerWindowMs: {
    env: "HAUBERK_BREAKER_WINDOW_MS",
    default: 10_000,
    min: 100,
    max: 600_000,
    why: "What lies longer back says little about now.",
  },
  breakerOpenMs: {
    env: "HAUBERK_BREAKER_OPEN_MS",
    default: 5_000,
    min: 10,
    max: 600_000,
    why: "Long enough for a process to be started again, short enough that nobody waits for it in vain.",
  },
  breakerOpenMaxMs: {
    env: "HAUBERK_BREAKER_OPEN_MAX_MS",
    default: 60_000,
    min: 10,
    max: 3_600_000,
    why: "Doubling ends here, so that an endpoint that came back is found within a minute.",
  },
  ejectionGapRatio: {
    env: "HAUBERK_EJECTION_GAP_RATIO",
    default: 0.2,
    min: 0.01,
    max: 1,
    why: "So much worse than the others an endpoint must be to be left out; smaller gaps are noise.",
  },
  ejectionRequestsMin: {
    env: "HAUBERK_EJECTION_REQUESTS_MIN",
    default: 20,
    min: 1,
    max: 100_000,
    why: "An endpoint with fewer answers in the window is not judged.",
  },
  ejectionMs: {
    env: "HAUBERK_EJECTION_MS",
    default: 30_000,
    min: 100,
    max: 600_000,
    why: "How long a first ejection lasts; each later one lasts one such span longer, up to ten.",
  },
  retriesMax: {
    env: "HAUBERK_RETRIES_MAX",
    default: 1,
    min: 0,
    max: 10,
    why: "One retry hides a lost endpoint; more of them multiply an outage.",
  },
  retryBudgetRatio: {
    env: "HAUBERK_RETRY_BUDGET_RATIO",
    default: 0.2,
    min: 0,
    max: 1,
    why: "Retries add at most this share to the load of a service that is already in trouble.",
  },
  retryReserveMax: {
    env: "HAUBERK_RETRY_RESERVE_MAX",
    default: 100,
    min: 0,
    max: 100_000,
    why: "Retries per window that are free, so that a caller with little traffic can retry at all.",
  },
  retryWindowMs: {
    env: "HAUBERK_RETRY_WINDOW_MS",
    default: 10_000,
    min: 100,
    max: 600_000,
    why: "The budget looks back this far.",
  },
  backoffMs: {
    env: "HAUBERK_BACKOFF_MS",
    default: 25,
    min: 1,
    max: 60_000,
    why: "The first retry waits up to this long: spread enough, and no user notices it.",
  },
} as const satisfies OptionTable;

export type ResilienceLimits = OptionValues<typeof resilienceOptions>;
