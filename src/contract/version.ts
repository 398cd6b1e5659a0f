import type { Version } from "./watch.ts";

/**
 * How `a` stands to `b`. Versions of different epochs have no order: the store was restored in between,
 * and the one that the control plane sends now counts, whatever its number.
 */
export function compareVersions(a: Version, b: Version): "before" | "same" | "after" | "unrelated" {
  if (a.epoch !== b.epoch) return "unrelated";
  if (a.counter === b.counter) return "same";
  return a.counter < b.counter ? "before" : "after";
}

/** `3f9c0d7e:42`, for logs and tables. */
export function versionText(version: Version): string {
  return `${version.epoch.slice(0, 8)}:${version.counter}`;
}
