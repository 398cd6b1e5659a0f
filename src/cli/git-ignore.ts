import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** What of a mesh home never belongs into git: keys, certificates with keys, tokens. */
const secrets = ["/ca/*", "!/ca/profiles/", "/certs/", "*.token", "*.pem", "*.p12", "*.password"];

/** A mesh home may be the root of a repository that has a `.gitignore` of its own: what it lacks is put behind it. */
export function ignoreSecrets(folder: string): void {
  const file = join(folder, ".gitignore");
  const before = readIfThere(file);
  const known = new Set(before.split(/\r?\n/).map((line) => line.trim()));
  // All of them or none: the order matters to the line that lets profiles in.
  if (secrets.every((line) => known.has(line))) return;
  writeFileSync(file, `${before}${before === "" || before.endsWith("\n") ? "" : "\n"}${secrets.join("\n")}\n`);
}

function readIfThere(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (thrown) {
    if ((thrown as { code?: string }).code === "ENOENT") return "";
    throw thrown;
  }
}
