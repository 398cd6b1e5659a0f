import type { OptionTable } from "../base/options.ts";

const day = 86_400_000;

/** How the store behaves and how much it keeps. */
export const storageOptions = {
  busyTimeoutMs: {
    env: "HAUBERK_STORE_BUSY_TIMEOUT_MS",
    default: 5_000,
    min: 0,
    max: 60_000,
    why: "A command on the same machine may hold the database's write lock for some milliseconds; waiting is better than failing.",
  },
  groupMax: {
    env: "HAUBERK_STORE_GROUP_MAX",
    default: 64,
    min: 1,
    max: 1_024,
    why: "Transactions that wait together share one flush to the disk; more of them at once would only delay the first.",
  },
  queueMax: {
    env: "HAUBERK_STORE_QUEUE_MAX",
    default: 10_000,
    min: 1,
    max: 1_000_000,
    why: "A disk that stands still must lead to refusals, not to a full memory.",
  },
  leafRetentionMs: {
    env: "HAUBERK_STORE_LEAF_RETENTION_MS",
    default: 7 * day,
    min: 0,
    max: 3_650 * day,
    why: "Ended leaves are kept for the inventory for a while, then forgotten; the audit log remembers longer.",
  },
  tokenRetentionMs: {
    env: "HAUBERK_STORE_TOKEN_RETENTION_MS",
    default: 30 * day,
    min: 0,
    max: 3_650 * day,
    why: "An expired token says why it is refused for a while; after that it is unknown.",
  },
  instanceRetentionMs: {
    env: "HAUBERK_STORE_INSTANCE_RETENTION_MS",
    default: 90 * day,
    min: 0,
    max: 3_650 * day,
    why: "An instance whose last leaf ended can recover this long; then it needs a token.",
  },
  auditRetentionMs: {
    env: "HAUBERK_STORE_AUDIT_RETENTION_MS",
    default: 400 * day,
    min: day,
    max: 3_650 * day,
    why: "A year and a month of decisions answers most questions of an auditor.",
  },
  auditMax: {
    env: "HAUBERK_STORE_AUDIT_MAX",
    default: 2_000_000,
    min: 1_000,
    max: 1_000_000_000,
    why: "The audit log has a size that a disk can be planned for: about 400 bytes a line.",
  },
  pruneMax: {
    env: "HAUBERK_STORE_PRUNE_MAX",
    default: 1_000,
    min: 1,
    max: 100_000,
    why: "Deleting in small portions keeps every transaction short.",
  },
} as const satisfies OptionTable;
