import { faultFields } from "../telemetry/faults.ts";
import type { Log } from "../telemetry/log.ts";
import { exits } from "./command.ts";

/** Says why this process ends, and does what cannot wait, at once: nothing that takes its time happens any more. */
export type LastWords = (thrown: unknown, origin: NodeJS.UncaughtExceptionOrigin) => void;

let ending: LastWords | undefined;

/**
 * What nobody caught ends the process with code 70, after `lastWords`; those of the last call count, undefined takes them back.
 * A rejection that nobody handles is the same: Node throws it. After either nobody knows what was left half done, so going
 * on would be a guess (docs/decisions/0023); whoever started the process starts it anew.
 */
export function endOnCrash(lastWords: LastWords | undefined): void {
  if (ending !== undefined) process.off("uncaughtException", ending);
  ending = undefined;
  if (lastWords === undefined) return;
  ending = (thrown, origin) => {
    try {
      lastWords(thrown, origin);
    } finally {
      process.exit(exits.bug);
    }
  };
  process.on("uncaughtException", ending);
}

/** The last line of a log. */
export function lastLine(log: Log): LastWords {
  return (thrown, origin) => {
    log.logger.error("a bug that nobody caught ends this process", { ...faultFields(thrown), origin });
    log.flush();
  };
}
