import { spawn } from "node:child_process";
import type { Environment } from "./system.ts";

/**
 * Ends the program behind a sidecar when the sidecar's process ends without a chance to do so itself (kill -9, no memory
 * left): a program without its sidecar would hold its port, so that neither could be started anew.
 *
 * A shell of 1 MB waits at the other end of a pipe; the kernel closes our end, whatever ends us. Rejected: PR_SET_PDEATHSIG,
 * for which Node has no call, and `setpriv --pdeathsig`, which not every system has and set-user-id programs lose.
 */
export interface Guard {
  /** From now on the program of this process id is the one. */
  watch(pid: number): void;
  /** The program has ended, or is nobody's business any more. */
  dismiss(): void;
}

/** A group of its own, so that neither Ctrl-C nor the end of the terminal ends it before its time. */
const script = `trap '' INT TERM HUP QUIT
read -r pid || exit 0
read -r over && exit 0
kill -TERM "$pid" 2>/dev/null || exit 0
while [ "$1" -gt 0 ] && kill -0 "$pid" 2>/dev/null; do sleep 1; set -- $(($1 - 1)); done
kill -KILL "$pid" 2>/dev/null`;

/** @param how.graceMs how long the program may take to end before it is killed. */
export function startGuard(environment: Environment, how: { readonly graceMs: number }): Guard {
  const seconds = String(Math.ceil(how.graceMs / 1_000));
  const shell = spawn("/bin/sh", ["-c", script, "hauberk-guard", seconds], {
    stdio: ["pipe", "ignore", "ignore"],
    cwd: "/",
    env: { PATH: environment["PATH"] ?? "/usr/bin:/bin" },
    detached: true,
  });
  // Where there is no shell there is no guard, and everything else works.
  shell.on("error", () => undefined);
  shell.stdin.on("error", () => undefined);
  shell.unref();
  return {
    watch: (pid) => void shell.stdin.write(`${pid}\n`),
    dismiss: () => void shell.stdin.end("over\n"),
  };
}
