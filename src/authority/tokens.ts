import { createPublicKey, type KeyObject } from "node:crypto";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { randomId } from "../base/random.ts";
import { isLabel, serviceId, type ServiceName } from "../base/spiffe-id.ts";
import type { TokenClaims } from "../contract/enrollment.ts";
import type { TokenRow } from "../storage/rows.ts";
import { fingerprintOf } from "../x509/certificate.ts";
import { readCompact, signCompact } from "../x509/jws.ts";
import { authorityOptions } from "./options.ts";
import type { Desk } from "./desk.ts";

/** Enrollment tokens. The row is the right; the text is a way to find it, signed so that noise is turned away early. */
export interface TokenRequest {
  readonly service: ServiceName;
  /** `tokenLifetimeMs` by default. */
  readonly lifetimeMs?: number;
  /** 1 by default, 10,000 at most. */
  readonly uses?: number;
  /** Enrollment URLs for the token's text; those announced by default. */
  readonly urls?: readonly string[];
  /** Who asks, for the audit log: "admin/ann". */
  readonly by: string;
}

export interface CreatedToken {
  /** The compact JWS: shown once, stored nowhere. */
  readonly token: string;
  readonly row: TokenRow;
}

const tokenType = "hauberk-enrollment+jwt";
const tokenLengthMax = 8_192;
const usesMost = 10_000;

/** GRANT_IMPOSSIBLE for a service that has no identity, USAGE for numbers out of range or without a URL. */
export async function createToken(desk: Desk, request: TokenRequest): Promise<CreatedToken | Refusal> {
  const { service, uses = 1, lifetimeMs = desk.options.tokenLifetimeMs, urls = desk.urls.enrollment } = request;
  if (!isLabel(service.service) || !isLabel(service.namespace)) {
    return refuse(
      "GRANT_IMPOSSIBLE",
      'Cannot grant an identity: service and namespace are not lower-case letters, digits and "-"',
      "Name a service such as orders, or orders.shop",
    );
  }
  const wrong = usage(uses, lifetimeMs, urls);
  if (wrong !== undefined) return wrong;
  const atMs = desk.clock.wallMs();
  const row: TokenRow = {
    id: randomId(desk.random),
    identity: serviceId(desk.trustDomain, service),
    service: service.service,
    namespace: service.namespace,
    createdAtMs: atMs,
    expiresAtMs: atMs + lifetimeMs,
    usesMax: uses,
    uses: 0,
    usedAtMs: null,
    revokedAtMs: null,
    by: request.by,
  };
  await desk.store.write(async (tx) => {
    await tx.insertToken(row);
    const reason = `${uses} use${uses === 1 ? "" : "s"} until ${new Date(row.expiresAtMs).toISOString()}, by ${row.by}`;
    await desk.log.done(tx, { what: "token-create", who: row.identity, verdict: "done", reason, token: row.id });
  });
  return { token: textOf(desk, row, urls), row };
}

function usage(uses: number, lifetimeMs: number, urls: readonly string[]): Refusal | undefined {
  const { min, max } = authorityOptions.tokenLifetimeMs;
  const not = (because: string): Refusal =>
    refuse("USAGE", `Cannot create a token: ${because}`, "See hauberk token create --help");
  if (!Number.isSafeInteger(uses) || uses < 1 || uses > usesMost) return not(`uses are not 1 to ${usesMost}`);
  if (!Number.isSafeInteger(lifetimeMs) || lifetimeMs < min || lifetimeMs > max) {
    return not(`its life is not ${min / 1_000} s to ${max / 86_400_000} days`);
  }
  if (urls.length === 0 || urls.length > 16) return not("it needs 1 to 16 enrollment URLs");
  const bad = urls.find((url) => url.length > 256 || !/^https:\/\/[^\s/?#@]+$/.test(url));
  return bad === undefined ? undefined : not(`"${bad}" is not of the form https://HOST:PORT`);
}

function textOf(desk: Desk, row: TokenRow, urls: readonly string[]): string {
  const claims: TokenClaims = {
    jti: row.id,
    urls,
    roots: desk.ca.roots.map((root) => fingerprintOf(root.der)),
    trustDomain: desk.trustDomain,
    sub: row.identity,
    exp: Math.ceil(row.expiresAtMs / 1_000),
  };
  return signCompact(claims, desk.ca.tokenKey, { typ: tokenType });
}

export async function revokeToken(desk: Desk, id: string, by: string): Promise<true | Refusal> {
  const atMs = desk.clock.wallMs();
  return desk.store.write(async (tx) => {
    const row = await tx.token(id);
    if (row === undefined) {
      return refuse(
        "NOT_FOUND",
        "Cannot revoke the token: there is none with this id",
        "List them: hauberk token list",
      );
    }
    if (await tx.revokeToken(id, atMs)) {
      const reason = `revoked by ${by}`;
      await desk.log.done(tx, { what: "token-revoke", who: row.identity, verdict: "done", reason, token: id });
    }
    return true;
  });
}

const publicKeys = new WeakMap<KeyObject, KeyObject>();

/** The row that a text names. TOKEN_MALFORMED or TOKEN_UNKNOWN; nothing but the id is taken from the text. */
export function tokenIdOf(desk: Desk, text: unknown): string | Refusal {
  const key = publicKeys.get(desk.ca.tokenKey) ?? createPublicKey(desk.ca.tokenKey);
  publicKeys.set(desk.ca.tokenKey, key);
  const claims = readCompact(typeof text === "string" ? text : "", key, { lengthMax: tokenLengthMax, typ: tokenType });
  if (isRefusal(claims)) return claims;
  const id = claims["jti"];
  return typeof id === "string" && /^[0-9a-f]{32}$/.test(id) ? id : unknownToken();
}

export function unknownToken(): Refusal {
  return refuse(
    "TOKEN_UNKNOWN",
    "Cannot enroll: the authority has no such token",
    "Make one at this mesh: hauberk token create --service NAME",
  );
}

/** Why a token was not redeemed, once it was not. */
export function whyNotRedeemed(row: TokenRow, atMs: number): Refusal {
  const hint = `Ask for a new one: hauberk token create --service ${row.service}.${row.namespace}`;
  if (row.revokedAtMs !== null) {
    return refuse(
      "TOKEN_REVOKED",
      `Cannot enroll "${row.identity}": its token was revoked at ${new Date(row.revokedAtMs).toISOString()}`,
      hint,
    );
  }
  if (row.expiresAtMs <= atMs) {
    return refuse(
      "TOKEN_EXPIRED",
      `Cannot enroll "${row.identity}": its token ended at ${new Date(row.expiresAtMs).toISOString()}`,
      hint,
    );
  }
  const used = row.usedAtMs === null ? "" : `, last at ${new Date(row.usedAtMs).toISOString()}`;
  return refuse(
    "TOKEN_ALREADY_USED",
    `Cannot enroll "${row.identity}": its token was used ${row.uses} of ${row.usesMax} times${used}`,
    hint,
  );
}
