import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { serviceKey, type ServiceName } from "../base/spiffe-id.ts";
import { readAuthority } from "../http/authority.ts";
import { hostOfService } from "../policy/spellings.ts";
import { routeAuthority } from "../routing/route-authority.ts";

/** Where an authority leads, in the spelling that is matched and sent on. */
export interface Route {
  /** `orders.default` */
  readonly key: string;
  readonly name: ServiceName;
  /** As it was written: lower case, without port and trailing dot. */
  readonly host: string;
  /** What policy compares: one for all names of the service. */
  readonly policyHost: string;
  /** The port that was named; undefined for the service's own. */
  readonly port: number | undefined;
  /** What goes on as authority. */
  readonly authority: string;
}

/** A host outside of the mesh that may be called. */
export interface Outside {
  readonly is: "outside";
  /** Lower case, without a trailing dot; IPv6 in its brackets. */
  readonly host: string;
  readonly port: number;
  /** What it is sent as: without the port that HTTP has by default. */
  readonly authority: string;
}

const routesMax = 512;
/** No name of a service is longer, and a longer text is not worth its memory. */
const lengthMax = 255;

/** Authorities that were read already: a workload calls a handful of them all the time. Bounded; the oldest goes. */
export class Routes {
  readonly #context: { namespace: string; trustDomain: string; egress: readonly string[] };
  readonly #known = new Map<string, Route | Outside | Refusal>();

  constructor(context: { namespace: string; trustDomain: string; egress: readonly string[] }) {
    this.#context = context;
  }

  /** The service that it means; NOT_IN_MESH for what is outside. */
  read(authority: string): Route | Refusal {
    const found = this.#find(authority);
    return isOutside(found) ? isElsewhere(found) : found;
  }

  /** The host outside that it means, where that may be called; undefined for everything else. */
  outside(authority: string): Outside | undefined {
    // Most sidecars let nothing out, and have not even to look.
    if (this.#context.egress.length === 0) return undefined;
    const found = this.#find(authority);
    return isOutside(found) ? found : undefined;
  }

  #find(authority: string): Route | Outside | Refusal {
    const known = this.#known.get(authority);
    if (known !== undefined) return known;
    const route = this.#route(authority);
    if (authority.length > lengthMax) return route;
    if (this.#known.size >= routesMax) {
      const oldest = this.#known.keys().next();
      if (oldest.done !== true) this.#known.delete(oldest.value);
    }
    this.#known.set(authority, route);
    return route;
  }

  /** The route of a listener that leads to one service, or one port of it, whatever is asked for. */
  static to(name: ServiceName, port?: number): Route {
    const host = hostOfService(name);
    const authority = port === undefined ? host : `${host}:${port}`;
    return Object.freeze({ key: serviceKey(name), name, host, policyHost: host, port, authority });
  }

  #route(text: string): Route | Outside | Refusal {
    const authority = readAuthority(text);
    if (isRefusal(authority)) return authority;
    const routed = routeAuthority(text, this.#context);
    if (isRefusal(routed)) return routed;
    if (routed.is === "egress") {
      const { host, port: at } = routed;
      return Object.freeze({ is: "outside", host, port: at, authority: at === 80 ? host : `${host}:${at}` });
    }
    const { port } = routed;
    return Object.freeze({
      key: serviceKey(routed.service),
      name: routed.service,
      host: authority.host,
      policyHost: hostOfService(routed.service),
      port,
      authority: port === undefined ? authority.host : `${authority.host}:${port}`,
    });
  }
}

function isOutside(found: Route | Outside | Refusal): found is Outside {
  return "is" in found && found.is === "outside";
}

function isElsewhere({ host }: Outside): Refusal {
  return refuse(
    "NOT_IN_MESH",
    `Cannot find "${host}" in the mesh: it is a host outside`,
    "Call it through the sidecar's outbound port, or without the proxy",
  );
}
