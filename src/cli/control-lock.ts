import { join } from "node:path";
import { HauberkError, isRefusal } from "../base/errors.ts";
import { makeFolder } from "../identity/make-folder.ts";
import { takeLock, type StateLock } from "../identity/state-lock.ts";
import type { Home } from "./home.ts";

/** Each control plane tells sidecars what it knows itself: two on one SQLite file would each know a half. */
export function lockControl(home: Home, refused: { readonly what: string; readonly hint: string }): StateLock {
  const folder = join(home.certs, "control");
  makeFolder(folder, { mode: 0o700 });
  const lock = takeLock(folder);
  if (!isRefusal(lock)) return lock;
  throw new HauberkError(
    "STATE_LOCKED",
    `Cannot ${refused.what}: a control plane runs for ${home.folder}`,
    refused.hint,
  );
}
