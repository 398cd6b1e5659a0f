import type { AuthorizationPolicy, JwtProvider, Resource } from "../base/resource.ts";
import { serviceKey } from "../base/spiffe-id.ts";

/** The policies of one service. The same object from one set to the next for as long as they are the same. */
export interface Target {
  readonly policies: readonly AuthorizationPolicy[];
  readonly text: string;
}

/** A policy set by what is asked of it: who is targeted, and which provider is meant. A value. */
export interface PolicyIndex {
  readonly revision: number;
  readonly targets: ReadonlyMap<string, Target>;
  /** By "namespace/name": its state entry, as JSON. */
  readonly providers: ReadonlyMap<string, string>;
}

export const noPolicies: PolicyIndex = { revision: 0, targets: new Map(), providers: new Map() };

/** Indexes a set; what did not change since `before` stays the same object, so that nothing built on it is built again. */
export function indexOf(revision: number, resources: readonly Resource[], before: PolicyIndex): PolicyIndex {
  const byTarget = Map.groupBy(resources.filter(isPolicy), (policy) => serviceKey(policy.target));
  const targets = new Map<string, Target>();
  for (const [key, policies] of byTarget) {
    const text = JSON.stringify(policies);
    const old = before.targets.get(key);
    targets.set(key, old?.text === text ? old : { policies, text });
  }
  const providers = new Map<string, string>();
  for (const resource of resources) {
    if (resource.kind !== "JwtProvider") continue;
    const name = `${resource.namespace}/${resource.name}`;
    providers.set(name, entryText(`provider/${name}`, resource));
  }
  return { revision, targets, providers };
}

function isPolicy(resource: Resource): resource is AuthorizationPolicy {
  return resource.kind === "AuthorizationPolicy";
}

/** One state entry as it stands in a message. */
export function entryText(key: string, value: JwtProvider | object | null): string {
  return `[${JSON.stringify(key)},${JSON.stringify(value)}]`;
}
