import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { HauberkError } from "../base/errors.ts";
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
 * Reads the folder that was named, else the mesh home's `policies`.
 * @throws HauberkError POLICY_INVALID with every problem, POLICY_SET_EMPTY for a folder that holds none, USAGE without one.
 */
export function readPolicyFolder(input: Input, named: string | undefined): PolicyFolder {
  const home = findHome(input.cwd, input.flag("home") ?? input.environment["HAUBERK_HOME"]);
  const folder = named === undefined ? home?.policies : resolve(input.cwd, named);
  if (folder === undefined || !existsSync(folder) || !statSync(folder).isDirectory()) {
    throw new HauberkError(
      "USAGE",
      `Cannot read policies: ${folder === undefined ? "no folder is named, and there is no mesh home here" : `${folder} is no folder`}`,
      "Name the folder that holds them",
    );
  }
  // A folder of policies outside of a mesh home can be tested too: the trust domain then is the demo's.
  const trustDomain = home === undefined ? "mesh.local" : readConfig(home.configFile).trustDomain;
  const files = yamlBelow(folder, "cases").map((path): PolicyFile => ({
    path: shown(input, path),
    text: readFileSync(path, "utf8"),
  }));
  const set = readPolicySet(files, { trustDomain, readFile: (path) => readFileSync(resolve(input.cwd, path), "utf8") });
  if (set.is === "refused") throw invalid(set.problems);
  if (set.resources.length === 0) {
    throw new HauberkError(
      "POLICY_SET_EMPTY",
      `Cannot use ${folder}: it holds no policy, and applying it would remove all`,
      "Name the folder that holds the .yaml files",
    );
  }
  return { folder, trustDomain, resources: set.resources, warnings: set.warnings };
}

/**
 * The cases of a set: every YAML file in a folder called `cases`, however deep.
 * @throws HauberkError POLICY_INVALID with every problem, USAGE where there is no case: a test of nothing must not pass.
 */
export function readCaseFolder(input: Input, folder: string): readonly PolicyCase[] {
  const policies = new Set(yamlBelow(folder, "cases"));
  const paths = yamlBelow(folder).filter((path) => !policies.has(path));
  const set = readCases(paths.map((path) => ({ path: shown(input, path), text: readFileSync(path, "utf8") })));
  if (set.is === "refused") throw invalid(set.problems);
  if (set.cases.length === 0) {
    throw new HauberkError(
      "USAGE",
      `Cannot test the policies: ${shown(input, join(folder, "cases"))} holds no case`,
      "Write calls with the decision expected of each; policies/README.md of Hauberk shows how",
    );
  }
  return set.cases;
}

/** As a person would name it from here. */
function shown(input: Input, path: string): string {
  const short = relative(input.cwd, path);
  return short.startsWith("..") ? path : short;
}

function yamlBelow(folder: string, except?: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) return entry.name === except ? [] : yamlBelow(path, except);
      return /\.ya?ml$/.test(entry.name) ? [path] : [];
    })
    .sort();
}

function invalid(problems: readonly Problem[]): HauberkError {
  const [first, ...more] = problems;
  const line = (problem: Problem): string => `${problem.file}:${problem.line}:${problem.column}: ${problem.message}`;
  const all = more.length === 0 ? "" : `\n${more.map(line).join("\n")}`;
  return new HauberkError(
    "POLICY_INVALID",
    `Cannot use the policies, and nothing of them was used: ${first === undefined ? "" : line(first)}${all}`,
    first?.hint ?? "Mend the line",
  );
}
