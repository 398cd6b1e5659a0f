import { existsSync, mkdirSync, rmdirSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { HauberkError, messageOf } from "../base/errors.ts";

/**
 * Makes a folder, and those above it that are missing; gives the ones that it made, outermost first.
 *
 * Folder by folder, because Node's recursive mkdir never comes back from a file system that answers ENOENT (/proc, /sys):
 * it climbs to the root and begins anew, for ever.
 * @throws HauberkError USAGE with the reason, and then nothing that it made is left.
 */
export function makeFolder(path: string, wish: { readonly mode?: number; readonly what?: string } = {}): string[] {
  const missing: string[] = [];
  for (let at = path; !existsSync(at) && at !== dirname(at); at = dirname(at)) missing.unshift(at);
  const made: string[] = [];
  try {
    for (const at of missing) {
      if (makeOne(at, wish.mode)) made.push(at);
    }
    if (!statSync(path).isDirectory()) throw new Error("it is a file");
    return made;
  } catch (thrown) {
    removeEmpty(made);
    throw new HauberkError(
      "USAGE",
      `Cannot ${wish.what ?? "make the folder"} ${path}: ${whyNot(thrown)}`,
      "Name a place where this user may make folders (--home, --state, XDG_STATE_HOME), or run this as the user whom it belongs to",
      thrown,
    );
  }
}

/** Removes folders that `makeFolder` made, innermost first, up to one in which something lies. */
export function removeEmpty(made: readonly string[]): void {
  try {
    for (const path of made.toReversed()) rmdirSync(path);
  } catch {
    // Somebody uses it.
  }
}

/** False where another process was quicker. */
function makeOne(path: string, mode: number | undefined): boolean {
  try {
    mkdirSync(path, { mode: mode ?? 0o777 });
    return true;
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "EEXIST" && existsSync(path)) return false;
    throw thrown;
  }
}

const reasons: Readonly<Record<string, string>> = {
  EACCES: "this user may not",
  EPERM: "this user may not",
  EROFS: "that file system is read-only",
  ENOENT: "that file system takes no new folders",
  ENOTDIR: "a part of it is a file",
  EEXIST: "a part of it is a link that leads nowhere",
  ENOSPC: "the disk is full",
  ENAMETOOLONG: "the name is too long",
};

function whyNot(thrown: unknown): string {
  return reasons[(thrown as NodeJS.ErrnoException).code ?? ""] ?? messageOf(thrown);
}
