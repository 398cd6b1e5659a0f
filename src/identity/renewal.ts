import type { FailureCode } from "../base/errors.ts";
import { renewAtMs, retryAtMs, retryWindowMs, tickMs, type Life } from "../resilience/renewal.ts";
import type { Issued } from "./issued.ts";

/** When to try next and how: the decisions of the driver in `workload-identity.ts`, as functions of values. */
export interface Plan {
  /** Wall clock, because a certificate's life is. */
  readonly nextAtMs: number;
  /** The first try for this certificate: retry windows are counted from it. */
  readonly firstAtMs: number;
  /** Tries that failed since the last success. */
  readonly failures: number;
  /** For retries also on the monotonic clock, so that a wall clock set back does not put them off. */
  readonly dueMonotonicMs: number;
}

export interface Now {
  readonly wallMs: number;
  readonly monotonicMs: number;
}

interface Waits {
  readonly lockedRetryMs: number;
  readonly recoveryWaitMaxMs: number;
}

const recoveryWaitMinMs = 1_000;
const tickMaxMs = 30_000;

/** A person has to act before these change: they are asked again slowly, and loudly logged. */
const needsPerson: ReadonlySet<FailureCode> = new Set([
  "LEAF_UNKNOWN",
  "INSTANCE_LOCKED",
  "CLONE_DETECTED",
  "RECOVERY_REFUSED",
  "RECOVERY_DISABLED",
  "TOKEN_NEEDED",
  "TOKEN_ALREADY_USED",
  "TOKEN_EXPIRED",
  "TOKEN_REVOKED",
  "TOKEN_UNKNOWN",
  "ROOT_NOT_PINNED",
]);

export function isForPerson(code: FailureCode): boolean {
  return needsPerson.has(code);
}

export function isInDate(issued: Issued, wallMs: number): boolean {
  const leaf = issued.chain[0];
  return leaf !== undefined && wallMs >= leaf.notBeforeMs && wallMs < issued.notAfterMs;
}

/** The plan for a certificate that was found on disk. `draw` belongs to the certificate. */
export function planRenewal(life: Life, draw: number): Plan {
  return planAt(renewAtMs(life, draw));
}

/**
 * The plan for one that was just issued: at the drawn moment, but never at once. Where this clock runs far ahead of the control
 * plane's, each new certificate looks old already, and a fleet of such machines would ask without a pause.
 */
export function planAfterIssue(life: Life, draw: number, wallMs: number): Plan {
  return planAt(Math.max(renewAtMs(life, draw), wallMs + retryWindowMs(life)));
}

function planAt(firstAtMs: number): Plan {
  return { nextAtMs: firstAtMs, firstAtMs, failures: 0, dueMonotonicMs: Infinity };
}

/** The plan where nothing is held: at once. */
export function planRecovery(now: Now): Plan {
  return { nextAtMs: now.wallMs, firstAtMs: now.wallMs, failures: 0, dueMonotonicMs: now.monotonicMs };
}

/** The plan after a try that failed with `code`. */
export function planRetry(
  plan: Plan,
  failed: { readonly code: FailureCode; readonly life: Life | undefined; readonly now: Now; readonly draw: number },
  waits: Waits,
): Plan {
  const waitMs = waitAfter(plan, failed, waits);
  return {
    nextAtMs: failed.now.wallMs + waitMs,
    firstAtMs: plan.firstAtMs,
    failures: plan.failures + 1,
    dueMonotonicMs: failed.now.monotonicMs + waitMs,
  };
}

function waitAfter(plan: Plan, failed: Parameters<typeof planRetry>[1], waits: Waits): number {
  const { code, life, now, draw } = failed;
  if (isForPerson(code)) return waits.lockedRetryMs * (0.75 + 0.5 * draw);
  if (life !== undefined && now.wallMs < life.notAfterMs) {
    return Math.max(0, retryAtMs(life, { firstAtMs: plan.firstAtMs, nowMs: now.wallMs, draw }) - now.wallMs);
  }
  // Without a certificate every second counts at first; half of the span is jitter, so that a fleet does not march in step.
  const spanMs = Math.min(waits.recoveryWaitMaxMs, recoveryWaitMinMs * 2 ** Math.min(20, plan.failures));
  return spanMs * (0.5 + 0.5 * draw);
}

export function isDue(plan: Plan, now: Now): boolean {
  return now.wallMs >= plan.nextAtMs || now.monotonicMs >= plan.dueMonotonicMs;
}

/**
 * When to look again: at the next try or the certificate's end, but in any case after a coarse tick, because the wall clock
 * may have jumped meanwhile (sleep, an operator) and timers do not notice.
 */
export function lookAgainMs(plan: Plan, issued: Issued | undefined, now: Now): number {
  const coarseMs = issued === undefined ? tickMaxMs : Math.min(tickMaxMs, tickMs(issued));
  const untilTryMs = Math.min(plan.nextAtMs - now.wallMs, plan.dueMonotonicMs - now.monotonicMs);
  const untilEndMs = issued === undefined ? Infinity : issued.notAfterMs - now.wallMs;
  const waits = [coarseMs, ...[untilTryMs, untilEndMs].filter((ms) => ms > 0)];
  return Math.max(1, Math.min(...waits));
}
