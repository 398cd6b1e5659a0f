import { createPublicKey, verify } from "node:crypto";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { recoveryStatement, type IssuedAnswer, type RecoverRequest } from "../contract/enrollment.ts";
import type { InstanceRow, LeafRow } from "../storage/rows.ts";
import type { StoreTx } from "../storage/store.ts";
import type { CertificateRequest } from "../x509/csr.ts";
import { answerFor, issue, keyReused, ungranted, type Desk } from "./desk.ts";
import { fromBase64, keyHashOf, readRequest } from "./signer.ts";

/**
 * Coming back (DESIGN, section 5.6): an instance whose leaf expired proves its recovery key and gets a new leaf,
 * the first of a new line. Bounded, audited, and nothing where the option says so.
 */
export function recoverChallenge(desk: Desk): { readonly challenge: string } | Refusal {
  return desk.options.recovery ? { challenge: desk.challenges.make() } : disabled();
}

export async function recover(desk: Desk, request: RecoverRequest, from: string): Promise<IssuedAnswer | Refusal> {
  const who =
    typeof request.instance === "string" && /^[0-9a-f]{32}$/.test(request.instance) ? request.instance : "unknown";
  const no = (refusal: Refusal) => desk.log.refused(refusal, { what: "recover", who, from });
  if (!desk.options.recovery) return no(disabled());
  const challenge = typeof request.challenge === "string" ? request.challenge : "";
  const fault = desk.challenges.faultOf(challenge);
  if (fault !== undefined) return no(refused(fault, "Ask for a new challenge"));
  const csr = readRequest(request.csr);
  if (isRefusal(csr)) return no(csr);
  const instance = await desk.store.instance(who);
  if (instance === undefined || !isProven(instance, request)) {
    // The same words for an instance that does not exist: nobody learns which do.
    return no(refused("the proof of the recovery key does not hold", "Enroll with a token"));
  }
  // Two answers to one challenge may arrive together: the first that gets here has used it.
  const late =
    desk.challenges.faultOf(challenge) ?? (desk.challenges.use(challenge) ? undefined : "too many recover at once");
  if (late !== undefined) return no(refused(late, "Ask for a new challenge"));
  return desk.store.write((tx) => recoverIn(desk, tx, { instance: instance.id, csr, from }));
}

function isProven(instance: InstanceRow, request: RecoverRequest): boolean {
  const signature = fromBase64(request.signature, 256);
  if (signature === undefined) return false;
  const key = createPublicKey({ key: Buffer.from(instance.recoveryKey, "base64"), format: "der", type: "spki" });
  return verify("sha256", recoveryStatement(request.challenge, request.csr), key, signature);
}

async function recoverIn(
  desk: Desk,
  tx: StoreTx,
  asked: { instance: string; csr: CertificateRequest; from: string },
): Promise<IssuedAnswer | Refusal> {
  const { csr, from } = asked;
  const atMs = desk.clock.wallMs();
  const instance = await tx.instance(asked.instance);
  if (instance === undefined) return refused("the instance is gone", "Enroll with a token");
  const entry = { what: "recover", who: instance.identity, instance: instance.id, from };
  const no = (refusal: Refusal) => desk.log.refused(refusal, entry, tx);
  const barred = barredBecause(instance);
  if (barred !== undefined) return no(barred);
  const existing = await tx.leafByKey(keyHashOf(csr.spki));
  if (existing !== undefined) {
    if (!isRepeat(existing, instance, atMs)) return no(keyReused());
    const reason = "the same instance with the same key";
    await desk.log.done(tx, { ...entry, verdict: "repeated", reason, serial: existing.serial, parent: null });
    return answerFor(desk, existing);
  }
  if (csr.spki.toString("base64") === instance.recoveryKey) return no(keyReused());
  const { identity, service, namespace } = instance;
  const grant = { holder: "workload", identity, service, namespace } as const;
  const names = ungranted(desk, csr, grant);
  if (names !== undefined) return no(names);
  // A clock that is a little ahead has seen its leaf end; one that is far off is no reason for a second line.
  if (await tx.ownerHasLiveLeaf(instance.id, { afterMs: atMs + desk.signer.skewMs, seen: true })) {
    return no(
      refused("the instance has a valid certificate that is in use", "Renew with that one, or enroll with a token"),
    );
  }
  const life = desk.signer.lifeOf("workload", atMs);
  if (isRefusal(life)) return no(life);
  const { recoveryWindowMs: windowMs, recoveriesMax: max } = desk.options;
  if (!(await tx.countRecovery(instance.id, { atMs, windowMs, max }))) {
    return no(refused(`it recovered ${max} times within ${windowMs} ms`, "Find out why, or enroll with a token"));
  }
  // What was issued and never used is worth nothing from now on.
  await tx.supersedeUnseen(instance.id, atMs);
  const leaf = await issue(desk, tx, { ...grant, owner: instance.id, spki: csr.spki, parent: null, token: null, life });
  const notAfter = new Date(leaf.notAfterMs).toISOString();
  const reason = "the recovery key was proven";
  await desk.log.done(tx, { ...entry, verdict: "issued", reason, serial: leaf.serial, parent: null, notAfter });
  return answerFor(desk, leaf);
}

function isRepeat(leaf: LeafRow, instance: InstanceRow, atMs: number): boolean {
  const first = leaf.parent === null && leaf.token === null;
  return first && leaf.owner === instance.id && leaf.status === "good" && leaf.notAfterMs > atMs;
}

function barredBecause(instance: InstanceRow): Refusal | undefined {
  if (instance.endedAtMs !== null) return refused("the instance has ended", "Enroll with a token");
  if (instance.lockedAtMs === null) return undefined;
  return refuse(
    "INSTANCE_LOCKED",
    `Cannot recover: the instance is locked: ${instance.lockedBecause ?? "no reason was given"}`,
    `Find the copy, then unlock the instance ${instance.id} or enroll anew`,
  );
}

function refused(because: string, hint: string): Refusal {
  return refuse("RECOVERY_REFUSED", `Cannot recover: ${because}`, hint);
}

function disabled(): Refusal {
  return refuse("RECOVERY_DISABLED", "Cannot recover: this mesh lets nobody recover by key", "Enroll with a token");
}
