import type { Refusal } from "../base/errors.ts";
import { isLabel, type ServiceName } from "../base/spiffe-id.ts";
import type {
  AuthorizationPolicy,
  JwtKeys,
  JwtProvider,
  JwtRequirement,
  Operation,
  Resource,
  Rule,
  Source,
} from "../base/resource.ts";
import { limits } from "./limits.ts";
import { flag, integer, list, object, oneOf, reading, record, tagged, text, wrong, type Reader } from "./shape.ts";

/**
 * Policy resources as they travel. Unknown keys are refused: a condition that a sidecar does not know
 * would otherwise be a condition that it does not check.
 */

export const label: Reader<string> = (value, at) => {
  if (typeof value !== "string" || !isLabel(value)) wrong(at, "an RFC 1123 label");
  return value;
};

/** What resources are called: an RFC 1123 subdomain. */
const resourceName = text(253, /^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$/, "a name of a-z, 0-9, - and .");
const words = list(text(2_048));
const target: Reader<ServiceName> = object({ namespace: label, service: label });

const source: Reader<Source> = object(
  {},
  {
    services: words,
    notServices: words,
    principals: words,
    notPrincipals: words,
    namespaces: words,
    notNamespaces: words,
    addresses: words,
    notAddresses: words,
  },
);

const ports = list(integer(1, 65_535));
const headers = record(words, /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$/);

const operation: Reader<Operation> = object(
  {},
  {
    methods: words,
    notMethods: words,
    paths: words,
    notPaths: words,
    hosts: words,
    notHosts: words,
    ports,
    notPorts: ports,
    headers,
    notHeaders: headers,
  },
);

const jwt: Reader<JwtRequirement> = object({ provider: text(512) }, { claims: record(words, /^[^]{1,256}$/) });

const rule: Reader<Rule> = object({}, { from: list(source), to: list(operation), jwt });

export const authorizationPolicy: Reader<AuthorizationPolicy> = object(
  {
    kind: oneOf("AuthorizationPolicy"),
    name: resourceName,
    namespace: label,
    target,
    action: oneOf("ALLOW", "DENY"),
    mode: oneOf("ENFORCE", "AUDIT"),
    rules: list(rule, limits.rulesMax),
  },
  { trustDomain: text(255) },
);

/** One JWK: members of any name, values that are text, numbers, booleans or lists of text. */
const jwkMember: Reader<unknown> = (value, at) => {
  if (typeof value === "string") return text(16_384)(value, at);
  if (typeof value === "number" || typeof value === "boolean") return value;
  return list(text(32_768))(value, at);
};

const keys: Reader<JwtKeys> = tagged<JwtKeys>("is", {
  inline: object({
    is: oneOf("inline"),
    jwks: object({ keys: list(record(jwkMember, /^[^]{1,128}$/, 64), 100) }),
  }),
  uri: object({ is: oneOf("uri"), uri: text(2_048) }),
});

export const jwtProvider: Reader<JwtProvider> = object({
  kind: oneOf("JwtProvider"),
  name: resourceName,
  namespace: label,
  issuer: text(2_048),
  audiences: words,
  algorithms: list(text(16), 16),
  keys,
  forward: flag,
});

const resource: Reader<Resource> = tagged<Resource>("kind", {
  AuthorizationPolicy: authorizationPolicy,
  JwtProvider: jwtProvider,
});

/** Reads one resource that was parsed from JSON: MESSAGE_INVALID says where it is wrong. */
export function readResource(value: unknown): Resource | Refusal {
  return reading("resource", resource, value);
}

/** Reads a whole set, as `PUT /v1/policies` carries it. */
export function readResourceList(value: unknown): readonly Resource[] | Refusal {
  return reading("policy set", list(resource, limits.policiesMax), value);
}
