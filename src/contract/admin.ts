import type { Resource } from "../base/resource.ts";
import type { IssuedAnswer } from "./enrollment.ts";
import type { RouteePort, Version } from "./watch.ts";

/** What the admin API of the mesh listener carries as JSON. Every refusal is a `RefusalAnswer`. */

/** `POST /v1/tokens`: 201 with `TokenMade`. */
export interface TokenRequest {
  readonly service: string;
  /** Default `default`. */
  readonly namespace?: string;
  /** Default: the authority's. */
  readonly ttlMs?: number;
  /** How many instances may enroll with it. Default 1. */
  readonly uses?: number;
}

export interface TokenMade {
  readonly id: string;
  /** The string to hand over; it cannot be had a second time. */
  readonly token: string;
  /** The granted SPIFFE ID. */
  readonly grant: string;
  readonly expiresAtMs: number;
  readonly usesMax: number;
}

/** `GET /v1/tokens?after=&limit=` answers `{ tokens, next }`; `DELETE /v1/tokens/:id` answers 204. */
export interface TokenRow {
  readonly id: string;
  readonly grant: string;
  readonly createdAtMs: number;
  readonly createdBy: string;
  readonly expiresAtMs: number;
  readonly usesMax: number;
  readonly usesCount: number;
  readonly revokedAtMs: number | null;
}

/** `GET /v1/policies` */
export interface PoliciesAnswer {
  /** Counts up with each applied set; 0 before the first. */
  readonly revision: number;
  readonly resources: readonly Resource[];
}

/** `PUT /v1/policies`: the stored set becomes equal to this one, or nothing changes. */
export interface PoliciesRequest {
  /** The revision that the caller saw: another one answers POLICY_CONFLICT. */
  readonly revision: number;
  readonly resources: readonly Resource[];
  /** An empty set is refused (POLICY_SET_EMPTY) unless this says `true`. Default false. */
  readonly allowEmpty?: boolean;
  /** Show the difference and change nothing. Default false. */
  readonly dryRun?: boolean;
}

/** Names are `AuthorizationPolicy default/web-reads-orders`. */
export interface PoliciesApplied {
  /** After the change; the old one where nothing changed. */
  readonly revision: number;
  readonly added: readonly string[];
  readonly changed: readonly string[];
  readonly removed: readonly string[];
}

export interface EndpointRow {
  readonly instance: string;
  readonly address: string;
  readonly port: number;
  readonly ports: readonly RouteePort[];
  readonly healthy: boolean;
  readonly draining: boolean;
  readonly stale: boolean;
  /** Whether its sidecar has a stream to this control plane now. */
  readonly connected: boolean;
}

export interface ServiceRow {
  readonly service: string;
  readonly namespace: string;
  readonly id: string;
  readonly endpoints: readonly EndpointRow[];
}

/** One connected sidecar. */
export interface SidecarRow {
  readonly instance: string;
  /** What its owner calls it, `--instance`. */
  readonly name: string | null;
  readonly id: string;
  readonly release: string;
  /** Processes that carry its traffic. */
  readonly workers: number;
  readonly remoteAddress: string;
  readonly connectedAtMs: number;
  /** The version that was last sent to it; null before the first. */
  readonly sent: Version | null;
  /** The version that it runs. */
  readonly acknowledged: Version | null;
  /** The last version that it refused, and why. */
  readonly rejected: { readonly version: Version; readonly because: string } | null;
  readonly subscriptions: readonly string[];
}

/** `GET /v1/services` */
export interface ServicesAnswer {
  readonly version: Version;
  readonly services: readonly ServiceRow[];
  readonly sidecars: readonly SidecarRow[];
}

/** `GET /v1/certificates?all=true&after=&limit=` */
export interface CertificatesAnswer {
  readonly certificates: readonly CertificateRow[];
  /** Pass it as `after` for the next page; null at the end. */
  readonly next: string | null;
}

export interface CertificateRow {
  readonly serial: string;
  /** SPIFFE ID. */
  readonly id: string;
  readonly holder: "workload" | "administrator" | "control";
  /** The instance, `admin/NAME`, or `control`. */
  readonly owner: string;
  /** For workloads. */
  readonly instance: string | null;
  readonly parent: string | null;
  readonly issuedAtMs: number;
  readonly notAfterMs: number;
  readonly seenAtMs: number | null;
  readonly status: "good" | "superseded" | "revoked";
}

/**
 * `GET /v1/instances?after=&limit=` answers `{ instances, next }`; `POST /v1/instances/:id/lock` with `{ because? }`
 * and `POST /v1/instances/:id/unlock` answer 204.
 */
export interface InstanceRow {
  readonly id: string;
  /** SPIFFE ID. */
  readonly identity: string;
  readonly createdAtMs: number;
  readonly leafEndsAtMs: number;
  readonly lockedAtMs: number | null;
  readonly lockedBecause: string | null;
  readonly endedAtMs: number | null;
}

/**
 * `GET /v1/admins` answers `{ admins }`; `DELETE /v1/admins/:name` answers 204. `POST /v1/admins` with a `RenewRequest`
 * renews the calling administrator's own SVID and answers an `IssuedAnswer`.
 */
export interface AdminRow {
  readonly name: string;
  readonly createdAtMs: number;
  readonly by: string;
  readonly revokedAtMs: number | null;
}

/** What of that answer an administrator's files are made of. */
export type AdminRenewed = Pick<IssuedAnswer, "chain" | "roots" | "issuedAtMs" | "notAfterMs">;

/** `GET /v1/audit?after=&limit=`: oldest first. */
export interface AuditAnswer {
  readonly lines: readonly AuditRow[];
  readonly next: number | null;
}

export interface AuditRow {
  readonly number: number;
  readonly atMs: number;
  /** What the authority wrote: at, what, who, verdict, reason and, where there is one, code, from, serial, parent, instance. */
  readonly entry: Readonly<Record<string, unknown>>;
}

/** `GET /v1/health` on both listeners. */
export interface HealthAnswer {
  readonly status: "ok";
  readonly release: string;
  readonly wallMs: number;
}
