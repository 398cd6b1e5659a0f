import type { Clock } from "../base/clock.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Meters, Side } from "./meters.ts";

/** One line per policy and this long: a policy that matches every call must not fill the disk. */
const quietMs = 1_000;
const policiesMax = 1_000;

/** Says which calls policies in mode AUDIT matched: every one is counted, at most one a second and policy is logged. */
export class Audits {
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #meters: Meters;
  readonly #side: Side;
  readonly #saidAtMs = new Map<string, number>();

  constructor(use: { clock: Clock; log: Logger; meters: Meters; side: Side }) {
    this.#clock = use.clock;
    this.#log = use.log;
    this.#meters = use.meters;
    this.#side = use.side;
  }

  matched(policies: readonly string[], call: { requestId: string; principal: string; service: string }): void {
    const nowMs = this.#clock.monotonicMs();
    for (const policy of policies) {
      this.#meters.audited(this.#side, policy);
      const saidAtMs = this.#saidAtMs.get(policy);
      if (saidAtMs !== undefined && nowMs - saidAtMs < quietMs) continue;
      if (this.#saidAtMs.size >= policiesMax) this.#saidAtMs.clear();
      this.#saidAtMs.set(policy, nowMs);
      this.#log.info("a policy in mode AUDIT matched a call", { policy, side: this.#side, ...call });
    }
  }
}
