import { existsSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { HauberkError } from "../base/errors.ts";
import type { Environment } from "./system.ts";

/** A mesh home (DESIGN, section 3): the folder that holds hauberk.yaml. */
export interface Home {
  readonly folder: string;
  readonly configFile: string;
  readonly ca: string;
  readonly policies: string;
  readonly certs: string;
}

export function homeAt(folder: string): Home {
  return {
    folder,
    configFile: join(folder, "hauberk.yaml"),
    ca: join(folder, "ca"),
    policies: join(folder, "policies"),
    certs: join(folder, "certs"),
  };
}

/** The nearest folder with a hauberk.yaml, from `from` upwards; `--home` and HAUBERK_HOME name it outright. */
export function findHome(from: string, named: string | undefined): Home | undefined {
  if (named !== undefined) {
    const home = homeAt(resolve(from, named));
    return existsSync(home.configFile) ? home : undefined;
  }
  for (let folder = resolve(from); ; folder = dirname(folder)) {
    const home = homeAt(folder);
    if (existsSync(home.configFile)) return home;
    if (folder === dirname(folder)) return undefined;
  }
}

export function requireHome(from: string, named: string | undefined): Home {
  const home = findHome(from, named);
  if (home !== undefined) return home;
  throw new HauberkError(
    "HOME_MISSING",
    `Cannot find a mesh home: no hauberk.yaml in ${named === undefined ? `${from} or above` : named}`,
    "Run hauberk init, go to the mesh home, or name it with --home",
  );
}

/** `$XDG_STATE_HOME/hauberk`, where secrets live that must not lie beside what they protect. */
export function stateHome(environment: Environment): string {
  const base = environment["XDG_STATE_HOME"];
  if (base !== undefined && base.startsWith("/")) return join(base, "hauberk");
  const home = environment["HOME"];
  if (home === undefined || !home.startsWith("/")) {
    throw new HauberkError(
      "CONFIG_INVALID",
      "Cannot find a place for state: neither XDG_STATE_HOME nor HOME is set",
      "Set XDG_STATE_HOME to a folder of your own",
    );
  }
  return join(home, ".local", "state", "hauberk");
}

/** A small file's text without its final newline. */
export function readSecretFile(path: string, what: string, stdin: () => string): string {
  try {
    return (path === "-" ? stdin() : readFileSync(path, "utf8")).trim();
  } catch (thrown) {
    const code = (thrown as { code?: string }).code ?? "";
    throw new HauberkError(
      "CONFIG_INVALID",
      `Cannot read ${what} from ${path}: ${code === "ENOENT" ? "there is no such file" : code === "EACCES" ? "this user may not read it" : code}`,
      "Check the path, and that the file belongs to the user who runs this",
      thrown,
    );
  }
}
