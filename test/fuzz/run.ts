import * as fc from "fast-check";
import type { Target } from "./target.ts";

export interface Plan {
  /** Over all targets, by their shares. */
  readonly cases: number;
  readonly seed: number;
  readonly targets: readonly Target[];
  /** One case alone: what fast-check calls its path. */
  readonly path?: string | undefined;
  progress(done: number, findings: number): void;
  found?(finding: Finding): void;
}

export interface Finding {
  readonly target: string;
  readonly seed: number;
  readonly path: string;
  /** The smallest input that was found, and what differs. */
  readonly report: string;
}

const batchMax = 5_000;

interface Work {
  readonly target: Target;
  left: number;
  batch: number;
}

/** Runs every target's part in turns; a target that has found something rests, the others go on. */
export async function runFuzz(plan: Plan): Promise<{ cases: number; findings: readonly Finding[] }> {
  const shares = plan.targets.reduce((sum, { share }) => sum + share, 0);
  let work: Work[] = plan.targets.map((target) => ({
    target,
    left: plan.path === undefined ? Math.max(1, Math.round((plan.cases * target.share) / shares)) : 1,
    batch: 0,
  }));
  const findings: Finding[] = [];
  let done = 0;
  while (work.length > 0) {
    for (const one of work) {
      const share = Math.ceil((batchMax * one.target.share) / Math.max(...plan.targets.map(({ share }) => share)));
      const numRuns = Math.min(one.left, Math.max(1, share));
      const seed = plan.path === undefined ? (plan.seed + one.batch++ * 7919) | 0 : plan.seed;
      const details = await one.target.check({
        seed,
        numRuns,
        ...(plan.path === undefined ? {} : { path: plan.path }),
      });
      done += details.numRuns;
      one.left -= numRuns;
      if (details.failed) {
        one.left = 0;
        const finding = {
          target: one.target.name,
          seed,
          path: details.counterexamplePath ?? "0",
          report: reportOf(details),
        };
        findings.push(finding);
        plan.found?.(finding);
      }
      plan.progress(done, findings.length);
      // What targets left to the event loop (planned writes) happens now and is forgotten.
      await new Promise((resolve) => setImmediate(resolve));
    }
    work = work.filter(({ left }) => left > 0);
  }
  return { cases: done, findings };
}

function reportOf(details: fc.RunDetails<unknown>): string {
  const error = details.errorInstance;
  const said = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return `${textOf(details.counterexample)}\n${said.split("\n").slice(0, 12).join("\n")}`;
}

function textOf(value: unknown): string {
  return JSON.stringify(
    value,
    (_, part: unknown) => {
      const bytes = part as { type?: unknown; data?: unknown } | null;
      return typeof bytes === "object" && bytes !== null && bytes.type === "Buffer" && Array.isArray(bytes.data)
        ? Buffer.from(bytes.data as number[]).toString("latin1")
        : part;
    },
    2,
  );
}
