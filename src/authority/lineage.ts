import { refuse, type Refusal } from "../base/errors.ts";
import type { Lineage } from "../storage/rows.ts";

/**
 * Who may go on with a leaf (DESIGN, section 5.5), as a pure decision over what the store knows.
 * Each leaf has at most one line of descent that is in use. When a second one shows up, there are two copies of the
 * state: the instance is locked, and nobody else.
 */
export type Judgement =
  | { readonly is: "good" }
  | { readonly is: "refused"; readonly refusal: Refusal }
  | { readonly is: "clone"; readonly because: string };

const good: Judgement = { is: "good" };

/** May a connection be made with this leaf? `keyHash` is that of the certificate that was shown. */
export function judgePresented(lineage: Lineage | undefined, shown: { keyHash: string; atMs: number }): Judgement {
  if (lineage === undefined) return refused("LEAF_UNKNOWN", "the authority does not know it", "Enroll with a token");
  const { leaf, instance } = lineage;
  // The serial is of our choosing, the key is what the peer has proven: both have to be of the same row.
  if (leaf.keyHash !== shown.keyHash) {
    return refused("LEAF_UNKNOWN", "its serial belongs to another key", "Enroll with a token");
  }
  if (leaf.status === "revoked") return refused("LEAF_UNKNOWN", "it was revoked", "Enroll with a token");
  if (leaf.notAfterMs <= shown.atMs) {
    return refused(
      "LEAF_EXPIRED",
      `it ended at ${new Date(leaf.notAfterMs).toISOString()}`,
      "Recover, or enroll with a token",
    );
  }
  if (leaf.holder !== "workload") return good;
  if (instance === undefined || instance.endedAtMs !== null) {
    return refused("LEAF_UNKNOWN", "its instance has ended", "Enroll with a token");
  }
  if (instance.lockedAtMs !== null) {
    const because = `its instance is locked: ${instance.lockedBecause ?? "no reason was given"}`;
    return refused("INSTANCE_LOCKED", because, `Find the copy, then unlock the instance ${instance.id} or enroll anew`);
  }
  if (leaf.status === "superseded") return { is: "clone", because: "it was replaced by a recovery, and shows up now" };
  if (lineage.siblingSeen !== null) return { is: "clone", because: "another leaf of the same parent is in use" };
  return good;
}

/** May it be renewed? A parent whose child was seen may not: whoever holds the child is further on. */
export function judgeRenewal(lineage: Lineage | undefined, shown: { keyHash: string; atMs: number }): Judgement {
  const judged = judgePresented(lineage, shown);
  if (judged.is !== "good" || lineage?.leaf.holder !== "workload" || lineage.leaf.childSeen === null) return judged;
  return { is: "clone", because: "its successor is in use already" };
}

function refused(code: "LEAF_UNKNOWN" | "LEAF_EXPIRED" | "INSTANCE_LOCKED", because: string, hint: string): Judgement {
  return { is: "refused", refusal: refuse(code, `Cannot accept the certificate: ${because}`, hint) };
}
