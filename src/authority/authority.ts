import type { Clock } from "../base/clock.ts";
import type { Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { Random } from "../base/random.ts";
import type { ServiceName } from "../base/spiffe-id.ts";
import type { EnrollRequest, IssuedAnswer, RecoverRequest, RenewRequest, RootsAnswer } from "../contract/enrollment.ts";
import type { BundleView } from "../contract/watch.ts";
import type { AdminRow, AuditRow, InstanceRow, LeafRow, Page, TokenRow } from "../storage/rows.ts";
import type { Pruned, Store } from "../storage/store.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import type { authorityOptions } from "./options.ts";

export interface AuthorityContext {
  readonly store: Store;
  /** `ca` of a mesh home: profiles, certificates, sealed keys. */
  readonly caFolder: string;
  /** The issuing passphrase; the root's is never asked for. */
  readonly passphrase: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly options: OptionValues<typeof authorityOptions>;
  /** Where the listeners answer; may be set later with `announce`. */
  readonly urls?: Urls;
}

export interface Urls {
  /** `https://host:7443` */
  readonly control: readonly string[];
  /** `https://host:7444` */
  readonly enrollment: readonly string[];
}

/** A leaf as a TLS peer presented it, its chain verified: an x509 `Certificate` is one. */
export interface PresentedLeaf {
  readonly serial: string;
  readonly spki: Buffer;
}

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

export interface TokenRequest {
  readonly service: ServiceName;
  /** `tokenLifetimeMs` by default. */
  readonly lifetimeMs?: number;
  /** 1 by default. */
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

/** The signatures that `Authority` has; the class implements them. */
export interface AuthorityApi {
  readonly trustDomain: string;
  /** Where the listeners answer: goes into tokens and answers. */
  announce(urls: Urls): void;
  /** The bundle of the own trust domain. */
  bundle(): BundleView;
  /** `GET /v1/roots`. */
  rootsAnswer(): RootsAnswer;

  createToken(request: TokenRequest): Promise<CreatedToken | Refusal>;
  listTokens(page?: Page): Promise<TokenRow[]>;
  revokeToken(id: string, by: string): Promise<true | Refusal>;

  /** `from` is the remote address, for the audit log. */
  enroll(request: EnrollRequest, from: string): Promise<IssuedAnswer | Refusal>;
  /** For workloads and administrators: `leaf` is what the TLS peer presented. */
  renew(leaf: PresentedLeaf, request: RenewRequest, from: string): Promise<IssuedAnswer | Refusal>;
  recoverChallenge(): { readonly challenge: string } | Refusal;
  recover(request: RecoverRequest, from: string): Promise<IssuedAnswer | Refusal>;
  /** To be asked once per connection to the mesh API: who is it, may it go on; marks the leaf as seen. */
  seen(leaf: PresentedLeaf, from: string): Promise<Standing | Refusal>;

  /** A fresh key and leaf for the control plane itself. The generation is 1 more at each call. */
  issueControl(): Promise<TlsIdentity | Refusal>;
  /** ADMINISTRATOR_EXISTS when the name has a live certificate, unless `replace`. `csr` is base64 DER. */
  issueAdmin(
    request: { readonly name: string; readonly csr: string; readonly by: string; readonly replace?: boolean },
  ): Promise<IssuedAnswer | Refusal>;
  /** NOT_AN_ADMINISTRATOR unless the leaf is a live one of an administrator. */
  adminOf(leaf: PresentedLeaf): Promise<{ readonly name: string } | Refusal>;
  listAdmins(): Promise<AdminRow[]>;
  revokeAdmin(name: string, by: string): Promise<true | Refusal>;

  listLeaves(page?: Page & { readonly owner?: string }): Promise<LeafRow[]>;
  listInstances(page?: Page): Promise<InstanceRow[]>;
  lockInstance(id: string, decision: { readonly by: string; readonly because: string }): Promise<true | Refusal>;
  unlockInstance(id: string, by: string): Promise<true | Refusal>;
  listAudit(page?: Page<number>): Promise<AuditRow[]>;
  /** One JSON line for a decision of another room (an administrator's, a policy's). */
  audit(entry: { readonly what: string; readonly who: string; readonly verdict: "done" | "refused"; readonly reason: string }): Promise<void>;
  /** Deletes what is older than the store's options say; call it now and then. */
  prune(limits: Parameters<import("../storage/store.ts").StoreTx["prune"]>[0]): Promise<Pruned>;
}
