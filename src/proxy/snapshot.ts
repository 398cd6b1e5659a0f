import type { SpiffeId } from "../base/spiffe-id.ts";
import type {
  BundleView,
  Endpoint,
  OwnView,
  RouteePort,
  ServiceView,
  StateEntry,
  StateValue,
} from "../contract/watch.ts";
import { compilePolicies, type CompiledPolicies } from "../policy/compile.ts";
import { couldAllow } from "../policy/reduce.ts";
import type { AuthorizationPolicy, JwtProvider } from "../policy/resource.ts";

/** One service as a sidecar sees it: policies compiled, the routee ports counted together. */
export interface Service {
  /** `orders.default` */
  readonly key: string;
  /** The SPIFFE ID that its endpoints must present, exactly. */
  readonly id: string;
  readonly policies: CompiledPolicies;
  readonly endpoints: readonly Endpoint[];
  /** The first HTTP port of each endpoint, every number once: what a call without a port may arrive at. */
  readonly defaultPorts: readonly number[];
  /** What the ports speak that its endpoints offer, by number; where they differ, as the first one says. */
  readonly ports: ReadonlyMap<number, RouteePort["protocol"]>;
  readonly view: ServiceView;
}

/** The own service: every policy about it. */
export interface Own {
  readonly policies: CompiledPolicies;
  readonly view: OwnView;
  /** Whether some ALLOW policy could let `peer` in; remembered for as long as the peer's connection lives. */
  couldAllow(peer: SpiffeId): boolean;
}

/**
 * All that a request needs, as one frozen value: it is read once at the start of a request and kept to its end.
 * `services` holds null for a name that was asked for and is unknown.
 */
export interface Snapshot {
  readonly bundle: BundleView | undefined;
  readonly own: Own;
  readonly services: ReadonlyMap<string, Service | null>;
  /** By `namespace/name`. */
  readonly providers: ReadonlyMap<string, JwtProvider>;
}

const nothing: OwnView = Object.freeze({ policies: [] });

/** Before the first word of the control plane: nothing is known, and nobody is let in. */
export const emptySnapshot: Snapshot = Object.freeze({
  bundle: undefined,
  own: ownOf(nothing),
  services: new Map<string, Service | null>(),
  providers: new Map<string, JwtProvider>(),
});

/**
 * Builds the next snapshot from the whole state. What did not change since `before` keeps its compiled object, so a
 * change of one service costs the compilation of one service.
 * @throws whatever the compiler throws for a policy that cannot be compiled: then nothing of the state is used.
 */
export function buildSnapshot(entries: Iterable<StateEntry>, before: Snapshot = emptySnapshot): Snapshot {
  let bundle: BundleView | undefined;
  let own = emptySnapshot.own;
  const services = new Map<string, Service | null>();
  const providers = new Map<string, JwtProvider>();
  for (const [key, value] of entries) {
    if (key === "bundle") bundle = value as BundleView;
    else if (key === "own") own = ownAfter(value as OwnView, before.own);
    else if (key.startsWith("service/")) {
      const name = key.slice("service/".length);
      services.set(name, value === null ? null : serviceAfter(name, value as ServiceView, before.services.get(name)));
    } else if (key.startsWith("provider/") && value !== null) {
      const name = key.slice("provider/".length);
      providers.set(name, providerAfter(value as JwtProvider, before.providers.get(name)));
    }
  }
  return Object.freeze({ bundle, own, services, providers });
}

/** What becomes of one answer of the control plane that no snapshot holds yet. */
export function serviceOfView(key: string, view: ServiceView): Service {
  return serviceAfter(key, view, undefined);
}

function serviceAfter(key: string, view: ServiceView, before: Service | null | undefined): Service {
  if (before === null || before === undefined) return makeService(key, view, compilePolicies(view.policies));
  if (same(view, before.view)) return before;
  // Endpoints come and go far more often than policies.
  return makeService(key, view, policiesAfter(view.policies, before.view.policies, before.policies));
}

function makeService(key: string, view: ServiceView, policies: CompiledPolicies): Service {
  const defaults = new Set<number>();
  const ports = new Map<number, RouteePort["protocol"]>();
  for (const endpoint of view.endpoints) {
    const first = endpoint.ports.find((port) => port.protocol !== "tcp");
    if (first !== undefined) defaults.add(first.port);
    for (const { port, protocol } of endpoint.ports) if (!ports.has(port)) ports.set(port, protocol);
  }
  return Object.freeze({
    key,
    id: view.id,
    policies,
    endpoints: Object.freeze([...view.endpoints]),
    defaultPorts: Object.freeze([...defaults]),
    ports,
    view,
  });
}

function ownAfter(view: OwnView, before: Own): Own {
  if (same(view, before.view)) return before;
  return ownOf(view);
}

function ownOf(view: OwnView): Own {
  const policies = compilePolicies(view.policies);
  // Keyed by the object that a connection holds: gone with the connection, so nothing here grows.
  const answers = new WeakMap<SpiffeId, boolean>();
  return Object.freeze({
    policies,
    view,
    couldAllow(peer: SpiffeId): boolean {
      let answer = answers.get(peer);
      if (answer === undefined) answers.set(peer, (answer = couldAllow(view.policies, peer)));
      return answer;
    },
  });
}

function policiesAfter(
  policies: readonly AuthorizationPolicy[],
  before: readonly AuthorizationPolicy[],
  compiled: CompiledPolicies,
): CompiledPolicies {
  return same(policies, before) ? compiled : compilePolicies(policies);
}

function providerAfter(provider: JwtProvider, before: JwtProvider | undefined): JwtProvider {
  return before !== undefined && same(provider, before) ? before : Object.freeze(provider);
}

/** Values of the contract are JSON; the control plane writes their keys in one order. A false "no" only costs time. */
function same(
  one: StateValue | readonly AuthorizationPolicy[],
  other: StateValue | readonly AuthorizationPolicy[],
): boolean {
  return one === other || JSON.stringify(one) === JSON.stringify(other);
}
