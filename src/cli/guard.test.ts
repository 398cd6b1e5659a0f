import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import { eventually } from "../../test/support/mesh.ts";

const guard = fileURLToPath(new URL("guard.ts", import.meta.url));

/** A process that guards a program, as `hauberk run` does; gives its own and the program's process ids. */
async function guarded(program: string, then = ""): Promise<{ owner: ReturnType<typeof spawn>; pid: number }> {
  const script = `
    import { spawn } from "node:child_process";
    import { startGuard } from ${JSON.stringify(guard)};
    const guard = startGuard(process.env, { graceMs: 1_000 });
    const program = spawn("/bin/sh", ["-c", ${JSON.stringify(program)}], { stdio: ["ignore", "pipe", "ignore"] });
    guard.watch(program.pid);
    program.stdout.once("data", () => { ${then}; process.stdout.write(String(program.pid)); });
    setInterval(() => {}, 1_000);`;
  const owner = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
    detached: true, // The leader of a group, as a shell makes it of each command.
  });
  const [said] = (await once(owner.stdout, "data")) as [Buffer];
  const pid = Number(said.toString());
  onTestFinished(() => {
    owner.kill("SIGKILL");
    if (lives(pid)) process.kill(pid, "SIGKILL");
  });
  return { owner, pid };
}

function lives(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

test.each([
  ["that ends when it is asked", "echo up; exec sleep 300"],
  ["that does not", "trap '' TERM; echo up; while :; do sleep 1; done"],
])("a program %s is ended when its owner is killed with -9", async (_, program) => {
  const { owner, pid } = await guarded(program);
  expect(lives(pid)).toBe(true);
  owner.kill("SIGKILL");
  await eventually("the program has ended", 30_000, () => (lives(pid) ? undefined : true));
});

test("Ctrl-C in the owner's terminal does not end the guard", async () => {
  const { owner, pid } = await guarded("trap '' INT; echo up; exec sleep 300", 'process.on("SIGINT", () => {})');
  process.kill(-(owner.pid as number), "SIGINT");
  owner.kill("SIGKILL");
  await eventually("the program has ended", 30_000, () => (lives(pid) ? undefined : true));
});

test("a guard that was dismissed leaves the program alone", async () => {
  const { owner, pid } = await guarded("echo up; exec sleep 300", "guard.dismiss()");
  owner.kill("SIGKILL");
  await once(owner, "exit");
  // Another owner's program ends by its guard meanwhile: this one's would have too.
  const other = await guarded("echo up; exec sleep 300");
  other.owner.kill("SIGKILL");
  await eventually("the other program has ended", 30_000, () => (lives(other.pid) ? undefined : true));
  expect(lives(pid)).toBe(true);
});
