import type { Clock } from "../base/clock.ts";
import { inTurns, type Members, type TurnTerms } from "../transport/turns.ts";
import type { Snapshot } from "./snapshot.ts";

/** A call that policy allowed and that is not over. */
export interface Standing {
  /** Its answer has begun: it is a stream, or an open tunnel. */
  readonly headWritten: boolean;
  /** Decides once more, by the snapshot of now; ends the call where that says no. Not `last`: keys may still come. */
  judgeAgain(last: boolean): void;
  /** Its place among the others; -1 while it has none. Only `StandingCalls` writes it. */
  standingAt: number;
}

/** A turn takes a millisecond or less then. */
const callsPerTurn = 200;

/**
 * The calls that were let in. A change of configuration cuts nothing unless policy now denies it (DESIGN, promise 9): a
 * queue's connection lasts for weeks, so whoever may not open it any more may not keep it either. Streams and tunnels are
 * judged at once; what only waits for its answer may have acted already, and is left up to `graceMs` to end by itself, as is
 * what nobody can judge for want of a provider's keys.
 */
export class StandingCalls implements Members<Standing> {
  /** In no order. No Set: where entries come and go all the time, that keeps what has left from the collector (see StreamTable). */
  readonly #calls: Standing[] = [];
  readonly #clock: Clock;
  readonly #graceMs: number;
  readonly #turns: TurnTerms;
  #cancel: (() => void) | undefined = undefined;

  /** `onFault` hears of a call that threw as it was judged; the others are judged all the same. */
  constructor(clock: Clock, graceMs: number, onFault: (thrown: unknown) => void) {
    this.#clock = clock;
    this.#graceMs = graceMs;
    this.#turns = { perTurn: callsPerTurn, onFault };
  }

  get size(): number {
    return this.#calls.length;
  }

  add(call: Standing): void {
    if (call.standingAt >= 0) return;
    call.standingAt = this.#calls.length;
    this.#calls.push(call);
  }

  /** The last one takes its place. */
  delete(call: Standing): void {
    const at = call.standingAt;
    if (at < 0) return;
    call.standingAt = -1;
    const last = this.#calls.pop();
    if (last === undefined || last === call) return;
    last.standingAt = at;
    this.#calls[at] = last;
  }

  has(call: Standing): boolean {
    return call.standingAt >= 0;
  }

  [Symbol.iterator](): Iterator<Standing> {
    return this.#calls[Symbol.iterator]();
  }

  follow(next: Snapshot, before: Snapshot): void {
    if (next.own === before.own && sameProviders(next, before)) return;
    inTurns(this, this.#turns, (call) => {
      if (call.headWritten) call.judgeAgain(false);
    });
    this.#cancel ??= this.#clock.after(this.#graceMs, () => {
      this.#cancel = undefined;
      inTurns(this, this.#turns, (call) => call.judgeAgain(true));
    });
  }

  end(): void {
    this.#cancel?.();
  }
}

/** Of those that the own policies name. */
function sameProviders(next: Snapshot, before: Snapshot): boolean {
  return next.own.policies.providers.every((name) => next.providers.get(name) === before.providers.get(name));
}
