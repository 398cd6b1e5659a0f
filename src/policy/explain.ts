import { serviceKey, type ServiceName } from "../base/spiffe-id.ts";
import type { Call, TraceStep } from "./call.ts";
import type { Resource } from "./resource.ts";
import { judgeCall, type Verdict } from "./verdict.ts";

/** A decision with its reasons: the walk of `decide` itself, listened to. */
export interface Explanation extends Verdict {
  readonly steps: readonly TraceStep[];
  /** For a person to read. */
  readonly lines: readonly string[];
}

export function explain(resources: readonly Resource[], asked: { service: ServiceName; call: Call }): Explanation {
  const steps: TraceStep[] = [];
  const verdict = judgeCall(resources, asked, { step: (step) => void steps.push(step) });
  return { ...verdict, steps, lines: linesOf(asked, steps, verdict) };
}

function linesOf(asked: { service: ServiceName; call: Call }, steps: readonly TraceStep[], verdict: Verdict): string[] {
  const { call } = asked;
  const who = call.principal === undefined ? "nobody" : call.principal.text;
  const lines = [
    `${who} calls ${serviceKey(asked.service)}: ${call.method} ${call.method === "CONNECT" ? `port ${call.port}` : call.path}`,
  ];
  if (steps.length === 0) lines.push("  no policy guards this service");
  for (const step of steps) lines.push(lineOf(step));
  const { decision, code } = verdict;
  lines.push(`${decision.verdict}${code === undefined ? "" : ` with ${code}`}, by ${decision.by}`);
  if (code === "SERVICE_UNKNOWN")
    lines.push("  no ALLOW policy could let this identity in, so for it the service does not exist");
  if (decision.audits.length > 0) lines.push(`  in AUDIT mode, matching: ${decision.audits.join(", ")}`);
  return lines;
}

function lineOf(step: TraceStep): string {
  const audit = step.mode === "AUDIT" ? " (audit)" : "";
  return `  ${step.action.padEnd(5)} ${step.policy}${audit}, rule ${step.rule}: ${step.holds}; ${step.because}`;
}
