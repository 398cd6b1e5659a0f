import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { isTrustDomain, parseSpiffeId } from "../base/spiffe-id.ts";
import type { TokenClaims } from "../contract/enrollment.ts";
import { limits } from "../contract/limits.ts";
import { integer, list, object, reading, text, wrong, type Reader } from "../contract/shape.ts";
import { claimsUnverified } from "../x509/jws.ts";

/**
 * What an enrollment token says to the sidecar that holds it. Its signature cannot be checked here, and need not: whoever
 * gave us the token is trusted to say where the mesh is, and the control plane judges the token by its row.
 */
const known: Reader<TokenClaims> = object({
  jti: text(128),
  urls: (value, at) => {
    const urls = list(text(2_048, /^https:\/\/[0-9A-Za-z[\].:_-]+\/?$/, "https://HOST:PORT"), limits.urlsMax)(
      value,
      at,
    );
    if (urls.length === 0) wrong(at, "a list of at least one address");
    return urls;
  },
  roots: (value, at) => {
    const roots = list(text(64, /^[0-9a-f]{64}$/, "a SHA-256"), limits.rootsMax)(value, at);
    if (roots.length === 0) wrong(at, "a list of at least one digest");
    return roots;
  },
  trustDomain: (value, at) => {
    if (typeof value !== "string" || !isTrustDomain(value)) wrong(at, "a trust domain");
    return value;
  },
  sub: text(2_048),
  exp: integer(0, Number.MAX_SAFE_INTEGER),
});

/** The claims of a token's text; TOKEN_MALFORMED where it is none. */
export function readToken(tokenText: string): TokenClaims | Refusal {
  const not = (because: string): Refusal =>
    refuse(
      "TOKEN_MALFORMED",
      `Cannot read the enrollment token: ${because}`,
      "Hand over the whole line that was printed by: hauberk token create",
    );
  if (tokenText.length > limits.tokenMax) return not("it is too long");
  const claims: unknown = claimsUnverified(tokenText);
  if (isRefusal(claims)) return not(claims.message.replace(/^Cannot [^:]*: /, ""));
  if (typeof claims !== "object" || claims === null) return not("it carries no claims");
  const { jti, urls, roots, trustDomain, sub, exp } = claims as Record<string, unknown>;
  // Other claims are for the control plane, and for releases to come.
  const read = reading("enrollment token", known, { jti, urls, roots, trustDomain, sub, exp });
  if (isRefusal(read)) return not(read.message);
  const id = parseSpiffeId(read.sub);
  if (isRefusal(id) || id.trustDomain !== read.trustDomain) return not("its identity is not of its trust domain");
  return read;
}
