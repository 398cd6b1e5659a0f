// Loaded into a process that is measured (NODE_OPTIONS=--import=…): on SIGUSR2 it collects its garbage and writes what is
// left into the file that HAUBERK_HELD_FILE names, PID appended.
import { writeFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc");

process.on("SIGUSR2", () => {
  collect();
  collect();
  const { rss, heapTotal, heapUsed } = process.memoryUsage();
  writeFileSync(`${process.env["HAUBERK_HELD_FILE"]}.${process.pid}`, String(rss - (heapTotal - heapUsed)));
});
