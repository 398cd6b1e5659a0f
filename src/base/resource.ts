import type { ServiceName } from "./spiffe-id.ts";

/** Policy resources as plain, frozen data: what YAML becomes, what the store keeps and what travels to sidecars as JSON. */

/** Exact, or with one `*` first (suffix match) or last (prefix match), or `*` alone (present). */
export type Pattern = string;

export interface AuthorizationPolicy {
  readonly kind: "AuthorizationPolicy";
  readonly name: string;
  readonly namespace: string;
  /** Whose services and namespaces the rules name; the YAML reader always writes it. Without it: any trust domain's. */
  readonly trustDomain?: string;
  readonly target: ServiceName;
  readonly action: "ALLOW" | "DENY";
  readonly mode: "ENFORCE" | "AUDIT";
  /** OR. An empty list matches nothing. */
  readonly rules: readonly Rule[];
}

/** AND of what is present. */
export interface Rule {
  /** OR; each entry is an AND of its keys. */
  readonly from?: readonly Source[];
  readonly to?: readonly Operation[];
  readonly jwt?: JwtRequirement;
}

export interface Source {
  /** `web.default`: always with its namespace here, whatever was written. */
  readonly services?: readonly string[];
  readonly notServices?: readonly string[];
  /** SPIFFE IDs, literal or as patterns. */
  readonly principals?: readonly Pattern[];
  readonly notPrincipals?: readonly Pattern[];
  readonly namespaces?: readonly string[];
  readonly notNamespaces?: readonly string[];
  /** CIDR blocks or addresses; only the callee can see them. */
  readonly addresses?: readonly string[];
  readonly notAddresses?: readonly string[];
}

export interface Operation {
  readonly methods?: readonly string[];
  readonly notMethods?: readonly string[];
  readonly paths?: readonly string[];
  readonly notPaths?: readonly string[];
  readonly hosts?: readonly Pattern[];
  readonly notHosts?: readonly Pattern[];
  readonly ports?: readonly number[];
  readonly notPorts?: readonly number[];
  readonly headers?: Readonly<Record<string, readonly Pattern[]>>;
  readonly notHeaders?: Readonly<Record<string, readonly Pattern[]>>;
}

export interface JwtRequirement {
  readonly provider: string;
  readonly claims?: Readonly<Record<string, readonly Pattern[]>>;
}

export interface JwtProvider {
  readonly kind: "JwtProvider";
  readonly name: string;
  readonly namespace: string;
  readonly issuer: string;
  readonly audiences: readonly string[];
  readonly algorithms: readonly string[];
  readonly keys: JwtKeys;
  /** Whether the routee gets the token. Default true. */
  readonly forward: boolean;
}

/** `file` is read where the policy is applied and becomes `inline`. */
export type JwtKeys =
  | { readonly is: "inline"; readonly jwks: { readonly keys: readonly Record<string, unknown>[] } }
  | { readonly is: "uri"; readonly uri: string };

export type Resource = AuthorizationPolicy | JwtProvider;
