import type { Fields } from "../http/message.ts";
import { isOpaque, type Call } from "./call.ts";
import { failed, no, saying, yes, type Action, type Check, type Holds } from "./holds.ts";
import { compilePath } from "./path-pattern.ts";
import { compilePatterns, type Matcher } from "./pattern.ts";
import type { Operation } from "./resource.ts";
import { spellingsOf } from "./spellings.ts";

/**
 * What is called. Both ends see all of it, so nothing here is ever unknown; but of a TCP connection nobody sees more than its
 * port: all other conditions fail to evaluate there. Only one on methods that names CONNECT was made for it, and is judged.
 */
export interface CompiledOperation {
  readonly checks: readonly Check<Call>[];
  /** Every path for which the operation can hold starts with one of these. */
  readonly prefixes: readonly string[];
  /** The only methods for which it can hold; undefined for any. */
  readonly methods: readonly string[] | undefined;
}

type CheckCall = Check<Call>;

/** Compiles one entry of `to`: the cheapest conditions stand first. */
export function compileOperation(operation: Operation, action: Action): CompiledOperation {
  const checks: CheckCall[] = [];
  const { methods, notMethods, ports, notPorts, paths, notPaths, hosts, notHosts, headers, notHeaders } = operation;
  if (ports !== undefined) checks.push(portCheck("ports", ports));
  if (notPorts !== undefined) checks.push(portCheck("notPorts", notPorts));
  if (methods !== undefined) checks.push(methodCheck("methods", methods, action));
  if (notMethods !== undefined) checks.push(methodCheck("notMethods", notMethods, action));
  if (paths !== undefined) checks.push(pathCheck("paths", paths, action));
  if (notPaths !== undefined) checks.push(pathCheck("notPaths", notPaths, action));
  if (hosts !== undefined) checks.push(hostCheck("hosts", hosts, action));
  if (notHosts !== undefined) checks.push(hostCheck("notHosts", notHosts, action));
  for (const [name, values] of Object.entries(headers ?? {}))
    checks.push(headerCheck({ name, values, action, not: false }));
  for (const [name, values] of Object.entries(notHeaders ?? {}))
    checks.push(headerCheck({ name, values, action, not: true }));
  return { checks, methods, prefixes: paths === undefined ? [""] : paths.map((path) => compilePath(path).prefix) };
}

const opaque = "a TCP connection shows no such thing";

function noPath(call: Call): string {
  return isOpaque(call) ? opaque : "the call has no path";
}

function portCheck(key: "ports" | "notPorts", list: readonly number[]): CheckCall {
  const inside = key === "ports" ? yes : no;
  const outside = key === "ports" ? no : yes;
  return {
    says: saying(key, list),
    shows: (call) => `the port is ${call.port}`,
    holds: (call) => (list.includes(call.port) ? inside : outside),
  };
}

/**
 * Methods are case-sensitive (RFC 9110, 9.1), but a routee may not be: a method that is not in upper case fails to
 * evaluate where it would otherwise get past a DENY or into an ALLOW.
 */
function methodCheck(key: "methods" | "notMethods", list: readonly string[], action: Action): CheckCall {
  const blind = (call: Call): boolean => isOpaque(call) && !list.includes(call.method);
  const inside = key === "methods" ? yes : no;
  const outside = key === "methods" ? no : yes;
  return {
    says: saying(key, list),
    shows: (call) => (blind(call) ? opaque : `the method is ${JSON.stringify(call.method)}`),
    blind,
    holds: (call) => {
      if (list.includes(call.method)) return inside;
      if (isOpaque(call)) return failed(action);
      return outside === failed(action) || call.method === call.method.toUpperCase() ? outside : failed(action);
    },
  };
}

/** A call without a path (CONNECT) fails to evaluate. */
function pathCheck(key: "paths" | "notPaths", list: readonly string[], action: Action): CheckCall {
  const exact = new Set(list.filter((pattern) => !/[*{]/.test(pattern)));
  const others = list.filter((pattern) => /[*{]/.test(pattern)).map((pattern) => compilePath(pattern).matches);
  const inside = key === "paths" ? yes : no;
  const outside = key === "paths" ? no : yes;
  const only = list.length === 1 ? (others[0] ?? ((path: string) => path === list[0])) : undefined;
  const matches: Matcher = only ?? ((path) => exact.has(path) || others.some((one) => one(path)));
  return {
    says: saying(key, list),
    shows: (call) => (call.path === "" ? noPath(call) : `the path is ${JSON.stringify(call.path)}`),
    blind: isOpaque,
    holds: (call) => {
      if (call.path === "") return failed(action);
      return matches(call.path) ? inside : outside;
    },
  };
}

/** A call without a host (HTTP/1.0) fails to evaluate. A pattern that matches one name of a service matches the service. */
function hostCheck(key: "hosts" | "notHosts", list: readonly string[], action: Action): CheckCall {
  const matches = compileHosts(list);
  const inside = key === "hosts" ? yes : no;
  const outside = key === "hosts" ? no : yes;
  return {
    says: saying(key, list),
    shows: (call) => {
      if (isOpaque(call)) return opaque;
      return call.host === "" ? "the call has no host" : `the host is ${JSON.stringify(hostOf(call.host))}`;
    },
    blind: isOpaque,
    holds: (call) => {
      const host = hostOf(call.host);
      if (host === "" || isOpaque(call)) return failed(action);
      return matches(host) ? inside : outside;
    },
  };
}

/** A sidecar is called by one host nearly always: the last answer is kept. */
function compileHosts(list: readonly string[]): Matcher {
  const one = compilePatterns(list);
  let last = { host: "", matches: false };
  return (host) => {
    if (last.host !== host) last = { host, matches: spellingsOf(host).some(one) };
    return last.matches;
  };
}

/** The host in lower case, without its port and one trailing dot: `Orders.Shop.:80` is `orders.shop`. */
function hostOf(host: string): string {
  const end = host.startsWith("[") ? host.indexOf("]") + 1 : host.indexOf(":");
  const name = (end > 0 ? host.slice(0, end) : host).toLowerCase();
  return name.endsWith(".") ? name.slice(0, -1) : name;
}

interface HeaderCondition {
  readonly name: string;
  readonly values: readonly string[];
  readonly action: Action;
  readonly not: boolean;
}

/**
 * A header may come many times, and a routee may read the first, the last or any: a DENY holds if one value is enough
 * for it, an ALLOW only if every value is. Where a match would deny, the members of a comma-separated value count as
 * well, so `user, admin` is not a way around `admin`.
 * A header that is not there has no value: `headers` is then false and `notHeaders` true, in both actions, because a
 * DENY of all but one value must not be escaped by leaving the header out.
 * A value with bytes outside of printable ASCII fails to evaluate.
 */
function headerCheck(condition: HeaderCondition): CheckCall {
  const { name, action, not } = condition;
  const lower = name.toLowerCase();
  const matches = compilePatterns(condition.values);
  // Those two in which a match is what denies.
  const member: Matcher =
    (action === "DENY") !== not
      ? (value) => matches(value) || (value.includes(",") && value.split(",").some((part) => matches(part.trim())))
      : matches;
  return {
    says: saying(`${not ? "notHeaders" : "headers"} ${lower}:`, condition.values),
    shows: (call) => (isOpaque(call) ? opaque : showHeader(call.fields, lower)),
    blind: isOpaque,
    holds: (call) => (isOpaque(call) ? failed(action) : holdsForValues(call.fields, { lower, member, action, not })),
  };
}

interface Values {
  readonly lower: string;
  readonly member: Matcher;
  readonly action: Action;
  readonly not: boolean;
}

function holdsForValues(fields: Fields, wanted: Values): Holds {
  let seen = false;
  for (let i = 0; i < fields.length; i += 2) {
    if (!isNamed(fields[i] as string, wanted.lower)) continue;
    seen = true;
    const value = fields[i + 1] as string;
    if (!isPrintable(value)) return failed(wanted.action);
    const holds = wanted.member(value) !== wanted.not;
    if (wanted.action === "DENY" ? holds : !holds) return holds ? yes : no;
  }
  if (!seen) return wanted.not ? yes : no;
  return wanted.action === "DENY" ? no : yes;
}

function isNamed(name: string, lower: string): boolean {
  return name.length === lower.length && (name === lower || name.toLowerCase() === lower);
}

function isPrintable(value: string): boolean {
  for (let i = 0; i < value.length; i++) {
    const code = value.charCodeAt(i);
    if ((code < 0x20 && code !== 0x09) || code > 0x7e) return false;
  }
  return true;
}

/** Only its presence: values may be secrets. */
function showHeader(fields: Fields, lower: string): string {
  let count = 0;
  for (let i = 0; i < fields.length; i += 2) if (isNamed(fields[i] as string, lower)) count++;
  if (count === 0) return `there is no header ${lower}`;
  return count === 1 ? `its value is another` : `its ${count} values do not all agree`;
}
