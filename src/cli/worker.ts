import { fstatSync } from "node:fs";
import { Socket } from "node:net";
import { messageOf } from "../base/errors.ts";
import { serveWorker } from "../sidecar/worker.ts";
import { openLog } from "../telemetry/log.ts";
import { endOnCrash, lastLine } from "./crash.ts";
import { channelDescriptor } from "./spawn-worker.ts";
import { scavengeAlone, systemClock, systemClockFor, systemRandom } from "./system.ts";

/** What a worker process starts with: no command of its own, because only a sidecar can tell it what to be. */
if (isChannel()) {
  // A terminal's Ctrl-C and a service manager's signal reach the whole group: the sidecar says when its workers end.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => undefined);
  scavengeAlone();
  endOnCrash((thrown) => process.stderr.write(`error: Cannot go on: ${messageOf(thrown)} (BUG)\n`));
  serveWorker({
    stream: new Socket({ fd: channelDescriptor, readable: true, writable: true }),
    clockFor: systemClockFor,
    random: systemRandom,
    openLog: (level, fields) => {
      const log = openLog({ level, fields, clock: systemClock, shared: true });
      endOnCrash(lastLine(log));
      return log;
    },
    end: (code) => process.exit(code),
  });
} else {
  process.stderr.write(
    "error: Cannot start a worker: no sidecar has started it (USAGE)\nhint: hauberk run --workers N starts N of them\n",
  );
  process.exitCode = 2;
}

function isChannel(): boolean {
  try {
    return fstatSync(channelDescriptor).isSocket();
  } catch {
    return false;
  }
}
