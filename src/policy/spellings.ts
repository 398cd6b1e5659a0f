import type { ServiceName } from "../base/spiffe-id.ts";

/**
 * A service has one host for policy, whichever of its names a caller wrote: a condition on one name holds for all of them,
 * and no spelling is a way around it (docs/decisions/0015).
 */
export function hostOfService({ service, namespace }: ServiceName): string {
  return `${service}.${namespace}.mesh`;
}

/** `orders.default.mesh`, `orders.default` and `orders` for the first of them; any other host is only itself. */
export function spellingsOf(host: string): readonly string[] {
  const [service = "", namespace = "", mesh, ...rest] = host.split(".");
  if (mesh !== "mesh" || rest.length > 0) return [host];
  return [host, `${service}.${namespace}`, service];
}
