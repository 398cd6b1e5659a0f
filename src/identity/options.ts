import type { OptionTable } from "../base/options.ts";

export const identityOptions = {
  controlConnectMs: {
    env: "HAUBERK_CONTROL_CONNECT_MS",
    default: 3_000,
    min: 50,
    max: 60_000,
    why: "TCP and TLS to a control plane that lives take two round trips; the next address is tried after this.",
  },
  controlAnswerMs: {
    env: "HAUBERK_CONTROL_ANSWER_MS",
    default: 10_000,
    min: 50,
    max: 120_000,
    why: "A control plane signs in under a millisecond; a busy one may queue, and asking again would add to its queue.",
  },
  enrollWaitMs: {
    env: "HAUBERK_ENROLL_WAIT_MS",
    default: 60_000,
    min: 0,
    max: 3_600_000,
    why: "After a power cut sidecars start before the control plane does; a token is worth waiting for.",
  },
  lockedRetryMs: {
    env: "HAUBERK_LOCKED_RETRY_MS",
    default: 60_000,
    min: 1_000,
    max: 3_600_000,
    why: "An instance that was locked is unlocked by a person; asking more often only fills the audit log.",
  },
  recoveryWaitMaxMs: {
    env: "HAUBERK_RECOVERY_WAIT_MAX_MS",
    default: 30_000,
    min: 100,
    max: 3_600_000,
    why: "The longest wait between two tries to come back after the certificate ended.",
  },
} as const satisfies OptionTable;
