import { isRefusal } from "../base/errors.ts";
import { isLabel, isTrustDomain, parseServiceName, parseSpiffeId, serviceKey } from "../base/spiffe-id.ts";
import { parseBlock } from "../base/ip-address.ts";
import { problemOfPath } from "./path-pattern.ts";
import { isPattern } from "./pattern.ts";
import type { AuthorizationPolicy, JwtRequirement, Operation, Rule, Source } from "./resource.ts";
import {
  integer,
  list,
  map,
  oneOf,
  placed,
  record,
  text,
  word,
  type At,
  type Desk,
  type Fault,
  type Read,
} from "./yaml-shape.ts";

/** `AuthorizationPolicy`: the shape that people write, and what it becomes. */

const fault = (because: string, hint: string): Fault => ({ because, hint });

export const label = text((value) =>
  isLabel(value)
    ? undefined
    : fault("it is no RFC 1123 label", 'Use at most 63 of a-z, 0-9 and "-", such as web-reads-orders'),
);

const service = text((value) =>
  isRefusal(parseServiceName(value, "x"))
    ? fault("it is not SERVICE or SERVICE.NAMESPACE", "Write orders, or orders.shop for another namespace")
    : undefined,
);

const principal = text((value) => {
  const because = problemOfPrincipal(value);
  return because === undefined ? undefined : fault(because, "Write spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE");
});

/** A prefix holds its whole trust domain, else `spiffe://mesh*` would let `spiffe://mesh.evil/…` in. */
function problemOfPrincipal(value: string): string | undefined {
  if (value === "*") return undefined;
  if (!isPattern(value)) return '"*" may stand only first or last';
  if (value.startsWith("*")) return /^\*[A-Za-z0-9._/-]+$/.test(value) ? undefined : "no SPIFFE ID ends like this";
  if (!value.endsWith("*")) {
    const id = parseSpiffeId(value);
    return isRefusal(id) ? (id.message.split(": ")[1] ?? "it is no SPIFFE ID") : undefined;
  }
  const [, trustDomain, path] = /^spiffe:\/\/([^/]*)(\/[A-Za-z0-9._/-]*)\*$/.exec(value) ?? [];
  return trustDomain !== undefined && path !== undefined && isTrustDomain(trustDomain) && !path.includes("//")
    ? undefined
    : "a prefix has to hold spiffe://, its whole trust domain and a slash";
}

const address = text((value) => {
  const block = parseBlock(value);
  return typeof block === "string" ? fault(block, "Write 10.0.0.0/8, 2001:db8::/32 or one address") : undefined;
});

const method = text((value) =>
  /^[A-Z][A-Z0-9_-]{0,31}$/.test(value)
    ? undefined
    : fault("methods are upper-case words", `Write ${methodMeant(value)}`),
);

function methodMeant(value: string): string {
  return /^[a-z-]+$/i.test(value) ? value.toUpperCase() : "GET, or leave methods out for any";
}

const path = text((value) => {
  const because = problemOfPath(value);
  return because === undefined
    ? undefined
    : fault(because, "Write /orders/7, /orders/*, */items or /orders/{id}/items");
});

const host = text((value) => {
  if (/^(\[[^\]]*\]|[^:]*):\d+$/.test(value)) return fault("hosts are matched without a port", "Use ports");
  if (value.endsWith(".")) return fault("hosts are matched without a final dot", "Leave the dot out");
  if (value !== value.toLowerCase()) return fault("hosts are matched in lower case", `Write ${value.toLowerCase()}`);
  return isPattern(value) && /^(\*?[a-z0-9._-]*\*?|\[[0-9a-f:.]+\])$/.test(value)
    ? undefined
    : fault("it is no host name or pattern", "Write orders.default.mesh, or *.example.com");
});

/** What never reaches a policy: framing, hop-by-hop and Hauberk's own fields are judged and removed before. */
const goneHeaders =
  /^(connection|content-length|transfer-encoding|keep-alive|te|trailer|upgrade|proxy-.*|x-hauberk-.*|x-forwarded-client-cert)$/;

function headerName(value: string): Fault | undefined {
  if (value === "host") return fault("Host is no header here", "Use hosts");
  if (!/^[!#$%&'*+.^_`|~0-9a-z-]{1,256}$/.test(value))
    return fault("it is no header name in lower case", "Write it as x-role");
  return goneHeaders.test(value) ? fault("it is removed before a policy sees it", "Match another header") : undefined;
}

const headerValue = word((value) => {
  if (!/^[\x20-\x7e]+$/.test(value) || value.trim() !== value)
    return fault("no header has this value", "Use printable ASCII without outer spaces");
  return isPattern(value) ? undefined : fault('"*" may stand only first or last', "Write prefix*, *suffix or *");
});

const claimValue: Read<string> = (at, key, desk) =>
  word((value) => {
    if (!isPattern(value)) return fault('"*" may stand only first or last', "Write prefix*, *suffix or *");
    if (key === "claims scope" && value.includes(" "))
      return fault("a scope is matched word by word", "List each word by itself");
    return undefined;
  })(at, key, desk);

function claimName(value: string): Fault | undefined {
  return value.length > 0 && value.length <= 256
    ? undefined
    : fault("it is empty or longer than 256 characters", "Name a claim");
}

const provider = text((value) => {
  const parts = value.split("/");
  return parts.length <= 2 && parts.every(isLabel)
    ? undefined
    : fault("it is not PROVIDER or NAMESPACE/PROVIDER", "Write the name of a JwtProvider");
});

const services = list(service);
const principals = list(principal);
const namespaces = list(label);
const addresses = list(address);
const source = map({
  services,
  notServices: services,
  principals,
  notPrincipals: principals,
  namespaces,
  notNamespaces: namespaces,
  addresses,
  notAddresses: addresses,
});

const methods = list(method);
const paths = list(path);
const hosts = list(host);
const ports = list(integer(1, 65_535));
const headers = record(headerName, list(headerValue));
const operation = map({
  methods,
  notMethods: methods,
  paths,
  notPaths: paths,
  hosts,
  notHosts: hosts,
  ports,
  notPorts: ports,
  headers,
  notHeaders: headers,
});

const jwt = map({ provider: placed(provider), claims: record(claimName, list(claimValue)) }, ["provider"]);
const rule = map({ from: list(source), to: list(operation), jwt });

export const policySpec = map(
  {
    target: map({ service }, ["service"]),
    action: oneOf("ALLOW", "DENY"),
    mode: oneOf("ENFORCE", "AUDIT"),
    rules: list(rule),
  },
  ["target", "action", "rules"],
);

type Found<R> = R extends Read<infer T> ? T : never;

/** A use of a provider, to be looked up when the whole set is known. */
export interface ProviderUse {
  /** "namespace/name" */
  readonly key: string;
  readonly at: At;
}

export interface PolicyContext {
  readonly name: string;
  readonly namespace: string;
  readonly trustDomain: string;
  readonly desk: Desk;
  readonly uses: ProviderUse[];
}

/** What was written, completed: names with their namespaces, the defaults, and the warnings that belong to it. */
export function toPolicy(spec: Found<typeof policySpec>, context: PolicyContext): AuthorizationPolicy | undefined {
  const { values } = spec;
  const rules = (values.rules ?? []).map((found) => toRule(found, values.action ?? "ALLOW", context));
  const written = values.target?.values.service;
  const target = written === undefined ? undefined : parseServiceName(written, context.namespace);
  if (target === undefined || isRefusal(target) || values.action === undefined) return undefined;
  return {
    kind: "AuthorizationPolicy",
    name: context.name,
    namespace: context.namespace,
    trustDomain: context.trustDomain,
    target,
    action: values.action,
    mode: values.mode ?? "ENFORCE",
    rules,
  };
}

function toRule(found: Found<typeof rule>, action: "ALLOW" | "DENY", context: PolicyContext): Rule {
  const { from, to, jwt } = found.values;
  if (found.empty)
    context.desk.wrong(
      found.node,
      "Cannot use an empty rule: it would match every call",
      'To mean every identity, write from: [{ principals: ["*"] }]',
    );
  return {
    ...(from === undefined ? {} : { from: from.map((one) => toSource(one, context)) }),
    ...(to === undefined ? {} : { to: to.map((one) => toOperation(one, action, context)) }),
    ...(jwt === undefined ? {} : toJwt(jwt, context)),
  };
}

function toSource(found: Found<typeof source>, context: PolicyContext): Source {
  if (found.empty)
    context.desk.wrong(
      found.node,
      "Cannot use an empty entry of from: it would match everybody",
      'To mean every identity, write principals: ["*"]',
    );
  const { values } = found;
  refuseBoth(found, context.desk);
  for (const key of ["principals", "notPrincipals"] as const) {
    for (const one of values[key] ?? []) warnOfForeign(one, found.at[key] ?? found.node, context);
  }
  const full = (names: readonly string[]): string[] =>
    names.map((name) => {
      const parsed = parseServiceName(name, context.namespace);
      return isRefusal(parsed) ? name : serviceKey(parsed);
    });
  return {
    ...values,
    ...(values.services === undefined ? {} : { services: full(values.services) }),
    ...(values.notServices === undefined ? {} : { notServices: full(values.notServices) }),
  };
}

function warnOfForeign(one: string, at: At, { desk, trustDomain }: PolicyContext): void {
  if (one.startsWith("*") || one.startsWith(`spiffe://${trustDomain}/`)) return;
  desk.warn(
    at,
    `Cannot be sure of the principal "${one}": it is not in this mesh's trust domain ${trustDomain}`,
    `Check that spiffe://${trustDomain}/… was not meant`,
  );
}

function toOperation(found: Found<typeof operation>, action: "ALLOW" | "DENY", { desk }: PolicyContext): Operation {
  const { values, at } = found;
  if (found.empty) desk.wrong(found.node, "Cannot use an empty entry of to: it would match every call", "Leave to out");
  refuseBoth(found, desk);
  if (action === "DENY" && values.paths !== undefined)
    desk.warn(
      at.paths ?? null,
      "Cannot vouch for DENY with paths: a path that the routee reads in another way gets past it",
      "Write ALLOW with paths, or DENY with notPaths",
    );
  if (action === "ALLOW" && values.notPaths !== undefined)
    desk.warn(
      at.notPaths ?? null,
      "Cannot vouch for ALLOW with notPaths: a path that the routee reads in another way gets in",
      "Write ALLOW with paths, or DENY with notPaths",
    );
  return values;
}

function toJwt(found: Found<typeof jwt>, context: PolicyContext): { jwt: JwtRequirement } | Record<string, never> {
  const used = found.values.provider;
  if (used === undefined) return {};
  const key = used.value.includes("/") ? used.value : `${context.namespace}/${used.value}`;
  context.uses.push({ key, at: used.at });
  const { claims } = found.values;
  return { jwt: { provider: key, ...(claims === undefined ? {} : { claims }) } };
}

/** A value under a key and under its negation as well can hold for no call. */
function refuseBoth(found: { values: object; at: Readonly<Record<string, At>> | object }, desk: Desk): void {
  const values = found.values as Readonly<Record<string, unknown>>;
  const at = found.at as Readonly<Record<string, At>>;
  for (const [key, wanted] of Object.entries(values)) {
    const negative = `not${key.charAt(0).toUpperCase()}${key.slice(1)}`;
    const refused = values[negative];
    if (!Array.isArray(wanted) || !Array.isArray(refused)) continue;
    for (const value of wanted as unknown[]) {
      if (refused.includes(value))
        desk.wrong(
          at[negative] ?? null,
          `Cannot use ${negative} "${String(value)}": it stands in ${key} as well, and no call could match both`,
          "Remove one",
        );
    }
  }
}
