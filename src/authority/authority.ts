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
