import type { Registration, Version } from "../contract/watch.ts";

/** What the store keeps, as plain frozen data. Times are milliseconds since 1970, serials lower-case hexadecimal. */

export interface StoreMeta {
  readonly trustDomain: string;
  /** Counter: bumped in the transaction of every change that a snapshot could show. */
  readonly version: Version;
  readonly bundleSequence: number;
  /** Of the roots that `bundleSequence` stands for; "" before the first. */
  readonly bundleDigest: string;
}

/** The right to one identity. What a token grants is read from here, never from its text. */
export interface TokenRow {
  readonly id: string;
  /** The granted SPIFFE ID. */
  readonly identity: string;
  readonly service: string;
  readonly namespace: string;
  readonly createdAtMs: number;
  readonly expiresAtMs: number;
  /** How many instances it may enroll. */
  readonly usesMax: number;
  readonly uses: number;
  /** When it was last redeemed, or null. */
  readonly usedAtMs: number | null;
  readonly revokedAtMs: number | null;
  /** Who made it. */
  readonly by: string;
}

/** One enrolled copy of a workload. */
export interface InstanceRow {
  readonly id: string;
  readonly identity: string;
  readonly service: string;
  readonly namespace: string;
  /** The token that it came with. */
  readonly token: string;
  /** SPKI of the recovery key, base64 DER. */
  readonly recoveryKey: string;
  readonly createdAtMs: number;
  /** The latest notAfter of its leaves. */
  readonly leafEndsAtMs: number;
  readonly lockedAtMs: number | null;
  readonly lockedBecause: string | null;
  readonly endedAtMs: number | null;
  /** Recoveries in the window that began at `recoveriesSinceMs`. */
  readonly recoveries: number;
  readonly recoveriesSinceMs: number;
}

export type LeafHolder = "workload" | "administrator" | "control";

export interface LeafRow {
  readonly serial: string;
  readonly holder: LeafHolder;
  /** The instance's id, "admin/<name>", or "control". */
  readonly owner: string;
  /** The leaf that it was renewed from; null after an enrollment or a recovery. */
  readonly parent: string | null;
  /** The token that it was enrolled with, else null. */
  readonly token: string | null;
  /** SHA-256 of the SPKI, lower-case hexadecimal. No two leaves have the same key. */
  readonly keyHash: string;
  /** When the authority signed it; life counts from here. */
  readonly issuedAtMs: number;
  readonly notAfterMs: number;
  /** When it was first presented on a connection, or null. */
  readonly seenAtMs: number | null;
  /** The serial of its first child that was seen, or null: from then on nothing else may renew from it. */
  readonly childSeen: string | null;
  /** `superseded`: issued, never seen, and replaced by a recovery. `revoked`: withdrawn by a decision. */
  readonly status: "good" | "superseded" | "revoked";
  /** The certificate, so that a repeated request gets the same one again. */
  readonly der: Uint8Array;
}

export interface AdminRow {
  readonly name: string;
  readonly createdAtMs: number;
  readonly by: string;
  readonly revokedAtMs: number | null;
}

/** The whole set of resources; revision 0 is the empty set of a fresh mesh. */
export interface PolicySetRow {
  readonly revision: number;
  /** A JSON array of resources. */
  readonly json: string;
  readonly changedAtMs: number;
  readonly by: string;
}

export interface RegistrationRow {
  readonly instance: string;
  readonly service: string;
  readonly namespace: string;
  readonly registration: Registration;
  /** Its lease ended, but it is the last endpoint of its service. */
  readonly stale: boolean;
  readonly changedAtMs: number;
}

/** One decision of the authority. */
export interface AuditRow {
  readonly seq: number;
  readonly atMs: number;
  /** One JSON object without line breaks. */
  readonly line: string;
}

/** Keyset paging: rows after this key, in the order of the key. */
export interface Page<K = string> {
  readonly after?: K;
  /** 1 to 10,000; 1,000 by default. */
  readonly limit?: number;
}

/** A leaf with all that decides whether it may go on. */
export interface Lineage {
  readonly leaf: LeafRow;
  /** Undefined for leaves that belong to no instance. */
  readonly instance: InstanceRow | undefined;
  /** The serial of the first seen child of this leaf's parent, or null. */
  readonly siblingSeen: string | null;
}
