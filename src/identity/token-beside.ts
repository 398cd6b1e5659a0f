import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import type { TokenClaims } from "../contract/enrollment.ts";
import { fingerprintOf, type Certificate } from "../x509/certificate.ts";
import { sha256 } from "./state-folder.ts";
import { readToken } from "./token.ts";

/** A token that was given; undefined text where it cannot be looked at without taking it from whoever else reads there. */
export interface TokenAtHand {
  readonly text: string | undefined;
}

/** Whom a state folder holds: by its identity, or by what brings that back. */
export interface Holder {
  readonly folder: string;
  readonly id: string;
  readonly trustDomain: string;
  readonly roots: readonly Certificate[];
  /** SHA-256 of the token that it was enrolled with. */
  readonly tokenDigest?: string | undefined;
}

/**
 * What a token that lies beside an identity means to a start (DESIGN, section 5, sentence 1): it is ignored, so that the same unit
 * file survives a reboot. `because` says what is not obvious about that; `expected` where it is the very token that enrolled it.
 */
export interface Ignored {
  readonly because: string;
  readonly hint: string;
  readonly expected: boolean;
}

/**
 * Ignored, and how; or a refusal (USAGE) where the token is of another mesh, for a start that has no valid identity: no reboot brings those two together, and whoever
 * handed it over wants to be in that mesh and not in this one. One that has ended is nobody's wish of today: where only its root is
 * another one, which may have been replaced since, it is ignored.
 */
export function tokenBeside(token: TokenAtHand, holder: Holder, wallMs: number): Ignored | Refusal {
  const { folder, id } = holder;
  const hint = `To enroll with the token, remove ${folder} or name another with --instance or --state; to go on as it is, start without the token`;
  const ignored = (because: string, expected = false): Ignored => ({ because, hint, expected });
  if (token.text === undefined) return ignored("an identity on disk comes before a token");
  if (sha256(token.text.trim()) === holder.tokenDigest) return ignored("it has enrolled this identity", true);
  const claims = readToken(token.text);
  if (isRefusal(claims)) return ignored(claims.message);
  const ended = claims.exp * 1_000 <= wallMs;
  const stranger = whyOtherMesh(claims, holder);
  if (stranger !== undefined && (claims.trustDomain !== holder.trustDomain || !ended)) {
    return refuse("USAGE", `Cannot run "${id}" from ${folder} with this enrollment token: ${stranger}`, hint);
  }
  if (stranger !== undefined) return ignored(`${stranger}; and the token has expired`);
  if (claims.sub !== id) return ignored(`the token grants "${claims.sub}"`);
  return ignored("an identity on disk comes before a token");
}

/** Why a token does not lead to the mesh that the folder belongs to; undefined where it does. */
export function whyOtherMesh(claims: TokenClaims, holder: Pick<Holder, "trustDomain" | "roots">): string | undefined {
  const { trustDomain } = claims;
  if (trustDomain !== holder.trustDomain)
    return `the token is of the mesh "${trustDomain}", and the folder holds an identity of "${holder.trustDomain}"`;
  const own = new Set(holder.roots.map((root) => fingerprintOf(root.der)));
  if (claims.roots.some((pin) => own.has(pin))) return undefined;
  return `the token's pinned root is that of another mesh "${trustDomain}" than the folder's, as after hauberk init in a new place`;
}
