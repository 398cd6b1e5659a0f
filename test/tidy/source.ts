import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../../", import.meta.url));

/** Every file that git knows or would take, relative to the root. */
export function listed(): string[] {
  const out = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard", "-z"], { cwd: root });
  return out
    .toString("utf8")
    .split("\0")
    .filter((name) => name !== "" && exists(name))
    .sort();
}

function exists(name: string): boolean {
  try {
    readFileSync(join(root, name));
    return true;
  } catch {
    return false; // Deleted in the work tree, still in the index; or a folder that is a link.
  }
}

export function read(name: string): string {
  return readFileSync(join(root, name), "utf8");
}

export function sources(): string[] {
  return listed().filter((name) => name.startsWith("src/") && name.endsWith(".ts"));
}

/** The program without comments and without what strings say, so that words in them are no calls. */
export function codeOf(text: string): string {
  return text
    .replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, " "))
    .replace(/(^|[^:"'`\\])\/\/[^\n]*/g, "$1");
}

export interface Import {
  readonly line: number;
  readonly specifier: string;
  /** Relative to the root, for relative specifiers. */
  readonly file: string | undefined;
}

/** Static, type-only, re-exporting and dynamic imports alike. */
export function importsOf(name: string): Import[] {
  const text = codeOf(read(name));
  const found: Import[] = [];
  for (const match of text.matchAll(/(?:\bfrom\s*|\bimport\s*\(\s*|\bimport\s+)["']([^"'\n]+)["']/g)) {
    const specifier = match[1] as string;
    const line = text.slice(0, match.index).split("\n").length;
    const file = specifier.startsWith(".") ? normalize(join(dirname(name), specifier)) : undefined;
    found.push({ line, specifier, file });
  }
  return found;
}

/** `src/http/http2/frames.ts` is in `http`. */
export function folderOf(name: string): string {
  return name.split("/")[1] ?? "";
}
