import type { SpiffeId } from "../base/spiffe-id.ts";
import type { Call, Decision } from "./call.ts";
import type { Action, Check } from "./holds.ts";
import { compileOperation, type CompiledOperation } from "./operation.ts";
import { PathIndex } from "./path-index.ts";
import type { AuthorizationPolicy, Rule, Source } from "./resource.ts";
import { compileAddresses, missedIdentity } from "./source.ts";
import { compileToken, type TokenCheck } from "./token.ts";

/**
 * Policies made ready for calls. All that depends on the identity alone is judged once per identity and kept as a view,
 * in which the remaining rules hang by the prefix of their paths; a call meets only the rules that its path can match.
 */
export interface CompiledPolicies {
  /** "namespace/name" of every provider that a rule wants a token of, enforced or audited, sorted. */
  readonly providers: readonly string[];
  /** Whether any rule looks at the source address. */
  readonly seesAddress: boolean;
  readonly deny: readonly CompiledRule[];
  readonly allow: readonly CompiledRule[];
  readonly audit: readonly CompiledRule[];
  /** The rules that can match one identity. Remembered for up to 1024 identities. */
  viewOf(principal: SpiffeId | undefined): View;
}

export interface CompiledPolicy {
  /** "namespace/name" */
  readonly name: string;
  readonly action: Action;
  readonly mode: "ENFORCE" | "AUDIT";
  readonly trustDomain?: string;
  /** What is decided when a rule of it matches: made once. */
  readonly decision: Decision;
}

export interface CompiledRule {
  readonly policy: CompiledPolicy;
  /** Its place in the policy, from 1. */
  readonly number: number;
  /** Its place among all rules: the first that matches is the one that is named. */
  readonly order: number;
  /** OR; undefined for anybody. */
  readonly sources: readonly CompiledSource[] | undefined;
  /** OR; undefined for anything. */
  readonly operations: readonly CompiledOperation[] | undefined;
  readonly checks: readonly (readonly Check<Call>[])[] | undefined;
  readonly token: TokenCheck | undefined;
}

export interface CompiledSource {
  readonly source: Source;
  readonly addresses: readonly Check<Call>[];
}

/** A rule as it stands for one identity. */
export interface Entry {
  readonly rule: CompiledRule;
  /** OR of ANDs on the address; undefined where the address does not matter. */
  readonly addresses: readonly (readonly Check<Call>[])[] | undefined;
}

/** The rules of one action that can match one identity. */
export interface Side {
  readonly entries: readonly Entry[];
  /** By path, for each method that a rule names. */
  readonly byMethod: ReadonlyMap<string, PathIndex<Entry>>;
  /** By path, for every other method. */
  readonly otherMethods: PathIndex<Entry>;
}

export interface View {
  readonly deny: Side;
  readonly allow: Side;
  readonly audit: readonly Entry[];
}

const viewsMax = 1024;
export const noAudits: readonly string[] = Object.freeze([]);

/**
 * Compiles the policies of one service. Their order does not matter: they are sorted by name.
 * @throws HauberkError POLICY_INVALID for an address that is none; a set that was read by `readPolicySet` has no such.
 */
export function compilePolicies(policies: readonly AuthorizationPolicy[]): CompiledPolicies {
  const sorted = [...policies].sort((a, b) => compareText(nameOf(a), nameOf(b)));
  const rules = sorted.flatMap(compilePolicy).map((rule, order): CompiledRule => ({ ...rule, order }));
  const enforced = rules.filter((rule) => rule.policy.mode === "ENFORCE");
  const deny = enforced.filter((rule) => rule.policy.action === "DENY");
  const allow = enforced.filter((rule) => rule.policy.action === "ALLOW");
  const audit = rules.filter((rule) => rule.policy.mode === "AUDIT");
  const views = new Map<string, View>();
  return Object.freeze({
    providers: Object.freeze([...new Set(rules.flatMap((rule) => rule.token?.provider ?? []))].sort(compareText)),
    seesAddress: rules.some((rule) => rule.sources?.some((source) => source.addresses.length > 0) ?? false),
    deny,
    allow,
    audit,
    viewOf(principal: SpiffeId | undefined): View {
      const key = principal === undefined ? "" : principal.text;
      const known = views.get(key);
      if (known !== undefined) return known;
      const view = {
        deny: sideOf(deny, principal),
        allow: sideOf(allow, principal),
        audit: entriesOf(audit, principal),
      };
      if (views.size >= viewsMax) views.clear();
      views.set(key, view);
      return view;
    },
  });
}

function nameOf(policy: AuthorizationPolicy): string {
  return `${policy.namespace}/${policy.name}`;
}

function compareText(one: string, other: string): number {
  if (one === other) return 0;
  return one < other ? -1 : 1;
}

function compilePolicy(policy: AuthorizationPolicy): Omit<CompiledRule, "order">[] {
  const name = nameOf(policy);
  const { action, mode, trustDomain } = policy;
  const decision: Decision = Object.freeze({
    verdict: action === "ALLOW" ? "allow" : "deny",
    code: action === "ALLOW" ? undefined : "DENIED",
    by: name,
    audits: noAudits,
  });
  const compiled = { name, action, mode, decision, ...(trustDomain === undefined ? {} : { trustDomain }) };
  return policy.rules.map((rule, index) => ({ policy: compiled, number: index + 1, ...compileRule(rule, policy) }));
}

function compileRule(rule: Rule, policy: AuthorizationPolicy): Omit<CompiledRule, "policy" | "number" | "order"> {
  const { action } = policy;
  const operations = rule.to?.map((operation) => compileOperation(operation, action));
  return {
    sources: rule.from?.map((source) => ({ source, addresses: compileAddresses(source, action) })),
    operations,
    checks: operations?.map((operation) => operation.checks),
    token: rule.jwt === undefined ? undefined : compileToken(rule.jwt, providerKey(rule.jwt.provider, policy), action),
  };
}

function providerKey(provider: string, policy: AuthorizationPolicy): string {
  return provider.includes("/") ? provider : `${policy.namespace}/${provider}`;
}

function sideOf(rules: readonly CompiledRule[], principal: SpiffeId | undefined): Side {
  const entries = entriesOf(rules, principal);
  const methods = new Set(entries.flatMap((entry) => methodsOf(entry.rule) ?? []).filter(isUpperCase));
  const byMethod = new Map([...methods].map((method) => [method, indexOf(entries, method)]));
  return { entries, byMethod, otherMethods: indexOf(entries, undefined) };
}

/** The rules that can hold for a method, or for one that no rule names. */
function indexOf(entries: readonly Entry[], method: string | undefined): PathIndex<Entry> {
  const index = new PathIndex<Entry>();
  for (const entry of entries) {
    const methods = methodsOf(entry.rule);
    if (methods !== undefined && (method === undefined || !methods.includes(method))) continue;
    for (const prefix of prefixesOf(entry.rule)) index.add(prefix, entry);
  }
  return index;
}

/** The only methods for which a rule can hold; undefined for any. */
function methodsOf(rule: CompiledRule): readonly string[] | undefined {
  const all = rule.operations?.map((operation) => operation.methods);
  return all === undefined || all.includes(undefined) ? undefined : all.flatMap((methods) => methods ?? []);
}

/** The shortest prefixes that cover every operation: what a longer one covers is covered already. */
function prefixesOf(rule: CompiledRule): readonly string[] {
  if (rule.operations === undefined) return [""];
  const all = [...new Set(rule.operations.flatMap((operation) => operation.prefixes))];
  return all.filter((prefix) => !all.some((other) => other !== prefix && prefix.startsWith(other)));
}

function entriesOf(rules: readonly CompiledRule[], principal: SpiffeId | undefined): readonly Entry[] {
  return rules.map((rule) => entryOf(rule, principal)).filter((entry) => entry !== undefined);
}

/** The rule as it stands for one identity; undefined where it can never match it. */
export function entryOf(rule: CompiledRule, principal: SpiffeId | undefined): Entry | undefined {
  if (rule.sources === undefined) return { rule, addresses: undefined };
  const admitting = rule.sources.filter((from) => missedIdentity(from.source, rule.policy, principal) === undefined);
  if (admitting.length === 0) return undefined;
  const anyAddress = admitting.some((from) => from.addresses.length === 0);
  return { rule, addresses: anyAddress ? undefined : admitting.map((from) => from.addresses) };
}

/** Why `entryOf` gave nothing, for the explanation. */
export function identityMisses(rule: CompiledRule, principal: SpiffeId | undefined): string {
  const misses = (rule.sources ?? []).map((from) => missedIdentity(from.source, rule.policy, principal) ?? "");
  const who = principal === undefined ? "no identity was proven" : `the caller is ${principal.text}`;
  return `${misses.filter((miss) => miss !== "").join("; ")}: ${who}`;
}

function isUpperCase(text: string): boolean {
  return text === text.toUpperCase();
}
