import { HauberkError, messageOf } from "../base/errors.ts";
import type { Logger } from "../telemetry/logger.ts";

/** Why the control plane does not serve this sidecar now. */
export interface Trouble {
  readonly code: string;
  readonly because: string;
  readonly hint: string;
}

const tellEveryMs = 60_000;
const meanwhile = "traffic goes on with the last good snapshot";

/**
 * What is said of the time without a control plane: when it begins, at once when there is another reason, then once a minute, and
 * when it is over. Tries come every few seconds, and an outage may take a weekend.
 */
export class Outage {
  readonly #log: Logger;
  #begun: { readonly atMs: number; toldAtMs: number; readonly codes: Set<string> } | undefined;
  #trouble: Trouble | undefined;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Why the last try failed; undefined while all is well. */
  get trouble(): Trouble | undefined {
    return this.#trouble;
  }

  failed(trouble: Trouble, nowMs: number, next: { readonly waitMs: number; readonly attempt: number }): void {
    this.#trouble = trouble;
    const first = this.#begun === undefined;
    const outage = (this.#begun ??= { atMs: nowMs, toldAtMs: nowMs, codes: new Set() });
    const { code, because, hint } = trouble;
    const lastsMs = Math.round(nowMs - outage.atMs);
    const fields = { code, because, hint, ...next, ...(first ? {} : { lastsMs }) };
    if (outage.codes.has(code) && nowMs - outage.toldAtMs < tellEveryMs) {
      this.#log.debug("the control plane was tried again", fields);
      return;
    }
    outage.codes.add(code);
    outage.toldAtMs = nowMs;
    this.#log.warn(`${whatOf(code)}; ${meanwhile}`, fields);
  }

  /** As loud as its beginning was: who reads that has to hear of its end. */
  over(nowMs: number): void {
    this.#trouble = undefined;
    if (this.#begun === undefined) return;
    this.#log.warn("the control plane serves this sidecar again", { lastedMs: Math.round(nowMs - this.#begun.atMs) });
    this.#begun = undefined;
  }
}

function whatOf(code: string): string {
  if (code === "CONTROL_UNREACHABLE") return "the control plane is out of reach";
  if (code === "CONTROL_NOT_PROVEN") return "what answers in the control plane's place is not trusted";
  return "the control plane answers, and does not serve this sidecar";
}

/** From what an attempt threw, or the words that a stream ended with. */
export function troubleOf(thrown: unknown): Trouble {
  if (thrown instanceof HauberkError) return judged(thrown.code, thrown.message, thrown.hint);
  const because = typeof thrown === "string" ? thrown : messageOf(thrown);
  return judged("CONTROL_UNREACHABLE", because, "Start the control plane, or check the network between");
}

/** With the next step of this side: the control plane does not know how a sidecar is started. */
export function judged(code: string, because: string, hint: string): Trouble {
  return { code, because, hint: Object.hasOwn(steps, code) ? (steps[code] ?? hint) : hint };
}

const steps: Readonly<Record<string, string>> = {
  LEAF_UNKNOWN:
    "Start this sidecar again with a new token (hauberk token create --service NAME, then --token-file PATH); or give it another --instance, or remove its state folder",
  CONTROL_NOT_PROVEN:
    "Check the address and both clocks; where the mesh was made anew, remove this sidecar's state folder, or give it another --instance, and enroll it with a token of the new mesh",
};
