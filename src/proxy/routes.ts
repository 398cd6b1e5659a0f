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

const routesMax = 512;
/** No name of a service is longer, and a longer text is not worth its memory. */
const lengthMax = 255;

/** Authorities that were read already: a workload calls a handful of them all the time. Bounded; the oldest goes. */
export class Routes {
  readonly #context: { namespace: string; trustDomain: string; egress: readonly string[] };
  readonly #known = new Map<string, Route | Refusal>();

  constructor(context: { namespace: string; trustDomain: string; egress: readonly string[] }) {
    this.#context = context;
  }

  read(authority: string): Route | Refusal {
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

  #route(text: string): Route | Refusal {
    const authority = readAuthority(text);
    if (isRefusal(authority)) return authority;
    const routed = routeAuthority(text, this.#context);
    if (isRefusal(routed)) return routed;
    if (routed.is === "egress") {
      return refuse(
        "NOT_IN_MESH",
        `Cannot call "${authority.host}": calls that leave the mesh are not carried by this release`,
        "Call it without the proxy: add it to no_proxy",
      );
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
