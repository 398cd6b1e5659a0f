import { statusFails } from "./breaker.ts";
import type { LossKind } from "./loss.ts";
import type { ResilienceLimits } from "./options.ts";
import { SlidingCounts } from "./sliding-counts.ts";

/** What became of one attempt: a loss, or an answer with a status. */
export interface Attempt {
  readonly method: string;
  /** How the exchange was lost; undefined where an answer's head arrived. */
  readonly loss?: LossKind | undefined;
  /** The status of the answer; undefined where the exchange was lost before one. */
  readonly status?: number | undefined;
  /** Whether an answer's head (an interim one included) has been written to the workload already. */
  readonly headWritten: boolean;
  /** Whether every byte of the request's body is still held. */
  readonly bodyReplayable: boolean;
  /** 1 for the first attempt. */
  readonly attempt: number;
}

/** RFC 9110, 9.2.2: repeating these has the effect of one. */
const idempotent: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]);

function isIdempotent(method: string): boolean {
  return idempotent.has(method);
}

/** Why this attempt may not be repeated, in words for logs and metrics; undefined where it may. */
export function whyNoRetry(attempt: Attempt, limits: Pick<ResilienceLimits, "retriesMax">): string | undefined {
  if (attempt.headWritten) return "the answer has begun";
  if (attempt.loss === undefined && (attempt.status === undefined || !statusFails(attempt.status))) {
    return "it is an answer";
  }
  if (attempt.loss === "cancelled") return "nobody wants it any more";
  // Only what provably was not processed is repeated for every method.
  if (attempt.loss !== "unprocessed" && !isIdempotent(attempt.method)) return "the method is not idempotent";
  if (!attempt.bodyReplayable) return "the body is not held any more";
  if (attempt.attempt > limits.retriesMax) return "it was retried often enough";
  return undefined;
}

/** Whether a request may be sent once more; the budget is asked after this. DESIGN, section 8. */
export function mayRetry(attempt: Attempt, limits: Pick<ResilienceLimits, "retriesMax"> = { retriesMax: 1 }): boolean {
  return whyNoRetry(attempt, limits) === undefined;
}

type BudgetLimits = Pick<ResilienceLimits, "retryBudgetRatio" | "retryReserveMax" | "retryWindowMs">;

/**
 * One service's retry budget: in each sliding window as many retries as the reserve plus a share of the requests.
 * Mutable for the reason of `SlidingCounts`.
 */
export class RetryBudget {
  readonly #limits: BudgetLimits;
  /** First is requests, second retries. */
  readonly #counts: SlidingCounts;

  constructor(limits: BudgetLimits) {
    this.#limits = limits;
    this.#counts = new SlidingCounts(limits.retryWindowMs);
  }

  /** Counts a request's first attempt. */
  deposit(nowMs: number): void {
    this.#counts.addFirst(nowMs);
  }

  /** Takes one retry; false where the budget is spent. */
  withdraw(nowMs: number): boolean {
    if (this.left(nowMs) < 1) return false;
    this.#counts.addSecond(nowMs);
    return true;
  }

  /** Retries that are left now; a fraction counts only when it is whole. */
  left(nowMs: number): number {
    const earned = this.#counts.first(nowMs) * this.#limits.retryBudgetRatio;
    return this.#limits.retryReserveMax + earned - this.#counts.second(nowMs);
  }
}
