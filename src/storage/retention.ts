import type { OptionValues } from "../base/options.ts";
import type { storageOptions } from "./options.ts";
import type { PruneLimits } from "./store.ts";

/** What `prune` may delete now, by the retention options. */
export function pruneLimits(options: OptionValues<typeof storageOptions>, atMs: number): PruneLimits {
  return {
    leavesBeforeMs: atMs - options.leafRetentionMs,
    tokensBeforeMs: atMs - options.tokenRetentionMs,
    instancesBeforeMs: atMs - options.instanceRetentionMs,
    auditBeforeMs: atMs - options.auditRetentionMs,
    auditMax: options.auditMax,
    rowsMax: options.pruneMax,
  };
}
