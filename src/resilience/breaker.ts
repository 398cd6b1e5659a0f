import type { LossKind } from "./loss.ts";
import type { ResilienceLimits } from "./options.ts";
import { SlidingCounts } from "./sliding-counts.ts";

export type BreakerState = "closed" | "open" | "probing";

export type BreakerLimits = Pick<
  ResilienceLimits,
  | "breakerFailuresMax"
  | "breakerSuccessRatio"
  | "breakerRequestsMin"
  | "breakerWindowMs"
  | "breakerOpenMs"
  | "breakerOpenMaxMs"
>;

/** What `enter` gives where the breaker lets nothing pass. */
export const refusedTicket = -1;

/**
 * One endpoint's breaker, kept by the caller's sidecar: closed requests pass, open they are refused, probing one passes.
 *
 * It is a small mutable class and not the frozen union that a rarer state machine would be, because it is asked and
 * taught once per request: the success path adds to a typed array and allocates nothing. It still has the semantics of
 * pure functions: time is an argument, nothing is scheduled, and equal histories give equal states.
 *
 *     const ticket = breaker.enter(clock.monotonicMs());
 *     if (ticket === refusedTicket) return refuse("BREAKER_OPEN", …);
 *     …
 *     breaker.learn(ticket, !statusFails(status), clock.monotonicMs());
 */
export class Breaker {
  readonly #limits: BreakerLimits;
  /** First is good answers, second failures. */
  readonly #counts: SlidingCounts;
  readonly #onChange: ((state: BreakerState, nowMs: number) => void) | undefined;
  #state: BreakerState = "closed";
  /** Grows with each change of state: an answer to a request of an earlier one is a straggler. */
  #era = 0;
  /** Answers that the endpoint has no place for this caller; with the first of them. */
  #declined: SlidingCounts | undefined = undefined;
  #failures = 0;
  #trips = 0;
  /** While open: until then nothing passes. While probing: from then on the probe counts as lost. */
  #untilMs = 0;

  constructor(limits: BreakerLimits, onChange?: (state: BreakerState, nowMs: number) => void) {
    this.#limits = limits;
    this.#counts = new SlidingCounts(limits.breakerWindowMs);
    this.#onChange = onChange;
  }

  /** As it was left by the last call: an open one whose time is over turns to probing when a request enters. */
  get state(): BreakerState {
    return this.#state;
  }

  /** How often in a row it has opened without a good probe between. */
  get trips(): number {
    return this.#trips;
  }

  /** Whether a request could pass now; changes nothing. */
  admits(nowMs: number): boolean {
    return this.#state === "closed" || nowMs >= this.#untilMs;
  }

  /** Lets a request pass and gives its ticket for `learn` or `release`, or `refusedTicket`. */
  enter(nowMs: number): number {
    if (this.#state === "closed") return this.#era;
    if (nowMs < this.#untilMs) return refusedTicket;
    // Also from probing: a probe that nobody ever answered or gave back must not shut the endpoint out for good.
    this.#untilMs = nowMs + this.#openMs();
    this.#turn("probing", nowMs);
    return this.#era;
  }

  /** Teaches what became of the request with this ticket. Stragglers of an earlier state teach nothing. */
  learn(ticket: number, ok: boolean, nowMs: number): void {
    if (ticket !== this.#era) return;
    if (this.#state === "closed") {
      if (ok) {
        this.#failures = 0;
        this.#counts.addFirst(nowMs);
        return;
      }
      this.#failures++;
      this.#counts.addSecond(nowMs);
      if (this.#failures >= this.#limits.breakerFailuresMax || this.#isPoor(nowMs)) this.#open(nowMs);
      return;
    }
    if (ok) this.#close(nowMs);
    else this.#open(nowMs);
  }

  /**
   * The endpoint has no place for this caller, or for tunnels: closed it stays closed, but others may do better (ejection.ts). A
   * probe is over with it, and the endpoint is there: opened again, it would be shut to all that it has places for; and were
   * the probe's place free again at once, it would draw every request to where none is taken.
   */
  declined(ticket: number, nowMs: number): void {
    if (ticket !== this.#era) return;
    if (this.#state !== "closed") this.#close(nowMs);
    (this.#declined ??= new SlidingCounts(this.#limits.breakerWindowMs)).addSecond(nowMs);
  }

  /** Gives the ticket back untaught (the workload went away): a probe's place is free again at once. */
  release(ticket: number, nowMs: number): void {
    if (ticket === this.#era && this.#state === "probing") this.#untilMs = nowMs;
  }

  /** Good answers in the window. */
  good(nowMs: number): number {
    return this.#counts.first(nowMs);
  }

  /** Failures in the window, and requests for which there was no place. */
  bad(nowMs: number): number {
    return this.#counts.second(nowMs) + (this.#declined?.second(nowMs) ?? 0);
  }

  #isPoor(nowMs: number): boolean {
    const good = this.#counts.first(nowMs);
    const all = good + this.#counts.second(nowMs);
    return all >= this.#limits.breakerRequestsMin && good < all * this.#limits.breakerSuccessRatio;
  }

  #openMs(): number {
    const doubled = this.#limits.breakerOpenMs * 2 ** Math.min(30, Math.max(0, this.#trips - 1));
    return Math.min(this.#limits.breakerOpenMaxMs, doubled);
  }

  #open(nowMs: number): void {
    this.#trips++;
    this.#untilMs = nowMs + this.#openMs();
    this.#turn("open", nowMs);
  }

  #close(nowMs: number): void {
    this.#trips = 0;
    this.#failures = 0;
    this.#counts.clear(); // The window that opened it would open it again at the next failure.
    this.#turn("closed", nowMs);
  }

  #turn(state: BreakerState, nowMs: number): void {
    this.#state = state;
    this.#era++;
    this.#onChange?.(state, nowMs);
  }
}

/** Whether an answer's status counts against the endpoint: what gateways say of what is behind them. */
export function statusFails(status: number): boolean {
  return status === 502 || status === 503 || status === 504;
}

/** The same of a gRPC status: DEADLINE_EXCEEDED (4) and UNAVAILABLE (14), which gateways map to 504 and 503. */
export function grpcStatusFails(status: string | undefined): boolean {
  return status === "14" || status === "4";
}

/**
 * Whether a loss counts against the endpoint; one that the workload wanted does not.
 * An endpoint that says goodbye properly (GOAWAY while draining) is the caller's to leave out: it is `unprocessed` too.
 */
export function lossFails(kind: LossKind): boolean {
  return kind !== "cancelled";
}
