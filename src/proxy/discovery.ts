import type { Clock } from "../base/clock.ts";
import { HauberkError, messageOf, refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { ServiceView } from "../contract/watch.ts";
import type { proxyOptions } from "./options.ts";
import { serviceOfView, type Service, type Snapshot } from "./snapshot.ts";

/** Asks the control plane about `orders.default`: null is the answer for unknown, whether it does not exist or may not be seen. */
export type Ask = (service: string) => Promise<ServiceView | null>;

export type Found = (answer: Service | null | Refusal) => void;

/**
 * A service's first use asks one question, however many requests wait for its answer; unknown names are remembered for a
 * short while, and only so many of them.
 */
export class Discovery {
  readonly #clock: Clock;
  readonly #options: OptionValues<typeof proxyOptions>;
  readonly #ask: Ask;
  readonly #snapshot: () => Snapshot;
  readonly #onFault: (thrown: unknown) => void;
  readonly #questions = new Map<string, Found[]>();
  /** Name to the moment at which it may be asked for again; the oldest first. */
  readonly #unknown = new Map<string, number>();
  #waiting = 0;

  constructor(use: {
    clock: Clock;
    options: OptionValues<typeof proxyOptions>;
    ask: Ask;
    snapshot: () => Snapshot;
    /** Whoever waited threw as it was told: for the log. */
    onFault: (thrown: unknown) => void;
  }) {
    this.#clock = use.clock;
    this.#options = use.options;
    this.#ask = use.ask;
    this.#snapshot = use.snapshot;
    this.#onFault = use.onFault;
  }

  /** What is known now: undefined where it has to be asked for. */
  known(key: string, snapshot: Snapshot): Service | null | undefined {
    const service = snapshot.services.get(key);
    if (service !== undefined) return service;
    const untilMs = this.#unknown.get(key);
    if (untilMs === undefined) return undefined;
    if (untilMs > this.#clock.monotonicMs()) return null;
    this.#unknown.delete(key);
    return undefined;
  }

  /** Calls `found` once, later. */
  find(key: string, found: Found): void {
    if (this.#waiting >= this.#options.waitingMax) {
      found(
        refuse(
          "LIMIT_REQUESTS",
          `Cannot wait for "${key}": ${this.#waiting} requests wait for the control plane already`,
          "Try again later, or raise waitingMax",
        ),
      );
      return;
    }
    this.#waiting++;
    const waiting = this.#questions.get(key);
    if (waiting !== undefined) {
      waiting.push(found);
      return;
    }
    this.#questions.set(key, [found]);
    this.#put(key);
  }

  #put(key: string): void {
    let over = false;
    const answer = (value: Service | null | Refusal): void => {
      if (over) return;
      over = true;
      cancel();
      this.#answer(key, value);
    };
    const cancel = this.#clock.after(this.#options.discoveryMs, () =>
      answer(unreachable(key, "it did not answer in time")),
    );
    // What the control plane publishes with its answer is newer than the answer.
    this.#ask(key)
      .then(
        (view) => answer(this.#snapshot().services.get(key) ?? (view === null ? null : serviceOfView(key, view))),
        (thrown: unknown) =>
          answer(thrown instanceof HauberkError ? refusalOf(thrown) : unreachable(key, messageOf(thrown))),
      )
      .catch((thrown: unknown) => answer(unreachable(key, messageOf(thrown))));
  }

  #answer(key: string, answer: Service | null | Refusal): void {
    const waiting = this.#questions.get(key) ?? [];
    this.#questions.delete(key);
    this.#waiting -= waiting.length;
    if (answer === null) this.#remember(key);
    for (const found of waiting) {
      try {
        found(answer);
      } catch (thrown) {
        this.#onFault(thrown); // The others have waited for it as well.
      }
    }
  }

  #remember(key: string): void {
    this.#unknown.delete(key);
    if (this.#unknown.size >= this.#options.unknownServicesMax) {
      const oldest = this.#unknown.keys().next();
      if (oldest.done !== true) this.#unknown.delete(oldest.value);
    }
    this.#unknown.set(key, this.#clock.monotonicMs() + this.#options.unknownServiceMs);
  }

  get remembered(): number {
    return this.#unknown.size;
  }
}

function unreachable(key: string, because: string): Refusal {
  return refuse(
    "CONTROL_UNREACHABLE",
    `Cannot find out about "${key}": the control plane cannot be asked now (${because})`,
    "Start the control plane, or wait for it; services that are known go on working",
  );
}

function refusalOf(thrown: HauberkError): Refusal {
  return refuse(thrown.code, thrown.message, thrown.hint);
}
