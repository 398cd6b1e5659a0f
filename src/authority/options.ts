import type { OptionTable } from "../base/options.ts";

const minute = 60_000;
const hour = 60 * minute;
const day = 24 * hour;

/** What the authority signs, for how long, and how often it forgives. The profiles in ca/profiles bound all of it. */
export const authorityOptions = {
  leafLifetimeMs: {
    env: "HAUBERK_LEAF_LIFETIME_MS",
    default: 24 * hour,
    min: 5_000,
    max: 7 * day,
    why: "A stolen leaf is useless soon, and a control plane may be down for a night; below 5 minutes only with allowSeconds.",
  },
  controlLifetimeMs: {
    env: "HAUBERK_CONTROL_LIFETIME_MS",
    default: 24 * hour,
    min: 5_000,
    max: 7 * day,
    why: "The control plane renews its own certificate by itself, so it needs no longer one than a workload.",
  },
  adminLifetimeMs: {
    env: "HAUBERK_ADMIN_LIFETIME_MS",
    default: 7 * day,
    min: 5_000,
    max: 90 * day,
    why: "An administrator's certificate is renewed when it is used; one that lies unused for a week ends.",
  },
  allowSeconds: {
    kind: "switch",
    env: "HAUBERK_LIFETIMES_ALLOW_SECONDS",
    default: false,
    why: "Lifetimes below 5 minutes turn an ordinary restart of the control plane into an outage: for tests and demonstrations.",
  },
  backdateMs: {
    env: "HAUBERK_BACKDATE_MS",
    default: minute,
    min: 0,
    max: minute,
    why: "Clocks of a mesh differ by seconds; a leaf must be valid at a peer that is behind. Never more than a quarter of its life.",
  },
  tokenLifetimeMs: {
    env: "HAUBERK_TOKEN_LIFETIME_MS",
    default: 10 * minute,
    min: 1_000,
    max: 30 * day,
    why: "A token is used at once by whoever asked for it; one that leaks later should be worth nothing.",
  },
  recovery: {
    kind: "switch",
    env: "HAUBERK_RECOVERY",
    default: true,
    why: "A machine that slept past the end of its leaf comes back without a human; switch off where every return must be seen.",
  },
  recoveriesMax: {
    env: "HAUBERK_RECOVERIES_MAX",
    default: 20,
    min: 1,
    max: 10_000,
    why: "An instance that recovers more often than this in a window has another trouble, or another owner.",
  },
  recoveryWindowMs: {
    env: "HAUBERK_RECOVERY_WINDOW_MS",
    default: 30 * day,
    min: minute,
    max: 365 * day,
    why: "Laptops sleep over week-ends: a month holds a handful of honest recoveries.",
  },
  challengeLifetimeMs: {
    env: "HAUBERK_CHALLENGE_LIFETIME_MS",
    default: minute,
    min: 1_000,
    max: 10 * minute,
    why: "A challenge is answered in one round trip; an old one is a replay.",
  },
  auditRefusalsPerSecond: {
    env: "HAUBERK_AUDIT_REFUSALS_PER_SECOND",
    default: 20,
    min: 1,
    max: 10_000,
    why: "A flood of bad requests must not fill the audit log; what was left out is counted in the next line.",
  },
} as const satisfies OptionTable;
