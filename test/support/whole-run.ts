import { chmodSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Before and after all test files of a run: what they left behind, folders or processes, fails it. */

/** What was told to end is let end. */
const patienceMs = 5_000;

let folder = "";
let usual: string | undefined;

/** Everything temporary of this run lies in one folder, so that nothing of another run or program is taken for ours. */
export function setup(): void {
  usual = process.env["TMPDIR"];
  // Compiled code outlives the run: with it, a sidecar starts from source in a quarter of the time.
  process.env["NODE_COMPILE_CACHE"] ??= join(tmpdir(), "node-compile-cache");
  folder = mkdtempSync(join(tmpdir(), "hauberk-run-"));
  chmodSync(folder, 0o711); // A database that runs as a user of its own has its folder in here.
  process.env["TMPDIR"] = folder;
}

export async function teardown(): Promise<void> {
  const untilMs = performance.now() + patienceMs;
  let running = processesOf(folder);
  while (running.length > 0 && performance.now() < untilMs) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    running = processesOf(folder);
  }
  const lying = readdirSync(folder);
  rmSync(folder, { recursive: true, force: true });
  if (usual === undefined) delete process.env["TMPDIR"];
  else process.env["TMPDIR"] = usual;
  const left = [...running.map((process) => `process ${process}`), ...lying.map((name) => `folder or file ${name}`)];
  if (left.length > 0)
    throw new Error(
      `Tests left behind what they made: ${left.join("; ")}. ` +
        "Whoever makes it ends or removes it: in afterAll, onTestFinished or finally",
    );
}

/** `PID: its command` of each process that has to do with `folder`, but for the workers that run tests. Empty where there is no /proc. */
export function processesOf(folder: string): string[] {
  const found: string[] = [];
  for (const pid of pids()) {
    if (pid === process.pid) continue;
    try {
      const at = (name: string): string => readFileSync(`/proc/${pid}/${name}`, "latin1");
      if (Number(/^PPid:\s+(\d+)/m.exec(at("status"))?.[1]) === process.pid) continue;
      const command = at("cmdline");
      // One that has ended and is not yet asked for says nothing here.
      if (command === "") continue;
      const saidOf = [command, at("environ"), readlinkSync(`/proc/${pid}/cwd`)];
      if (saidOf.some((text) => text.includes(folder))) found.push(`${pid}: ${command.replaceAll("\0", " ").trim()}`);
    } catch {
      // It has ended meanwhile, or is somebody else's.
    }
  }
  return found;
}

function pids(): number[] {
  try {
    return readdirSync("/proc").map(Number).filter(Number.isInteger);
  } catch {
    return [];
  }
}
