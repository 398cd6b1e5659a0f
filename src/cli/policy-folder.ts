import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { HauberkError, messageOf } from "../base/errors.ts";
import type { PolicyCase } from "../policy/cases.ts";
import { readCases } from "../policy/read-cases.ts";
import { readPolicySet, type PolicyFile, type Problem } from "../policy/read-yaml.ts";
import type { Resource } from "../policy/resource.ts";
import type { Input } from "./command.ts";
import { readConfig } from "./config.ts";
import { findHome } from "./home.ts";

/** A folder of policies as one set: every YAML file in it and below, but for `cases`. */
export interface PolicyFolder {
  readonly folder: string;
  readonly trustDomain: string;
  readonly resources: readonly Resource[];
  readonly warnings: readonly Problem[];
}

/**
 * Reads the folder that was named, else the mesh home's `policies`. One that holds no policy is a set too: it allows nothing.
 * @throws HauberkError POLICY_INVALID with every problem, USAGE without a folder.
 */
export function readPolicyFolder(input: Input, named: string | undefined): PolicyFolder {
  const home = findHome(input.cwd, input.flag("home") ?? input.environment["HAUBERK_HOME"]);
  const folder = named === undefined ? home?.policies : resolve(input.cwd, named);
  if (folder === undefined || !existsSync(folder) || !statSync(folder).isDirectory()) {
    throw new HauberkError(
      "USAGE",
      `Cannot read policies: ${folder === undefined ? "no folder is named, and there is no mesh home here" : existsSync(folder) ? `${folder} is a file, and a folder was wanted` : `there is no folder ${folder}`}`,
      "Name the folder that holds them; a set is applied whole, never one file of it",
    );
  }
  // A folder of policies outside of a mesh home can be tested too: the trust domain then is the demo's.
  const trustDomain = home === undefined ? "mesh.local" : readConfig(home.configFile).trustDomain;
  const files = yamlBelow(folder, "cases").map((path): PolicyFile => ({
    path: shown(input, path),
    text: textOf(input, path),
  }));
  const set = readPolicySet(files, { trustDomain, readFile: (path) => readFileSync(resolve(input.cwd, path), "utf8") });
  if (set.is === "refused") throw invalid(set.problems);
  return { folder, trustDomain, resources: set.resources, warnings: set.warnings };
}

/**
 * The cases of a set: every YAML file in a folder called `cases`, however deep.
 * @throws HauberkError POLICY_INVALID with every problem, USAGE where there is no case: a test of nothing must not pass.
 */
export function readCaseFolder(input: Input, folder: string): readonly PolicyCase[] {
  const policies = new Set(yamlBelow(folder, "cases"));
  const paths = yamlBelow(folder).filter((path) => !policies.has(path));
  const set = readCases(paths.map((path) => ({ path: shown(input, path), text: textOf(input, path) })));
  if (set.is === "refused") throw invalid(set.problems);
  if (set.cases.length === 0) {
    const place = shown(input, join(folder, "cases"));
    throw new HauberkError(
      "USAGE",
      `Cannot test the policies: ${existsSync(join(folder, "cases")) ? `${place} holds no case` : `there is no folder ${place}, and none deeper holds a case`}`,
      "Write one into a .yaml file there: apiVersion: hauberk.dev/v1, kind: PolicyCases, cases: [{ name: web reads, call: { from: web, to: orders, method: GET, path: /orders/1 }, expect: allow }]",
    );
  }
  return set.cases;
}

/** As a person would name it from here. */
function shown(input: Input, path: string): string {
  const short = relative(input.cwd, path);
  return short.startsWith("..") ? path : short;
}

function textOf(input: Input, path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException;
    // Whoever may not read it is told so like everywhere else.
    if (code === "EACCES" || code === "EPERM") throw thrown;
    throw new HauberkError(
      "POLICY_INVALID",
      `Cannot read ${shown(input, path)}: ${messageOf(thrown)}`,
      "Mend the file, or take it out of the folder: a set is used whole or not at all",
      thrown,
    );
  }
}

function yamlBelow(folder: string, except?: string): string[] {
  return readdirSync(folder)
    .flatMap((name) => {
      const path = join(folder, name);
      // Links are followed: a team's folder that is one must not be left out.
      if (statSync(path, { throwIfNoEntry: false })?.isDirectory() === true)
        return name === except ? [] : yamlBelow(path, except);
      // Emacs marks a file that is being edited with a link of this name, which leads nowhere.
      return /\.ya?ml$/.test(name) && !name.startsWith(".#") ? [path] : [];
    })
    .sort();
}

function invalid(problems: readonly Problem[]): HauberkError {
  const line = (problem: Problem): string => `${problem.file}:${problem.line}:${problem.column}: ${problem.message}`;
  const [first, ...more] = problems;
  if (more.length === 0 && first !== undefined) {
    return new HauberkError("POLICY_INVALID", `Cannot use the policies: ${line(first)}`, first.hint);
  }
  const all = problems.map((problem) => `\n  ${line(problem)}\n    hint: ${problem.hint}`).join("");
  return new HauberkError(
    "POLICY_INVALID",
    `Cannot use the policies: there are ${problems.length} problems${all}`,
    "Mend these lines; nothing was changed",
  );
}
