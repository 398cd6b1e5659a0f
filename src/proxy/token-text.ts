import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { jwtAlgorithms } from "../base/jwt-algorithms.ts";
import type { JwtProvider } from "../policy/resource.ts";

/** What a compact JWS says before anybody verified it: only for choosing keys and for refusing early. */
export interface TokenText {
  readonly algorithm: string;
  readonly keyId: string | undefined;
  readonly issuer: string | undefined;
}

/** As a policy may list them; looked at again here, because a snapshot comes over the network. */
export const signatureAlgorithms: ReadonlySet<string> = new Set(jwtAlgorithms);

const depthMax = 16;
const part = /^[A-Za-z0-9_-]+$/;
/** RFC 8725, 3.11: a token of another kind (logout, DPoP, security event) is no access token. */
const kinds: ReadonlySet<string> = new Set(["jwt", "at+jwt", "application/jwt", "application/at+jwt"]);

/** Reads a token's header and issuer strictly. */
function readTokenText(token: string): TokenText | Refusal {
  const parts = token.split(".");
  if (parts.length !== 3 || !parts.every((text) => part.test(text))) return not("it is not three parts of base64url");
  const header = readObject(parts[0] as string);
  if (header === undefined) return not("its header is no JSON object");
  const claims = readObject(parts[1] as string);
  if (claims === undefined) return not(`its claims are no JSON object of at most ${depthMax} levels`);
  if (typeof header["alg"] !== "string") return not("its header names no algorithm");
  if (header["crit"] !== undefined) return not("its header has critical extensions, and none is known here");
  if (header["b64"] !== undefined) return not("its header has b64, which RFC 7797 forbids for JWTs");
  const { typ, kid } = header;
  if (typ !== undefined && (typeof typ !== "string" || !kinds.has(typ.toLowerCase()))) return not("its typ is not JWT");
  if (kid !== undefined && (typeof kid !== "string" || kid.length > 256)) return not("its key id is no short text");
  const issuer = claims["iss"];
  return { algorithm: header["alg"], keyId: kid, issuer: typeof issuer === "string" ? issuer : undefined };
}

/**
 * Whether `token` may be shown to `provider` at all. `absent` is for a token of another known provider: it is no token of
 * this one, so a rule about this provider sees none (RFC 8725, 3.8; the provider is bound to the rule). An issuer that no
 * provider has is an error, and errors fail closed.
 */
export function judgeText(
  token: string,
  provider: JwtProvider,
  issuers: ReadonlySet<string>,
): TokenText | "absent" | Refusal {
  const text = readTokenText(token);
  if (isRefusal(text)) return text;
  if (text.issuer !== provider.issuer) {
    if (text.issuer !== undefined && issuers.has(text.issuer)) return "absent";
    return not("its issuer is not the provider's");
  }
  if (!signatureAlgorithms.has(text.algorithm) || !provider.algorithms.includes(text.algorithm)) {
    return not("its algorithm is not one of the provider's");
  }
  return text;
}

function not(because: string): Refusal {
  return refuse("JWT_INVALID", `Cannot accept the token: ${because}`, "Ask the token's issuer for a new one");
}

function readObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(text, "base64url").toString("utf8"));
    if (typeof value !== "object" || value === null || Array.isArray(value) || !isShallow(value, 1)) return undefined;
    return value as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

function isShallow(value: object, depth: number): boolean {
  if (depth > depthMax) return false;
  for (const inner of Object.values(value)) {
    if (typeof inner === "object" && inner !== null && !isShallow(inner as object, depth + 1)) return false;
  }
  return true;
}
