import type { SpiffeId } from "../base/spiffe-id.ts";
import type { AuthorizationPolicy, Rule, Source } from "./resource.ts";
import { missedIdentity } from "./source.ts";

/**
 * What one identity may learn of a service's policies: the rules that can match it, and nothing of whom else they name.
 */

/**
 * Whether some enforced ALLOW policy could ever let the identity in. Only the identity is looked at: its address, the
 * operation and the token may change with each call.
 */
export function couldAllow(policies: readonly AuthorizationPolicy[], principal: SpiffeId): boolean {
  return policies.some(
    (policy) =>
      policy.action === "ALLOW" &&
      policy.mode === "ENFORCE" &&
      policy.rules.some((rule) => rule.from === undefined || rule.from.some((from) => admits(from, policy, principal))),
  );
}

/**
 * The policies as they stand for one identity: rules that never match it are gone, and a source that does is written as
 * that identity itself. No decision for that identity changes by it, nor which policy is named.
 */
export function reduceFor(policies: readonly AuthorizationPolicy[], principal: SpiffeId): AuthorizationPolicy[] {
  const reduced: AuthorizationPolicy[] = [];
  for (const policy of policies) {
    const rules = policy.rules.map((rule) => reduceRule(rule, policy, principal)).filter((rule) => rule !== undefined);
    if (rules.length > 0) reduced.push({ ...policy, rules });
  }
  return reduced;
}

function admits(source: Source, policy: AuthorizationPolicy, principal: SpiffeId): boolean {
  return missedIdentity(source, policy, principal) === undefined;
}

function reduceRule(rule: Rule, policy: AuthorizationPolicy, principal: SpiffeId): Rule | undefined {
  if (rule.from === undefined) return rule;
  const from = rule.from.filter((source) => admits(source, policy, principal));
  if (from.length === 0) return undefined;
  const anywhere = from.some((source) => source.addresses === undefined && source.notAddresses === undefined);
  return {
    ...rule,
    from: anywhere ? [{ principals: [principal.text] }] : from.map((source) => bare(source, principal)),
  };
}

function bare(source: Source, principal: SpiffeId): Source {
  return {
    principals: [principal.text],
    ...(source.addresses === undefined ? {} : { addresses: source.addresses }),
    ...(source.notAddresses === undefined ? {} : { notAddresses: source.notAddresses }),
  };
}
