import type { FailureCode } from "../base/errors.ts";
import { isOpaque, type Call, type TokenState } from "./call.ts";
import { failed, no, saying, unknown, yes, type Action, type Holds } from "./holds.ts";
import { compilePatterns, type Matcher } from "./pattern.ts";
import type { JwtRequirement } from "./resource.ts";

/**
 * What a rule makes of a token.
 *
 * | token | in an ALLOW | in a DENY |
 * |---|---|---|
 * | absent | does not match: JWT_MISSING | does not match: what the rule needs is not there |
 * | invalid | does not match: JWT_INVALID | matches: JWT_INVALID |
 * | its keys unavailable | does not match: JWT_KEYS_UNAVAILABLE | matches: JWT_KEYS_UNAVAILABLE |
 * | valid, a claim absent or another | does not match: DENIED | does not match |
 * | valid, a claim that cannot be compared (an object) | does not match: DENIED | matches: DENIED |
 * | valid, all claims as wanted | matches | matches: DENIED |
 * | on a TCP connection, where none can be seen | does not match: DENIED | matches: DENIED |
 *
 * A DENY fails closed: a token that could not be judged might be the one it is about. It cannot guard against a caller
 * that sends no token at all; the ALLOW rules that want one do.
 */
export interface Outcome {
  readonly holds: Holds;
  /** Why not (ALLOW), or why (DENY). */
  readonly code: FailureCode | undefined;
  /** Of several codes the highest is told: what is known of a token that was sent goes before one that was not. */
  readonly rank: number;
}

const outcome = (holds: Holds, code?: FailureCode, rank = 0): Outcome => Object.freeze({ holds, code, rank });

export const fails = outcome(no);
export const matches = outcome(yes);
export const isUnknown = outcome(unknown);
const lacks = outcome(no, "DENIED", 4);
const missing = outcome(no, "JWT_MISSING", 1);
const unjudged = {
  ALLOW: { invalid: outcome(no, "JWT_INVALID", 2), unavailable: outcome(no, "JWT_KEYS_UNAVAILABLE", 3) },
  DENY: { invalid: outcome(yes, "JWT_INVALID"), unavailable: outcome(yes, "JWT_KEYS_UNAVAILABLE") },
} as const;

/** Not the same as absent: a caller of TCP cannot be asked for one. */
const unseen = { ALLOW: lacks, DENY: matches } as const;

export interface TokenCheck {
  readonly provider: string;
  readonly says: string;
  judge(call: Call): Outcome;
  /** What is wrong with the call's token, for the explanation. */
  shows(call: Call): string;
}

interface ClaimCheck {
  readonly name: string;
  readonly says: string;
  readonly matches: Matcher;
}

/** `provider` is "namespace/name". */
export function compileToken(requirement: JwtRequirement, provider: string, action: Action): TokenCheck {
  const claims = Object.entries(requirement.claims ?? {}).map(([name, patterns]): ClaimCheck => ({
    name,
    says: saying(`claim ${name}:`, patterns),
    matches: compilePatterns(patterns),
  }));
  return {
    provider,
    says: `a token of ${provider}`,
    judge: (call) => (isOpaque(call) ? unseen[action] : judge(call.token(provider), claims, action)),
    shows: (call) => (isOpaque(call) ? "a TCP connection shows none" : show(call.token(provider), claims, action)),
  };
}

function judge(state: TokenState, claims: readonly ClaimCheck[], action: Action): Outcome {
  if (state.is === "absent") return action === "ALLOW" ? missing : fails;
  if (state.is === "unknown") return isUnknown;
  if (state.is !== "valid") return unjudged[action][state.is];
  for (let i = 0; i < claims.length; i++) {
    if (claimHolds(state.claims, claims[i] as ClaimCheck, action) === no) return action === "ALLOW" ? lacks : fails;
  }
  return matches;
}

/** Own members only: a claim named `constructor` is not there because every object has one. */
function claimHolds(claims: Readonly<Record<string, unknown>>, check: ClaimCheck, action: Action): Holds {
  const value = Object.hasOwn(claims, check.name) ? claims[check.name] : undefined;
  if (value === undefined || value === null) return no;
  if (typeof value === "string") {
    if (check.name !== "scope" || !value.includes(" ")) return check.matches(value) ? yes : no;
    return value.split(" ").some((member) => member !== "" && check.matches(member)) ? yes : no;
  }
  if (!Array.isArray(value)) return isPlain(value) ? holdsFor(check, value) : failed(action);
  if (!value.every(isPlain)) return failed(action);
  return value.some((member) => holdsFor(check, member) === yes) ? yes : no;
}

type Plain = string | number | boolean;

function isPlain(value: unknown): value is Plain {
  return typeof value === "string" || typeof value === "number" || typeof value === "boolean";
}

function holdsFor(check: ClaimCheck, value: Plain): Holds {
  return check.matches(String(value)) ? yes : no;
}

/** Names claims, never their values. */
function show(state: TokenState, claims: readonly ClaimCheck[], action: Action): string {
  if (state.is === "absent") return "there is none";
  if (state.is === "unknown") return "only the callee can judge it";
  if (state.is === "invalid") return `it is invalid: ${state.because}`;
  if (state.is === "unavailable") return `its keys cannot be had: ${state.because}`;
  const lacking = claims.find((claim) => claimHolds(state.claims, claim, action) === no);
  return lacking === undefined ? "it is valid and has the claims" : `it lacks ${lacking.says}`;
}
