import { repeat, type Clock } from "../base/clock.ts";

/** Writes a line; `more` such ones were not written since the last. */
export type Say = (more: number) => void;

/**
 * For lines that a stranger can cause: each key's is written at once, then at most once in a while with how many there were
 * meanwhile. So many keys are told apart; those beyond count together. What is counted is never lost: the last ones are
 * told when their while is over.
 */
export class Repeats {
  readonly #clock: Clock;
  readonly #everyMs: number;
  readonly #keysMax: number;
  readonly #keys = new Map<string, { more: number; say: Say; untilMs: number }>();
  #cancel: (() => void) | undefined;

  constructor(use: { clock: Clock; everyMs: number; keysMax: number }) {
    this.#clock = use.clock;
    this.#everyMs = use.everyMs;
    this.#keysMax = use.keysMax;
  }

  say(key: string, say: Say): void {
    const told = this.#keys.has(key) || this.#keys.size < this.#keysMax ? key : "";
    const known = this.#keys.get(told);
    if (known !== undefined) {
      known.more++;
      known.say = say;
      return;
    }
    this.#keys.set(told, { more: 0, say, untilMs: this.#clock.monotonicMs() + this.#everyMs });
    this.#cancel ??= repeat(this.#clock, this.#everyMs / 2, () => this.#sweep());
    say(0);
  }

  /** Says what is still to be said. */
  stop(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    for (const { more, say } of this.#keys.values()) if (more > 0) say(more);
    this.#keys.clear();
  }

  #sweep(): void {
    const nowMs = this.#clock.monotonicMs();
    for (const [key, known] of this.#keys) {
      if (known.untilMs > nowMs) continue;
      if (known.more === 0) {
        this.#keys.delete(key);
        continue;
      }
      known.say(known.more);
      known.more = 0;
      known.untilMs = nowMs + this.#everyMs;
    }
    if (this.#keys.size > 0) return;
    this.#cancel?.();
    this.#cancel = undefined;
  }
}
