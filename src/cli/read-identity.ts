import { existsSync } from "node:fs";
import { join } from "node:path";
import { HauberkError, isRefusal } from "../base/errors.ts";
import { peekIdentity, type PeekedIdentity } from "../identity/peek-identity.ts";

/** The identity in a sidecar's state folder, for the commands that show it or copy it. */
export function readIdentity(folder: string): PeekedIdentity {
  if (!existsSync(join(folder, "identity.json"))) {
    throw new HauberkError(
      "USAGE",
      `Cannot read an identity in ${folder}: ${existsSync(folder) ? "no sidecar has enrolled with it" : "there is no such folder"}`,
      "Name the state folder of an enrolled sidecar, such as certs/orders/1",
    );
  }
  const identity = peekIdentity(folder);
  if (isRefusal(identity)) throw HauberkError.from(identity);
  return identity;
}
