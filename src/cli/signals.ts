import { constants } from "node:os";
import type { Clock } from "../base/clock.ts";
import { systemClock } from "./system.ts";

/** What a process does when it is asked to end by SIGINT, SIGTERM or SIGHUP. */
export interface End {
  /** Told of the first signal; false says that it was not meant for this process. */
  readonly ask: (signal: NodeJS.Signals) => boolean;
  /** Told just before a second signal ends the process. */
  readonly abandon?: () => void;
}

/** npm hands on the signal that the terminal sent already: what comes so soon after the first is the same wish. */
const sameWishMs = 500;

/** The first signal asks to end; a second one is not waited for. */
export function onEnd({ ask, abandon }: End, clock: Clock = systemClock): () => void {
  let askedMs: number | undefined;
  const listener = (signal: NodeJS.Signals): void => {
    if (askedMs === undefined) {
      if (ask(signal)) askedMs = clock.monotonicMs();
      return;
    }
    if (clock.monotonicMs() - askedMs < sameWishMs) return;
    abandon?.();
    process.exit(130);
  };
  process.on("SIGINT", listener);
  process.on("SIGTERM", listener);
  process.on("SIGHUP", listener);
  return () => {
    process.off("SIGINT", listener);
    process.off("SIGTERM", listener);
    process.off("SIGHUP", listener);
  };
}

/** Ends a process that has nothing to leave in order, the way the signal itself would have. */
export function exitBy(signal: NodeJS.Signals): never {
  process.exit(128 + constants.signals[signal]);
}
