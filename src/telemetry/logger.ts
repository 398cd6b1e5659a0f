/**
 * What every room logs with. It is an argument, so that a room decides what to say and the program where it goes.
 * Fields are plain data; what could be a secret by its name or its look is struck out before it is written (`log.ts`).
 */
export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** One whose lines all carry these fields as well. */
  child(fields: LogFields): Logger;
}

/** Says nothing: for tests. */
export const silent: Logger = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => silent,
};
