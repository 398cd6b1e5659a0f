import { execFileSync } from "node:child_process";
import { cpSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** This repository. */
export const repository = fileURLToPath(new URL("../../", import.meta.url));

/**
 * Builds the package from a copy of what it is built from, in `folder`, so that a test needs no build to be there and disturbs
 * none. Whatever lies in `folder` already is left in it. Gives the package's folder.
 */
export function buildCopy(folder: string): string {
  const files = [
    "package.json",
    "tsconfig.json",
    "tsconfig.build.json",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "SECURITY.md",
  ];
  for (const name of [...files, "src", "tools", join("ca", "profiles")]) {
    cpSync(join(repository, name), join(folder, name), { recursive: true });
  }
  symlinkSync(join(repository, "node_modules"), join(folder, "node_modules"));
  execFileSync(process.execPath, [join(folder, "tools", "build.ts")], { cwd: folder, stdio: "pipe" });
  return join(folder, "dist", "package");
}
