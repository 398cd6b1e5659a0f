import type { Clock } from "../base/clock.ts";
import { refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { Random } from "../base/random.ts";
import type { IssuedAnswer } from "../contract/enrollment.ts";
import type { BundleView } from "../contract/watch.ts";
import type { LeafRow } from "../storage/rows.ts";
import type { Store, StoreTx } from "../storage/store.ts";
import type { CertificateRequest } from "../x509/csr.ts";
import type { AuditLog } from "./audit-log.ts";
import type { OpenedCa } from "./ca-files.ts";
import type { authorityOptions } from "./options.ts";
import type { RecoveryChallenges } from "./recovery-challenge.ts";
import type { LeafWish, Signer } from "./signer.ts";

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

/** What every decision of the authority is made with. */
export interface Desk {
  readonly store: Store;
  readonly clock: Clock;
  readonly random: Random;
  readonly options: OptionValues<typeof authorityOptions>;
  readonly trustDomain: string;
  readonly ca: OpenedCa;
  readonly signer: Signer;
  readonly log: AuditLog;
  readonly challenges: RecoveryChallenges;
  readonly bundle: BundleView;
  /** Base64 DER of the intermediate. */
  readonly intermediate: string;
  urls: Urls;
}

/** The answer for a leaf: the same one for the same row, however often it is asked for. */
export function answerFor(desk: Desk, leaf: LeafRow): IssuedAnswer {
  return {
    instance: leaf.owner,
    chain: [Buffer.from(leaf.der).toString("base64"), desk.intermediate],
    roots: desk.bundle.roots,
    bundleSequence: desk.bundle.sequence,
    issuedAtMs: leaf.issuedAtMs,
    notAfterMs: leaf.notAfterMs,
    controlUrls: desk.urls.control,
    enrollmentUrls: desk.urls.enrollment,
  };
}

/** Signs, stores and answers, in the caller's transaction. `life` was asked of the signer before anything was spent. */
export async function issue(
  desk: Desk,
  tx: StoreTx,
  wish: LeafWish & { readonly life: Exclude<ReturnType<Signer["lifeOf"]>, Refusal> },
): Promise<LeafRow> {
  const row = desk.signer.sign(wish, wish.life);
  await tx.insertLeaf(row);
  return row;
}

/** Names in a request decide nothing; one that was not granted shows that somebody expects something else. */
export function ungranted(
  desk: Desk,
  request: CertificateRequest,
  wish: Pick<LeafWish, "holder" | "identity" | "service" | "namespace">,
): Refusal | undefined {
  if (request.names.length === 0) return undefined;
  const granted = [wish.identity, ...desk.signer.dnsNames(wish)];
  if (request.names.every((name) => granted.includes(name))) return undefined;
  return refuse(
    "CSR_NAME_NOT_GRANTED",
    `Cannot sign for "${wish.identity}": the request asks for other names, and names come from the grant alone`,
    "Leave names out of the request, or ask for a token of the other service",
  );
}

export function keyReused(): Refusal {
  return refuse(
    "KEY_REUSED",
    "Cannot sign: the key of the request has a certificate already, a fresh one was wanted",
    "Make a new key for each certificate",
  );
}
