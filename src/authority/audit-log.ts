import type { Clock } from "../base/clock.ts";
import type { Refusal } from "../base/errors.ts";
import { TokenBucket } from "../resilience/token-bucket.ts";
import type { Store, StoreTx } from "../storage/store.ts";

/** One decision of the authority. No secret ever: tokens and keys appear by identifier only. */
export interface Decision {
  /** enroll, renew, recover, token-create, … */
  readonly what: string;
  /** The identity or the person that it is about. */
  readonly who: string;
  readonly verdict: "issued" | "repeated" | "done" | "refused";
  /** Why, in words; for refusals the message. */
  readonly reason: string;
  readonly code?: string;
  readonly from?: string;
  readonly serial?: string;
  readonly parent?: string | null;
  readonly instance?: string;
  readonly token?: string;
  readonly notAfter?: string;
}

type Refused = Omit<Decision, "verdict" | "reason" | "code">;

/** The audit log: JSON lines in the store, in the transaction of what they tell of. */
export class AuditLog {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #refusals: TokenBucket;
  #omitted = 0;

  constructor(context: { store: Store; clock: Clock; refusalsPerSecond: number }) {
    this.#store = context.store;
    this.#clock = context.clock;
    const perSecond = context.refusalsPerSecond;
    this.#refusals = new TokenBucket({ perSecond, burstMax: 2 * perSecond }, context.clock.monotonicMs());
  }

  /** A decision that is never left out. */
  async done(tx: StoreTx, decision: Decision): Promise<void> {
    const atMs = this.#clock.wallMs();
    await tx.appendAudit({ atMs, line: JSON.stringify({ at: new Date(atMs).toISOString(), ...decision }) });
  }

  /** A refusal in a transaction of its own, or in `tx`; above the rate it is only counted. Returns the refusal. */
  async refused(refusal: Refusal, about: Refused, tx?: StoreTx): Promise<Refusal> {
    if (!this.#refusals.take(this.#clock.monotonicMs())) {
      this.#omitted++;
      return refusal;
    }
    const omitted = this.#omitted;
    this.#omitted = 0;
    const line = {
      ...about,
      verdict: "refused" as const,
      code: refusal.code,
      reason: refusal.message,
      ...(omitted === 0 ? {} : { refusalsOmitted: omitted }),
    };
    if (tx === undefined) await this.#store.write((own) => this.done(own, line));
    else await this.done(tx, line);
    return refusal;
  }
}
