import type { Clock } from "../base/clock.ts";
import type { Refusal } from "../base/errors.ts";
import type { Logger } from "../telemetry/logger.ts";

/** One line per service and code in this time: programs connect again and again. */
const quietMs = 10_000;
const keptMax = 1_000;

/** A client of TCP sees a reset and nothing else: why is said here, in the log of its own sidecar. */
export class TcpRefusals {
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #saidAtMs = new Map<string, number>();

  constructor(use: { clock: Clock; log: Logger }) {
    this.#clock = use.clock;
    this.#log = use.log;
  }

  tell({ code, message, hint }: Refusal, service: string): void {
    const key = `${code} ${service}`;
    const nowMs = this.#clock.monotonicMs();
    const saidAtMs = this.#saidAtMs.get(key);
    if (saidAtMs !== undefined && nowMs - saidAtMs < quietMs) return;
    if (this.#saidAtMs.size >= keptMax) this.#saidAtMs.clear();
    this.#saidAtMs.set(key, nowMs);
    this.#log.warn("a TCP connection was reset", { callee: service, code, because: message, hint });
  }
}
