import type { FailureCode } from "../base/errors.ts";
import type { SpiffeId } from "../base/spiffe-id.ts";
import type { Fields } from "../http/message.ts";

/** One call as policy sees it: after routing and normalization, in the bytes that the routee will be sent. */
export interface Call {
  /** Who calls, as proven by TLS; undefined where nothing was proven. */
  readonly principal: SpiffeId | undefined;
  readonly method: string;
  /** Normalized, without its query; "" where the call has none (CONNECT). */
  readonly path: string;
  /** Of a service always `orders.default.mesh`, whichever name was written; compared in lower case, without port and trailing dot. */
  readonly host: string;
  readonly port: number;
  readonly fields: Fields;
  /** undefined where it cannot be seen: at the caller's sidecar. Conditions on it are then unknown. */
  readonly sourceAddress: string | undefined;
  /**
   * What is known of the token of a provider ("namespace/name"). Answers at once, from what was verified before.
   * A token of another issuer is *absent* here: it is not this provider's.
   */
  token(provider: string): TokenState;
}

/**
 * Whether this is a connection of which nothing but its two ends can be seen: a TCP tunnel. Its method is CONNECT; it has
 * no path, no fields and no token, and its host is the service's name and nobody's choice (docs/decisions/0011).
 */
export function isOpaque(call: Call): boolean {
  return call.method === "CONNECT";
}

export type TokenState =
  | { readonly is: "absent" }
  | { readonly is: "invalid"; readonly because: string }
  | { readonly is: "unavailable"; readonly because: string }
  | { readonly is: "valid"; readonly claims: Readonly<Record<string, unknown>> }
  /** The other end will see it: for a caller's sidecar that cannot have the provider's keys while the callee may. */
  | { readonly is: "unknown" };

export interface Decision {
  /** "unknown" only where something could not be seen; the callee treats it as "deny". */
  readonly verdict: "allow" | "deny" | "unknown";
  /** Why not: DENIED, JWT_MISSING, JWT_INVALID, JWT_KEYS_UNAVAILABLE. Present exactly with "deny". */
  readonly code: FailureCode | undefined;
  /** The policy that decided, as "namespace/name", or "default deny". */
  readonly by: string;
  /** Policies in AUDIT mode that match the call, as "namespace/name". */
  readonly audits: readonly string[];
}

/** What `decide` tells of its walk when somebody listens. */
export interface TraceStep {
  readonly policy: string;
  readonly action: "ALLOW" | "DENY";
  readonly mode: "ENFORCE" | "AUDIT";
  /** Its place in the policy, from 1. */
  readonly rule: number;
  readonly holds: "yes" | "no" | "unknown";
  readonly because: string;
}

export interface Trace {
  step(step: TraceStep): void;
}
