import { spawn, type ChildProcess } from "node:child_process";
import { constants } from "node:os";
import type { Clock } from "../base/clock.ts";
import { HauberkError } from "../base/errors.ts";
import type { Environment } from "./system.ts";

/** The program behind a sidecar: started with the sidecar as its proxy, its exit code passed through. */
export interface Child {
  readonly pid: number;
  /** The program's own code, or 128 + the signal that ended it. */
  readonly exited: Promise<number>;
  /** Asks it to end, and ends it when `graceMs` are over, which `onKill` is told. */
  end(signal: NodeJS.Signals, graceMs: number, onKill?: () => void): void;
}

/**
 * What the program finds in its environment: the sidecar's outbound listener as its proxy for http. The secret stands in the URL,
 * because whoever can connect to that port would otherwise be the workload. The enrollment token is taken out.
 */
export function childEnvironment(
  environment: Environment,
  outbound: { port: number; secret: string },
): Record<string, string> {
  const proxy = `http://hauberk:${outbound.secret}@127.0.0.1:${outbound.port}`;
  const merged: Record<string, string> = {};
  for (const [name, value] of Object.entries(environment)) {
    if (value !== undefined && name !== "HAUBERK_TOKEN") merged[name] = value;
  }
  // curl reads only the lower-case name, others only the upper-case one; Node's fetch and http want the third.
  merged["http_proxy"] = proxy;
  merged["HTTP_PROXY"] = proxy;
  merged["NODE_USE_ENV_PROXY"] = "1";
  // What the user calls directly stays so: of what leaves the mesh the sidecar carries only what --egress lists.
  const own = environment["no_proxy"] ?? environment["NO_PROXY"] ?? "";
  const direct = ["localhost", "127.0.0.1", "::1", ...own.split(",").map((host) => host.trim())];
  merged["no_proxy"] = [...new Set(direct)].filter((host) => host !== "").join(",");
  merged["NO_PROXY"] = merged["no_proxy"];
  return merged;
}

export function startChild(
  [command, ...args]: readonly string[],
  environment: Record<string, string>,
  clock: Clock,
): Promise<Child> {
  return new Promise((resolve, reject) => {
    const child = spawn(command ?? "", args, { stdio: "inherit", env: environment });
    // Not once: a program of another user cannot be told to end, and each attempt says so here.
    child.on("error", (thrown: NodeJS.ErrnoException) => {
      const why =
        thrown.code === "ENOENT"
          ? "there is no such program"
          : thrown.code === "EACCES"
            ? "it may not be executed"
            : thrown.message;
      reject(
        new HauberkError(
          "USAGE",
          `Cannot start ${command}: ${why}`,
          "Check its name and PATH; the program stands after --",
          thrown,
        ),
      );
    });
    const exited = new Promise<number>((done) => {
      child.once("exit", (code, signal) => done(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
    });
    child.once("spawn", () =>
      resolve({
        pid: child.pid ?? 0,
        exited,
        end: (signal, graceMs, onKill) => end(child, { signal, graceMs, onKill, clock }),
      }),
    );
  });
}

interface HowToEnd {
  readonly signal: NodeJS.Signals;
  readonly graceMs: number;
  readonly onKill: (() => void) | undefined;
  readonly clock: Clock;
}

function end(child: ChildProcess, how: HowToEnd): void {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill(how.signal);
  const cancel = how.clock.after(how.graceMs, () => {
    how.onKill?.();
    child.kill("SIGKILL");
  });
  child.once("exit", cancel);
}
