import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";

/** What one run of the suite said. */
export interface Verdict {
  /** Which suite, and what it judged. */
  readonly of: string;
  readonly summary: string;
  readonly output: string;
  readonly fine: boolean;
}

const folder = fileURLToPath(new URL(".", import.meta.url));
/** A suite that is not through by then hangs: it takes a second where all is well, and a minute on a poor machine. */
const endsWithinMs = 300_000;

export function run(program: string, args: readonly string[]): Promise<{ code: number; output: string }> {
  return new Promise((resolve) => {
    const limits = { cwd: folder, maxBuffer: 64 << 20, timeout: endsWithinMs };
    execFile(program, [...args], limits, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
      resolve({ code, output: `${stdout}${stderr}` });
    });
  });
}

/** The suite's own last line, and whether it says that every case passed, none skipped and none missing. */
export function summaryOf(
  done: { readonly code: number; readonly output: string },
  casesWanted: number,
): { summary: string; fine: boolean } {
  const counted = /^(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed$/m.exec(done.output);
  if (counted === null) return { summary: `no summary; it ended with ${done.code}`, fine: false };
  const passed = counted[1] === String(casesWanted) && counted[2] === String(casesWanted);
  return { summary: counted[0], fine: passed && done.code === 0 };
}

export function report({ of, summary, output, fine }: Verdict): void {
  if (!fine) process.stdout.write(`${output}\n`);
  process.stdout.write(`${of}: ${summary}\n`);
}
