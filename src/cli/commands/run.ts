import { childEnvironment, startChild, type Child } from "../child.ts";
import { exits, usageError, type Input, type Run } from "../command.ts";
import { endOnCrash, lastLine } from "../crash.ts";
import { startGuard } from "../guard.ts";
import { readSidecarInput } from "../sidecar-input.ts";
import { exitBy, onEnd } from "../signals.ts";
import { readyLine, startSidecar, type StartedSidecar } from "../start-sidecar.ts";
import { systemClock, systemRandom } from "../system.ts";
import { duration, readDuration, showRefusal } from "../terminal.ts";

/** The sidecar first, then the program; ended in the opposite order; the program's exit code is this command's. */
export const run: Run = async (input) => {
  if (input.program.length === 0)
    throw usageError("no program stands after --", "Write hauberk run --service web -- curl http://orders/orders/1");
  const graceMs = readDuration(input.flag("grace") ?? "10s");
  if (graceMs === undefined)
    throw usageError(`--grace ${input.flag("grace")} is no duration such as 10s`, "See hauberk run --help");
  const wanted = readSidecarInput(input, "warn");
  let ask: (signal: NodeJS.Signals) => void = () => undefined;
  const asked = new Promise<NodeJS.Signals>((resolve) => {
    ask = resolve;
  });
  let ready = false;
  const giveUp = new AbortController();
  let child: Child | undefined;
  // On a terminal, the program gets Ctrl-C itself: in a shell it ends what the shell runs, not the shell and its sidecar.
  const ownsKeys = process.stdin.isTTY && wanted.ports.length === 0;
  const forget = onEnd({
    ask: (signal) => {
      // The sidecar may wait for its control plane for hours; the next start goes on from what is on the disk.
      if (!ready) {
        giveUp.abort();
        exitBy(signal);
      }
      if (signal === "SIGINT" && ownsKeys) return false;
      ask(signal);
      return true;
    },
    abandon: () => child?.end("SIGKILL", 0),
  });
  const secret = systemRandom.bytes(24).toString("base64url");
  const started = await startSidecar(input, wanted, { secret, givenUp: giveUp.signal });
  ready = true;
  const guard = startGuard(input.environment, { graceMs });
  try {
    // Standard output belongs to the program.
    if (input.terminal.json) input.terminal.err(readyLine(started.sidecar));
    const environment = childEnvironment(input.environment, { port: started.sidecar.outboundPort, secret });
    const program = await startChild(input.program, environment, systemClock);
    child = program;
    guard.watch(program.pid);
    endOnCrash((thrown, origin) => {
      lastLine(started.log)(thrown, origin);
      // Without its sidecar it would serve nobody, and keep the port from the next start.
      program.end("SIGTERM", graceMs);
    });
    return await together(input, started, { child, asked, graceMs });
  } finally {
    guard.dismiss();
    await started.sidecar.stop();
    started.log.flush();
    forget();
  }
};

async function together(
  input: Input,
  { sidecar }: StartedSidecar,
  use: { child: Child; asked: Promise<NodeJS.Signals>; graceMs: number },
): Promise<number> {
  const { child, asked, graceMs } = use;
  const first = await Promise.race([
    child.exited.then((code) => ({ is: "exited" as const, code })),
    asked.then((signal) => ({ is: "asked" as const, signal })),
    sidecar.refused.then((refusal) => ({ is: "refused" as const, refusal })),
  ]);
  if (first.is === "exited") return first.code;
  const endChild = (signal: NodeJS.Signals): void =>
    child.end(signal, graceMs, () =>
      input.terminal.err(
        `${input.program[0]} did not end within ${duration(graceMs)} of ${signal} and is killed; --grace allows more`,
      ),
    );
  if (first.is === "asked") {
    // Callers are sent elsewhere before the program that answers them is told to end.
    await sidecar.leave();
    endChild(first.signal);
    return child.exited;
  }
  showRefusal(input.terminal, first.refusal);
  endChild("SIGTERM");
  await child.exited;
  return exits.negative;
}
