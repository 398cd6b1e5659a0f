import type { Clock } from "../base/clock.ts";
import { messageOf } from "../base/errors.ts";
import type { LogFields, Logger } from "./logger.ts";
import { Metrics, type Counter } from "./metrics.ts";
import { Repeats } from "./repeats.ts";

/** What a bug ended, while everything else goes on: a `task` is a timer's, or a turn of something that comes again. */
export type FaultCost = "request" | "connection" | "task";

/** The lines of one place in the code are gathered for so long, and so many places are told apart. */
const everyMs = 60_000;
const placesMax = 64;

/**
 * Hears of what our own callbacks throw: sockets, timers and microtasks call them, so nobody of ours is there to catch it, and
 * uncaught it would end the process. Whoever catches it ends what it belongs to, and says so here: every one is counted,
 * and the log has one line for each place in the code, with its stack. Nothing here throws.
 */
export class Faults {
  readonly request = (thrown: unknown, about?: LogFields): void => this.#tell("request", thrown, about);
  readonly connection = (thrown: unknown): void => this.#tell("connection", thrown);
  readonly task = (thrown: unknown): void => this.#tell("task", thrown);
  readonly #log: Logger;
  readonly #repeats: Repeats;
  readonly #counts: Readonly<Record<FaultCost, Counter>>;

  constructor({ log, clock, metrics = new Metrics() }: { log: Logger; clock: Clock; metrics?: Metrics | undefined }) {
    this.#log = log;
    this.#repeats = new Repeats({ clock, everyMs, keysMax: placesMax });
    const counts = metrics.counter({
      name: "hauberk_faults_total",
      help: "Bugs of Hauberk that were caught, by what each of them ended: a request, a connection, or a task of its own.",
      labels: ["cost"],
    });
    this.#counts = {
      request: counts.with("request"),
      connection: counts.with("connection"),
      task: counts.with("task"),
    };
  }

  /** Writes what is still to be said. */
  stop(): void {
    this.#repeats.stop();
  }

  #tell(cost: FaultCost, thrown: unknown, about: LogFields = {}): void {
    try {
      this.#counts[cost].add();
      this.#repeats.say(`${cost} ${placeOf(thrown)}`, (more) =>
        this.#log.error(`a bug was caught: it ended one ${cost}, and the rest goes on`, {
          ...faultFields(thrown),
          ...about,
          ...(more === 0 ? {} : { more }),
        }),
      );
    } catch {
      // A log that fails must not end what it was to tell of.
    }
  }
}

/** What the log says of something that was thrown and should not have been. */
export function faultFields(thrown: unknown): LogFields {
  const stack = thrown instanceof Error ? thrown.stack : undefined;
  return { code: "BUG", because: messageOf(thrown), ...(stack === undefined ? {} : { stack }) };
}

/** Messages may hold what a peer wrote: two throws are alike where they came from the same line. */
function placeOf(thrown: unknown): string {
  const stack = thrown instanceof Error ? (thrown.stack ?? "") : "";
  return /^\s*at .*$/m.exec(stack)?.[0].trim() ?? messageOf(thrown).slice(0, 80);
}
