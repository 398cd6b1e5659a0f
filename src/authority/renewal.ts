import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { adminId } from "../base/spiffe-id.ts";
import type { IssuedAnswer, RenewRequest } from "../contract/enrollment.ts";
import type { InstanceRow, LeafRow, Lineage } from "../storage/rows.ts";
import type { StoreTx } from "../storage/store.ts";
import type { CertificateRequest } from "../x509/csr.ts";
import { adminNameOf, liveAdmin } from "./administrators.ts";
import { answerFor, issue, keyReused, ungranted, type Desk, type PresentedLeaf } from "./desk.ts";
import { judgePresented, judgeRenewal, type Judgement } from "./lineage.ts";
import { keyHashOf, readRequest } from "./signer.ts";

/** Who stands behind a leaf that the authority signed. */
export type Standing =
  | {
      readonly is: "workload";
      readonly serial: string;
      readonly instance: string;
      readonly identity: string;
      readonly service: string;
      readonly namespace: string;
      readonly issuedAtMs: number;
      readonly notAfterMs: number;
    }
  | { readonly is: "administrator"; readonly serial: string; readonly name: string; readonly notAfterMs: number }
  | { readonly is: "control"; readonly serial: string; readonly notAfterMs: number };

interface Renewal {
  readonly shown: PresentedLeaf;
  readonly csr: CertificateRequest;
  readonly keyHash: string;
  readonly from: string;
}

/**
 * Renewal (DESIGN, sections 5.4 and 5.5): a fresh key, the names of the instance's row, one line of descent.
 * The request comes over a connection made with the leaf, which therefore counts as seen.
 */
export async function renew(
  desk: Desk,
  asked: { shown: PresentedLeaf; request: RenewRequest; from: string },
): Promise<IssuedAnswer | Refusal> {
  const csr = readRequest(asked.request.csr);
  if (isRefusal(csr)) {
    return desk.log.refused(csr, { what: "renew", who: "unknown", parent: asked.shown.serial, from: asked.from });
  }
  const renewal = { shown: asked.shown, csr, keyHash: keyHashOf(csr.spki), from: asked.from };
  return desk.store.write((tx) => renewIn(desk, tx, renewal));
}

async function renewIn(desk: Desk, tx: StoreTx, renewal: Renewal): Promise<IssuedAnswer | Refusal> {
  const { shown, csr } = renewal;
  const atMs = desk.clock.wallMs();
  const presented = { keyHash: keyHashOf(shown.spki), atMs };
  const lineage = await tx.lineage(shown.serial);
  const repeat = await tx.leafByKey(renewal.keyHash);
  // A lost answer, asked for again with the same key, gives nothing new away: it is no clone's doing.
  const isRepeat = repeat !== undefined && repeat.parent === shown.serial && repeat.status === "good";
  const judged = isRepeat ? judgePresented(lineage, presented) : judgeRenewal(lineage, presented);
  const refusal = await refusalOf(desk, tx, { judged, lineage, shown, from: renewal.from, what: "renew" });
  if (refusal !== undefined) return refusal;
  const { leaf, instance } = lineage as Lineage;
  const no = (refusal: Refusal) =>
    desk.log.refused(refusal, { ...about(lineage), what: "renew", parent: shown.serial, from: renewal.from }, tx);
  const grant = await grantOf(desk, tx, { leaf, instance });
  if (isRefusal(grant)) return no(grant);
  if (leaf.seenAtMs === null) await tx.markSeen(leaf.serial, atMs);
  if (isRepeat && repeat.notAfterMs > atMs) {
    await logIssued(desk, tx, { leaf: repeat, who: grant.identity, verdict: "repeated", from: renewal.from });
    return answerFor(desk, repeat);
  }
  if (repeat !== undefined || isRecoveryKey(csr, instance)) return no(keyReused());
  const names = ungranted(desk, csr, grant);
  if (names !== undefined) return no(names);
  const life = desk.signer.lifeOf(leaf.holder, atMs);
  if (isRefusal(life)) return no(life);
  const wish = { ...grant, owner: leaf.owner, spki: csr.spki, parent: leaf.serial, token: null, life };
  const child = await issue(desk, tx, wish);
  await logIssued(desk, tx, { leaf: child, who: grant.identity, verdict: "issued", from: renewal.from });
  return answerFor(desk, child);
}

/** Names come from the row of the instance or the administrator, never from the certificate that was shown. */
async function grantOf(desk: Desk, tx: StoreTx, of: { leaf: LeafRow; instance: InstanceRow | undefined }) {
  const { leaf, instance } = of;
  if (leaf.holder === "workload" && instance !== undefined) {
    const { identity, service, namespace } = instance;
    return { holder: "workload", identity, service, namespace } as const;
  }
  if (leaf.holder === "administrator") {
    const admin = await liveAdmin(tx, leaf);
    if (isRefusal(admin)) return admin;
    return { holder: "administrator", identity: adminId(desk.trustDomain, admin.name) } as const;
  }
  return refuse(
    "NOT_A_WORKLOAD",
    "Cannot renew: the certificate is the control plane's own",
    "Use a workload's or an administrator's certificate",
  );
}

/** The recovery key is never used for TLS. */
function isRecoveryKey(csr: CertificateRequest, instance: InstanceRow | undefined): boolean {
  return instance !== undefined && csr.spki.toString("base64") === instance.recoveryKey;
}

async function logIssued(
  desk: Desk,
  tx: StoreTx,
  issued: { leaf: LeafRow; who: string; verdict: "issued" | "repeated"; from: string },
): Promise<void> {
  const { leaf } = issued;
  await desk.log.done(tx, {
    what: "renew",
    who: issued.who,
    verdict: issued.verdict,
    reason: issued.verdict === "issued" ? "the parent may renew" : "the same parent with the same key",
    from: issued.from,
    serial: leaf.serial,
    parent: leaf.parent,
    instance: leaf.owner,
    notAfter: new Date(leaf.notAfterMs).toISOString(),
  });
}

/** Whom a lineage is about, for the audit log. */
function about(lineage: Lineage | undefined): { who: string; instance?: string } {
  if (lineage === undefined) return { who: "unknown" };
  return { who: lineage.instance?.identity ?? lineage.leaf.owner, instance: lineage.leaf.owner };
}

/** Writes down what a judgement means, and locks where it found a clone. Undefined where the leaf may go on. */
async function refusalOf(
  desk: Desk,
  tx: StoreTx,
  found: { judged: Judgement; lineage: Lineage | undefined; shown: PresentedLeaf; from: string; what: string },
): Promise<Refusal | undefined> {
  const { judged, lineage, shown, from, what } = found;
  if (judged.is === "good") return undefined;
  const entry = {
    ...about(lineage),
    what,
    from,
    ...(what === "renew" ? { parent: shown.serial } : { serial: shown.serial }),
  };
  if (judged.is === "refused") return desk.log.refused(judged.refusal, entry, tx);
  const instance = lineage?.leaf.owner ?? "";
  const because = `a clone of it showed up: ${judged.because}`;
  await tx.lockInstance(instance, { atMs: desk.clock.wallMs(), because });
  const refusal = refuse(
    "CLONE_DETECTED",
    `Cannot accept the certificate: ${judged.because}, so there are two copies of the instance's state`,
    `Find the copy; then unlock the instance ${instance}, or enroll one of them with a token of its own`,
  );
  // Never left out, whatever the rate.
  await desk.log.done(tx, { ...entry, verdict: "refused", code: refusal.code, reason: refusal.message });
  return refusal;
}

/** Who shows this leaf, and may it go on? Reads only, but for the first time that a leaf shows up. */
export async function seen(desk: Desk, shown: PresentedLeaf, from: string): Promise<Standing | Refusal> {
  const atMs = desk.clock.wallMs();
  const presented = { keyHash: keyHashOf(shown.spki), atMs };
  const lineage = await desk.store.lineage(shown.serial);
  const known = lineage !== undefined && (lineage.leaf.holder !== "workload" || lineage.leaf.seenAtMs !== null);
  if (known && judgePresented(lineage, presented).is === "good") return standingOf(desk.store, lineage);
  return desk.store.write(async (tx) => {
    const current = await tx.lineage(shown.serial);
    const judged = judgePresented(current, presented);
    const refusal = await refusalOf(desk, tx, { judged, lineage: current, shown, from, what: "connect" });
    if (refusal !== undefined) return refusal;
    await tx.markSeen(shown.serial, atMs);
    return standingOf(tx, current as Lineage);
  });
}

async function standingOf(reads: Pick<StoreTx, "admin">, { leaf, instance }: Lineage): Promise<Standing | Refusal> {
  const { serial, notAfterMs, issuedAtMs } = leaf;
  if (leaf.holder === "control") return { is: "control", serial, notAfterMs };
  if (leaf.holder === "administrator") {
    const admin = await liveAdmin(reads, leaf);
    return isRefusal(admin) ? admin : { is: "administrator", serial, name: adminNameOf(leaf), notAfterMs };
  }
  const { id, identity, service, namespace } = instance as InstanceRow;
  return { is: "workload", serial, instance: id, identity, service, namespace, issuedAtMs, notAfterMs };
}
