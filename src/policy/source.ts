import { HauberkError } from "../base/errors.ts";
import { serviceKey, serviceOf, type ServiceName, type SpiffeId } from "../base/spiffe-id.ts";
import { contains, parseAddress, parseBlock, type Block } from "../base/ip-address.ts";
import type { Call } from "./call.ts";
import { failed, no, saying, unknown, yes, type Action, type Check } from "./holds.ts";
import { compilePattern } from "./pattern.ts";
import type { Source } from "./resource.ts";

/**
 * Who calls. The identity is always seen, at both ends, so its conditions are true or false and are judged once per
 * identity; the address is seen by the callee alone.
 */
export interface Guard {
  readonly action: Action;
  /** The trust domain that names of services and namespaces mean; undefined for any. */
  readonly trustDomain?: string;
}

type IdentityKey = "services" | "notServices" | "principals" | "notPrincipals" | "namespaces" | "notNamespaces";

interface Who {
  readonly principal: SpiffeId;
  /** undefined where the identity names no service of the trust domain. */
  readonly name: ServiceName | undefined;
  readonly action: Action;
}

/**
 * An identity that names no service of our trust domain (an administrator, a federated peer) has no service and no
 * namespace to compare: the positive forms are false, and the negative ones fail to evaluate, which fails closed.
 */
const identityTests: Readonly<Record<IdentityKey, (list: readonly string[], who: Who) => boolean>> = {
  services: (list, who) => who.name !== undefined && list.includes(serviceKey(who.name)),
  notServices: (list, who) => (who.name === undefined ? who.action === "DENY" : !list.includes(serviceKey(who.name))),
  principals: (list, who) => list.some((pattern) => compilePattern(pattern)(who.principal.text)),
  notPrincipals: (list, who) => !list.some((pattern) => compilePattern(pattern)(who.principal.text)),
  namespaces: (list, who) => who.name !== undefined && list.includes(who.name.namespace),
  notNamespaces: (list, who) => (who.name === undefined ? who.action === "DENY" : !list.includes(who.name.namespace)),
};

const identityKeys = Object.keys(identityTests) as readonly IdentityKey[];

/**
 * The first condition on the identity that does not hold, or undefined where all do.
 * Where no identity was proven every condition on it is false, in its negative form too.
 */
export function missedIdentity(source: Source, guard: Guard, principal: SpiffeId | undefined): string | undefined {
  const foreign =
    principal !== undefined && guard.trustDomain !== undefined && principal.trustDomain !== guard.trustDomain;
  const name = principal === undefined || foreign ? undefined : serviceOf(principal);
  for (const key of identityKeys) {
    const list = source[key];
    if (list === undefined) continue;
    if (principal === undefined || !identityTests[key](list, { principal, name, action: guard.action }))
      return saying(key, list);
  }
  return undefined;
}

/** The conditions on the address, in the order in which they are judged; none for most sources. */
export function compileAddresses(source: Source, action: Action): readonly Check<Call>[] {
  const checks: Check<Call>[] = [];
  if (source.addresses !== undefined) checks.push(addressCheck("addresses", source.addresses, action));
  if (source.notAddresses !== undefined) checks.push(addressCheck("notAddresses", source.notAddresses, action));
  return checks;
}

function addressCheck(key: "addresses" | "notAddresses", list: readonly string[], action: Action): Check<Call> {
  const blocks = list.map(blockOf);
  const inside = key === "addresses" ? yes : no;
  const outside = key === "addresses" ? no : yes;
  return {
    says: saying(key, list),
    shows: (call) =>
      call.sourceAddress === undefined ? "only the callee sees the address" : `the address is ${call.sourceAddress}`,
    holds: (call) => {
      if (call.sourceAddress === undefined) return unknown;
      const words = parseAddress(call.sourceAddress);
      if (words === undefined) return failed(action);
      return blocks.some((block) => contains(block, words)) ? inside : outside;
    },
  };
}

function blockOf(text: string): Block {
  const block = parseBlock(text);
  if (typeof block !== "string") return block;
  throw new HauberkError(
    "POLICY_INVALID",
    `Cannot compile the address "${text}": ${block}`,
    "Write 10.0.0.0/8, or one address",
  );
}
