import { spawn } from "node:child_process";
import { PassThrough, type Duplex } from "node:stream";
import { fileURLToPath } from "node:url";
import type { Spawned } from "../sidecar/worker-process.ts";
import type { Environment } from "./system.ts";

/** Where a worker finds its end of the socket pair. */
export const channelDescriptor = 3;

/** As TypeScript or as built: whichever this is. */
const entry = fileURLToPath(new URL(`./worker${import.meta.url.endsWith(".ts") ? ".ts" : ".js"}`, import.meta.url));

/**
 * Starts a worker process. Nothing that it needs stands in its arguments or its environment, where others of this user could
 * read it, and none of Hauberk's own variables is handed on: an enrollment token may be among them.
 */
export function spawnWorker(environment: Environment): Spawned {
  const env = Object.fromEntries(Object.entries(environment).filter(([name]) => !name.startsWith("HAUBERK_")));
  // A debugger's port is the sidecar's own.
  const flags = process.execArgv.filter((flag) => !flag.startsWith("--inspect"));
  const child = spawn(process.execPath, [...flags, entry], { stdio: ["ignore", 2, 2, "pipe"], env });
  // Without a descriptor left for it there is no pair; its end is told by `error` below, and it is tried again.
  const stdio = child.stdio as typeof child.stdio | undefined;
  const exited = new Promise<string>((resolve) => {
    child.once("error", (thrown) => resolve(thrown.message));
    child.once("exit", (code, signal) => resolve(signal ?? `code ${code}`));
  });
  return {
    pid: child.pid ?? 0,
    stream: (stdio?.[channelDescriptor] as Duplex | null | undefined) ?? new PassThrough().destroy(),
    exited,
    kill: () => void child.kill("SIGKILL"),
  };
}
