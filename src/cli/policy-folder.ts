import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { HauberkError } from "../base/errors.ts";
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

/** @throws HauberkError POLICY_INVALID with every problem, POLICY_SET_EMPTY for a folder that holds none. */
export function readPolicyFolder(input: Input, named: string | undefined = input.words[0]): PolicyFolder {
  const home = findHome(input.cwd, input.flag("home") ?? input.environment["HAUBERK_HOME"]);
  const folder = named === undefined ? home?.policies : resolve(input.cwd, named);
  if (folder === undefined || !existsSync(folder) || !statSync(folder).isDirectory()) {
    throw new HauberkError("USAGE", `Cannot read policies: ${folder === undefined ? "no folder is named, and there is no mesh home here" : `${folder} is no folder`}`, "Name the folder that holds them");
  }
  // A folder of policies outside of a mesh home can be tested too: the trust domain then is the demo's.
  const trustDomain = home === undefined ? "mesh.local" : readConfig(home.configFile).trustDomain;
  const files = yamlBelow(folder, "cases").map((path): PolicyFile => ({ path: shown(input, path), text: readFileSync(path, "utf8") }));
  const set = readPolicySet(files, { trustDomain, readFile: (path) => readFileSync(resolve(input.cwd, path), "utf8") });
  if (set.is === "refused") throw invalid(set.problems);
  if (set.resources.length === 0) {
    throw new HauberkError("POLICY_SET_EMPTY", `Cannot use ${folder}: it holds no policy, and applying it would remove all`, "Name the folder that holds the .yaml files");
  }
  return { folder, trustDomain, resources: set.resources, warnings: set.warnings };
}

/** As a person would name it from here. */
export function shown(input: Input, path: string): string {
  const short = relative(input.cwd, path);
  return short.startsWith("..") ? path : short;
}

export function yamlBelow(folder: string, except?: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) return entry.name === except ? [] : yamlBelow(path, except);
      return /\.ya?ml$/.test(entry.name) ? [path] : [];
    })
    .sort();
}

export function invalid(problems: readonly Problem[]): HauberkError {
  const [first, ...more] = problems;
  const line = (problem: Problem): string => `${problem.file}:${problem.line}:${problem.column}: ${problem.message}`;
  const all = more.length === 0 ? "" : `\n${more.map(line).join("\n")}`;
  return new HauberkError("POLICY_INVALID", `Cannot use the policies, nothing of them was applied: ${first === undefined ? "" : line(first)}${all}`, first?.hint ?? "Mend the line");
}
