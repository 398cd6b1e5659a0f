import { serviceKey, serviceId, type ServiceName, type SpiffeId } from "../base/spiffe-id.ts";
import type { BundleView } from "../contract/watch.ts";
import { compilePolicies } from "../policy/compile.ts";
import { couldAllow, reduceFor } from "../policy/reduce.ts";
import type { Registry } from "../registry/registry.ts";
import { entryText, noPolicies, type PolicyIndex, type Target } from "./policy-index.ts";

/** A piece of state as it goes over the wire, and the providers that come with it. */
export interface Part {
  /** `["service/orders.default",{…}]`: one string for everybody who sees the same. */
  readonly text: string;
  readonly providers: readonly string[];
}

/** What one identity may know of one service's policies. */
interface Reduced {
  /** Undefined: no ALLOW could let it in. */
  readonly policies: string | undefined;
  readonly providers: readonly string[];
}

interface View {
  readonly reduced: Reduced;
  readonly endpoints: string;
  readonly part: Part;
}

/** Of one target: another begins anew, so that nothing is kept for those who do not ask again. */
interface Service {
  readonly target: Target;
  /** By principal. */
  readonly reduced: Map<string, Reduced>;
  /** By machine where the service has loopback addresses, else under "". */
  readonly endpoints: Map<string, string>;
  readonly views: Map<string, View>;
}

/**
 * What sidecars see, computed once per (service, identity), however many streams show it: a thousand copies of `web`
 * cost one reduction and one serialization. Everything here follows from policies, registrations and bundle.
 */
export class Views {
  readonly #trustDomain: string;
  readonly #registry: Registry;
  readonly #services = new Map<string, Service>();
  /** Gone with the set that the target is of. */
  readonly #own = new WeakMap<Target, Part>();
  #policies: PolicyIndex = noPolicies;
  #bundle = "";

  constructor(trustDomain: string, registry: Registry) {
    this.#trustDomain = trustDomain;
    this.#registry = registry;
  }

  get policies(): PolicyIndex {
    return this.#policies;
  }

  setPolicies(policies: PolicyIndex): void {
    this.#policies = policies;
    for (const [service, memo] of this.#services)
      if (memo.target !== policies.targets.get(service)) this.#services.delete(service);
  }

  setBundle(bundle: BundleView): void {
    this.#bundle = entryText("bundle", bundle);
  }

  /** The service's registrations are others now. */
  registrationsChanged(service: string): void {
    const memo = this.#services.get(service);
    memo?.endpoints.clear();
    // Each holds a text with the old endpoints, also for those who will not ask again.
    memo?.views.clear();
  }

  /** Nobody subscribes to the service any more. */
  forget(service: string): void {
    this.#services.delete(service);
  }

  bundle(): string {
    return this.#bundle;
  }

  /** A provider that a policy names and that is not there is null: its rules fail closed. */
  provider(name: string): string {
    return this.#policies.providers.get(name) ?? entryText(`provider/${name}`, null);
  }

  /** All that the service's own sidecars need to decide. */
  own(name: ServiceName): Part {
    const target = this.#policies.targets.get(serviceKey(name));
    if (target === undefined) return ownWithoutPolicies;
    const known = this.#own.get(target);
    if (known !== undefined) return known;
    const part = {
      text: `["own",{"policies":${target.text}}]`,
      providers: compilePolicies(target.policies).providers,
    };
    this.#own.set(target, part);
    return part;
  }

  /** What `principal` on `machine` is told about a service: the same null whether it does not exist or is not for it. */
  service(service: string, principal: SpiffeId, machine: string): Part {
    const target = this.#policies.targets.get(service);
    if (target === undefined) return unknownService(service);
    const memo = this.#memo(service, target);
    const reduced = this.#reduce(memo, principal);
    if (reduced.policies === undefined) return unknownService(service);
    const where = this.#registry.hasLoopback(service) ? machine : "";
    const endpoints = this.#endpoints(memo, service, where);
    const viewKey = `${where} ${principal.text}`;
    const known = memo.views.get(viewKey);
    if (known !== undefined && known.reduced === reduced && known.endpoints === endpoints) return known.part;
    const part = {
      text: `["service/${service}",{"id":"${this.#idOf(service)}","policies":${reduced.policies},"endpoints":${endpoints}}]`,
      providers: reduced.providers,
    };
    memo.views.set(viewKey, { reduced, endpoints, part });
    return part;
  }

  #memo(service: string, target: Target): Service {
    let memo = this.#services.get(service);
    if (memo === undefined) {
      memo = { target, reduced: new Map(), endpoints: new Map(), views: new Map() };
      this.#services.set(service, memo);
    }
    return memo;
  }

  #reduce({ target, reduced: all }: Service, principal: SpiffeId): Reduced {
    const known = all.get(principal.text);
    if (known !== undefined) return known;
    const policies = couldAllow(target.policies, principal) ? reduceFor(target.policies, principal) : undefined;
    const reduced = {
      policies: policies === undefined ? undefined : JSON.stringify(policies),
      providers: policies === undefined ? [] : compilePolicies(policies).providers,
    };
    all.set(principal.text, reduced);
    return reduced;
  }

  #endpoints(memo: Service, service: string, where: string): string {
    let text = memo.endpoints.get(where);
    if (text === undefined) {
      text = JSON.stringify(this.#registry.endpointsFor(service, where));
      memo.endpoints.set(where, text);
    }
    return text;
  }

  /** `service` is SERVICE.NAMESPACE of labels: the readers of the contract saw to it. */
  #idOf(key: string): string {
    const [service = "", namespace = ""] = key.split(".");
    return serviceId(this.#trustDomain, { service, namespace });
  }
}

const ownWithoutPolicies: Part = { text: entryText("own", { policies: [] }), providers: [] };

function unknownService(service: string): Part {
  return { text: entryText(`service/${service}`, null), providers: [] };
}
