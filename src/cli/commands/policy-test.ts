import type { CaseResult } from "../../policy/cases.ts";
import { runCases } from "../../policy/cases.ts";
import { exits, type Run } from "../command.ts";
import { readCaseFolder, readPolicyFolder } from "../policy-folder.ts";
import { paint, show } from "../terminal.ts";

/** Runs a folder's cases against its own policies, without a control plane; 1 where one fails. */
export const run: Run = async (input) => {
  const folder = readPolicyFolder(input, input.words[0]);
  const cases = readCaseFolder(input, folder.folder);
  const results = runCases(folder.resources, cases, { trustDomain: folder.trustDomain });
  const failed = results.filter((result) => !result.passed);
  for (const warning of folder.warnings)
    input.terminal.err(
      `${paint("yellow", "warning:")} ${warning.file}:${warning.line}:${warning.column}: ${warning.message}`,
    );
  show(
    input.terminal,
    { passed: results.length - failed.length, failed: failed.length, cases: results.map(rowOf) },
    () => [...results.map(linesOf), "", summary(results.length, failed.length)].join("\n"),
  );
  return failed.length === 0 ? exits.done : exits.negative;
};

/** One case as `--json` gives it. */
function rowOf(result: CaseResult): object {
  const { name, file, line, expect, code, by } = result.case;
  return {
    name,
    file,
    line,
    passed: result.passed,
    expected: { verdict: expect, code: code ?? null, by: by ?? null },
    got: { verdict: result.got.verdict, code: result.got.code ?? null, by: result.got.by },
    walk: result.passed ? [] : result.lines,
  };
}

function linesOf(result: CaseResult): string {
  const { case: one, got } = result;
  if (result.passed) return `ok      ${one.name}`;
  const wanted = phrase({ verdict: one.expect, code: one.code, by: one.by });
  return [
    `FAILED  ${one.name} (${one.file}:${one.line})`,
    `        expected ${wanted}`,
    `        got      ${phrase(got)}`,
    ...result.lines.map((line) => `        | ${line}`),
  ].join("\n");
}

function phrase(of: { verdict: string; code: string | undefined; by: string | undefined }): string {
  return `${of.verdict}${of.code === undefined ? "" : ` with ${of.code}`}${of.by === undefined ? "" : `, by ${of.by}`}`;
}

function summary(count: number, failed: number): string {
  const cases = `${count} case${count === 1 ? "" : "s"}`;
  return failed === 0 ? `${cases}, all as expected` : `${cases}, ${failed} not as expected`;
}
