import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Whether a program is on this machine: tests against it are skipped, with this as their reason, where it is not. */
export function hasProgram(name: string, argument: string): boolean {
  return spawnSync(name, [argument], { stdio: "ignore" }).error === undefined;
}

/** Runs a program in a folder of its own that holds `files`; the answer is what it printed, and whether it was content. */
export function runWith(
  program: string,
  args: readonly string[],
  files: Readonly<Record<string, string | Uint8Array>>,
): { readonly ok: boolean; readonly output: string } {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-x509-"));
  try {
    for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content, { mode: 0o600 });
    const { status, stdout, stderr } = spawnSync(program, args, { cwd: folder, encoding: "utf8", timeout: 30_000 });
    return { ok: status === 0, output: `${stdout}${stderr}` };
  } finally {
    rmSync(folder, { recursive: true });
  }
}
