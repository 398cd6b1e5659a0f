import { openSync } from "node:fs";
import { pino } from "pino";
import type { Clock } from "../base/clock.ts";
import { LogOutput } from "./log-output.ts";
import { scrub } from "./scrub.ts";
import type { LogFields, Logger } from "./logger.ts";

/** The program's log: JSON lines by pino to an asynchronous destination, with everything secret struck out. */
export type LogLevel = "debug" | "info" | "warn" | "error" | "silent";

export interface Log {
  readonly logger: Logger;
  /** Writes what is still held, synchronously: for the end of the process. */
  flush: () => void;
  /** A line of text as it is, for the access log. */
  raw: (text: string) => void;
}

/** What several processes may write to one pipe at a time without mixing their lines (POSIX, PIPE_BUF of Linux). */
const sharedWriteBytes = 4_096;
const writeBytes = 16_384;

/**
 * Opens the log. `to` is a file descriptor (2 by default) or a path; `fields` stand on every line; `shared` where other
 * processes write to the same place.
 */
export function openLog(use: {
  level: LogLevel;
  clock: Clock;
  to?: number | string;
  fields?: LogFields;
  shared?: boolean;
}): Log {
  const output = new LogOutput({
    fd: typeof use.to === "string" ? openSync(use.to, "a", 0o600) : (use.to ?? 2),
    clock: use.clock,
    writeBytes: use.shared === true ? sharedWriteBytes : writeBytes,
    onLost: (lines) => root.warn({ lines }, "lines of the log were lost: its reader was too slow, or its disk full"),
  });
  const root = pino(
    {
      level: use.level,
      base: { ...use.fields },
      messageKey: "message",
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    output,
  );
  process.once("exit", () => output.flush());
  return {
    logger: wrap(root),
    flush: () => output.flush(),
    raw: (text) => {
      for (const part of use.shared === true ? text.split(/(?<=\n)/) : [text]) output.write(part);
    },
  };
}

function wrap(log: pino.Logger): Logger {
  const at =
    (level: "debug" | "info" | "warn" | "error") =>
    (message: string, fields?: LogFields): void => {
      if (!log.isLevelEnabled(level)) return;
      log[level](fields === undefined ? {} : (scrub(fields) as object), scrub(message) as string);
    };
  return {
    debug: at("debug"),
    info: at("info"),
    warn: at("warn"),
    error: at("error"),
    child: (fields) => wrap(log.child(scrub(fields) as object)),
  };
}
