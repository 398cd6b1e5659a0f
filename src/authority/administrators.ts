import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { adminId, isLabel } from "../base/spiffe-id.ts";
import type { IssuedAnswer } from "../contract/enrollment.ts";
import type { LeafRow } from "../storage/rows.ts";
import type { StoreTx } from "../storage/store.ts";
import { answerFor, issue, keyReused, ungranted, type Desk, type PresentedLeaf } from "./desk.ts";
import { judgePresented } from "./lineage.ts";
import { keyHashOf, readRequest } from "./signer.ts";

/** Administrators: a row in the store and an SVID. There is no shared password. */
export interface AdminRequest {
  /** A label: `spiffe://<trust domain>/admin/<name>`. */
  readonly name: string;
  /** Base64 DER. */
  readonly csr: string;
  /** Who asks, for the audit log. */
  readonly by: string;
  /** Revokes the live certificates of the name instead of refusing. */
  readonly replace?: boolean;
}

const ownerOf = (name: string): string => `admin/${name}`;

export function adminNameOf(leaf: LeafRow): string {
  return leaf.owner.slice("admin/".length);
}

/** ADMINISTRATOR_EXISTS when the name has a live certificate, unless `replace`. Makes the row as well. */
export async function issueAdmin(desk: Desk, request: AdminRequest): Promise<IssuedAnswer | Refusal> {
  const { name, by } = request;
  if (!isLabel(name)) {
    return refuse(
      "GRANT_IMPOSSIBLE",
      'Cannot make an administrator: the name is not lower-case letters, digits and "-"',
      "Choose a name such as ann",
    );
  }
  const identity = adminId(desk.trustDomain, name);
  const csr = readRequest(request.csr);
  if (isRefusal(csr)) return desk.log.refused(csr, { what: "admin-issue", who: identity });
  return desk.store.write(async (tx) => {
    const atMs = desk.clock.wallMs();
    const no = (refusal: Refusal) => desk.log.refused(refusal, { what: "admin-issue", who: identity }, tx);
    if (await tx.leafByKey(keyHashOf(csr.spki))) return no(keyReused());
    const names = ungranted(desk, csr, { holder: "administrator", identity });
    if (names !== undefined) return no(names);
    const owner = ownerOf(name);
    if (request.replace !== true && (await tx.ownerHasLiveLeaf(owner, { afterMs: atMs, seen: false }))) {
      return no(exists(name));
    }
    const life = desk.signer.lifeOf("administrator", atMs);
    if (isRefusal(life)) return no(life);
    await tx.revokeLeaves(owner);
    if ((await tx.admin(name)) === undefined) await tx.insertAdmin({ name, createdAtMs: atMs, by, revokedAtMs: null });
    else await tx.setAdminRevoked(name, null);
    const leaf = await issue(desk, tx, {
      holder: "administrator",
      owner,
      identity,
      spki: csr.spki,
      parent: null,
      token: null,
      life,
    });
    const notAfter = new Date(leaf.notAfterMs).toISOString();
    const reason = `asked for by ${by}`;
    await desk.log.done(tx, {
      what: "admin-issue",
      who: identity,
      verdict: "issued",
      reason,
      serial: leaf.serial,
      parent: null,
      notAfter,
    });
    return answerFor(desk, leaf);
  });
}

function exists(name: string): Refusal {
  return refuse(
    "ADMINISTRATOR_EXISTS",
    `Cannot make the administrator "${name}": the name has a live certificate`,
    "Use that one, or issue with another name",
  );
}

export async function revokeAdmin(desk: Desk, name: string, by: string): Promise<true | Refusal> {
  return desk.store.write(async (tx) => {
    if (!(await tx.setAdminRevoked(name, desk.clock.wallMs()))) {
      return refuse("NOT_FOUND", "Cannot revoke the administrator: there is none of this name", "List them first");
    }
    await tx.revokeLeaves(ownerOf(name));
    await desk.log.done(tx, {
      what: "admin-revoke",
      who: adminId(desk.trustDomain, name),
      verdict: "done",
      reason: `revoked by ${by}`,
    });
    return true;
  });
}

/** NOT_AN_ADMINISTRATOR unless the leaf is a live one of an administrator who was not revoked. */
export async function adminOf(desk: Desk, shown: PresentedLeaf): Promise<{ readonly name: string } | Refusal> {
  const lineage = await desk.store.lineage(shown.serial);
  if (lineage?.leaf.holder !== "administrator") return notAnAdmin("the certificate is no administrator's");
  const judged = judgePresented(lineage, { keyHash: keyHashOf(shown.spki), atMs: desk.clock.wallMs() });
  if (judged.is === "refused") return notAnAdmin("the certificate has ended, was revoked or is unknown");
  return liveAdmin(desk.store, lineage.leaf);
}

/** The administrator of a leaf, unless revoked. */
export async function liveAdmin(
  reads: Pick<StoreTx, "admin">,
  leaf: LeafRow,
): Promise<{ readonly name: string } | Refusal> {
  const name = adminNameOf(leaf);
  const row = await reads.admin(name);
  return row !== undefined && row.revokedAtMs === null ? { name } : notAnAdmin("the administrator was revoked");
}

function notAnAdmin(because: string): Refusal {
  return refuse(
    "NOT_AN_ADMINISTRATOR",
    `Cannot act as an administrator: ${because}`,
    "Run hauberk admin issue NAME on the control plane's machine",
  );
}
