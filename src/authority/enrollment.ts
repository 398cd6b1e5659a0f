import { createPublicKey } from "node:crypto";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { randomId } from "../base/random.ts";
import { serviceId } from "../base/spiffe-id.ts";
import type { EnrollRequest, IssuedAnswer } from "../contract/enrollment.ts";
import type { InstanceRow, LeafRow, TokenRow } from "../storage/rows.ts";
import type { StoreTx } from "../storage/store.ts";
import type { CertificateRequest } from "../x509/csr.ts";
import { isP256Spki } from "../x509/keys.ts";
import { answerFor, issue, keyReused, ungranted, type Desk } from "./desk.ts";
import { fromBase64, keyHashOf, readRequest } from "./signer.ts";
import { tokenIdOf, unknownToken, whyNotRedeemed } from "./tokens.ts";

/** Enrollment (DESIGN, section 5.3): a token becomes an instance and its first leaf, in one transaction. */
export async function enroll(desk: Desk, request: EnrollRequest, from: string): Promise<IssuedAnswer | Refusal> {
  // Cheapest first: the signature over the token turns noise away before the request's own is verified.
  const token = tokenIdOf(desk, request.token);
  if (isRefusal(token)) return desk.log.refused(token, { what: "enroll", who: "unknown", from });
  const csr = readRequest(request.csr);
  if (isRefusal(csr)) return desk.log.refused(csr, { what: "enroll", who: "unknown", token, from });
  const key = readRecoveryKey(request.recoveryKey, csr);
  if (isRefusal(key)) return desk.log.refused(key, { what: "enroll", who: "unknown", token, from });
  return desk.store.write((tx) => redeem(desk, tx, { token, csr, recoveryKey: request.recoveryKey, from }));
}

interface Redemption {
  readonly token: string;
  readonly csr: CertificateRequest;
  readonly recoveryKey: string;
  readonly from: string;
}

async function redeem(desk: Desk, tx: StoreTx, asked: Redemption): Promise<IssuedAnswer | Refusal> {
  const { csr, from } = asked;
  const atMs = desk.clock.wallMs();
  const row = await tx.token(asked.token);
  if (row === undefined) {
    return desk.log.refused(unknownToken(), { what: "enroll", who: "unknown", token: asked.token, from }, tx);
  }
  const no = (refusal: Refusal) =>
    desk.log.refused(refusal, { what: "enroll", who: row.identity, token: row.id, from }, tx);
  const existing = await tx.leafByKey(keyHashOf(csr.spki));
  if (existing !== undefined) {
    const again = await repeated(tx, { row, existing, atMs, recoveryKey: asked.recoveryKey });
    return isRefusal(again) ? no(again) : answerAgain(desk, tx, { leaf: existing, row, from });
  }
  const grant = { holder: "workload", identity: row.identity, service: row.service, namespace: row.namespace } as const;
  const refusal = impossible(desk, row) ?? ungranted(desk, csr, grant);
  if (refusal !== undefined) return no(refusal);
  const life = desk.signer.lifeOf("workload", atMs);
  if (isRefusal(life)) return no(life);
  if (!(await tx.redeemToken(row.id, atMs))) return no(whyNotRedeemed(row, atMs));
  const instance = instanceOf(desk, row, { atMs, recoveryKey: asked.recoveryKey });
  await tx.insertInstance(instance);
  const leaf = await issue(desk, tx, {
    ...grant,
    owner: instance.id,
    spki: csr.spki,
    parent: null,
    token: row.id,
    life,
  });
  await desk.log.done(tx, {
    what: "enroll",
    who: row.identity,
    verdict: "issued",
    reason: "the token was redeemed",
    from,
    serial: leaf.serial,
    parent: null,
    instance: instance.id,
    token: row.id,
    notAfter: new Date(leaf.notAfterMs).toISOString(),
  });
  return answerFor(desk, leaf);
}

/** The same token with the same keys, until it expires, gets the same certificate: a lost answer burns nothing. */
async function repeated(
  tx: StoreTx,
  asked: { row: TokenRow; existing: LeafRow; atMs: number; recoveryKey: string },
): Promise<true | Refusal> {
  const { row, existing, atMs } = asked;
  if (existing.token !== row.id) return keyReused();
  if (row.revokedAtMs !== null || row.expiresAtMs <= atMs) return whyNotRedeemed(row, atMs);
  const instance = await tx.instance(existing.owner);
  if (existing.status === "revoked" || existing.notAfterMs <= atMs || instance?.recoveryKey !== asked.recoveryKey) {
    return whyNotRedeemed(row, atMs);
  }
  if (instance.lockedAtMs === null) return true;
  return refuse(
    "INSTANCE_LOCKED",
    `Cannot enroll "${row.identity}": its instance is locked: ${instance.lockedBecause ?? "no reason was given"}`,
    `Find the copy, then unlock the instance ${instance.id} or enroll anew`,
  );
}

async function answerAgain(
  desk: Desk,
  tx: StoreTx,
  asked: { leaf: LeafRow; row: TokenRow; from: string },
): Promise<IssuedAnswer> {
  const { leaf, row, from } = asked;
  await desk.log.done(tx, {
    what: "enroll",
    who: row.identity,
    verdict: "repeated",
    reason: "the same token with the same key",
    from,
    serial: leaf.serial,
    parent: null,
    instance: leaf.owner,
    token: row.id,
  });
  return answerFor(desk, leaf);
}

/** No grant leads out of the services: the shape of the identity is checked again where it is signed. */
function impossible(desk: Desk, row: TokenRow): Refusal | undefined {
  if (row.identity === serviceId(desk.trustDomain, row)) return undefined;
  return refuse(
    "GRANT_IMPOSSIBLE",
    `Cannot enroll "${row.identity}": the token's grant is no service of ${desk.trustDomain}`,
    "Make a token with hauberk token create",
  );
}

function instanceOf(desk: Desk, row: TokenRow, born: { atMs: number; recoveryKey: string }): InstanceRow {
  return {
    id: randomId(desk.random),
    identity: row.identity,
    service: row.service,
    namespace: row.namespace,
    token: row.id,
    recoveryKey: born.recoveryKey,
    createdAtMs: born.atMs,
    leafEndsAtMs: 0,
    lockedAtMs: null,
    lockedBecause: null,
    endedAtMs: null,
    recoveries: 0,
    recoveriesSinceMs: born.atMs,
  };
}

/** A P-256 key on the curve, and another one than the certificate's: it is never used for TLS. */
function readRecoveryKey(text: unknown, csr: CertificateRequest): true | Refusal {
  const not = (because: string): Refusal =>
    refuse("CSR_KEY_REFUSED", `Cannot enroll: the recovery key ${because}`, "Make a P-256 key of its own for recovery");
  const spki = fromBase64(text, 256);
  if (spki === undefined || !isP256Spki(spki)) return not("is not the base64 of an uncompressed P-256 key");
  if (spki.equals(csr.spki)) return not("is the key of the request, one of its own was wanted");
  try {
    createPublicKey({ key: spki, format: "der", type: "spki" });
    return true;
  } catch {
    return not("is not a point on P-256");
  }
}
