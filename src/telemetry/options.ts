import type { OptionTable } from "../base/options.ts";

export const telemetryOptions = {
  logLevel: {
    kind: "text",
    env: "HAUBERK_LOG_LEVEL",
    default: "info",
    form: "debug, info, warn, error or silent",
    why: "Info tells of every change of state and of no single request.",
  },
  accessLog: {
    kind: "switch",
    env: "HAUBERK_ACCESS_LOG",
    default: false,
    why: "One line per request costs more than the request's own decisions; metrics carry the same reasons.",
  },
} as const satisfies OptionTable;
