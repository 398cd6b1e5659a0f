import type { KeyObject } from "node:crypto";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import type { IssuedAnswer } from "../contract/enrollment.ts";
import { readCertificate, type Certificate } from "../x509/certificate.ts";
import { spkiOf } from "../x509/keys.ts";
import { verifyWorkload } from "../x509/verify.ts";
import type { SpiffeId } from "../base/spiffe-id.ts";

/** One issued certificate with everything that belongs to it: what is kept on disk and what identities are made from. */
export interface Issued {
  readonly instance: string;
  readonly id: SpiffeId;
  readonly key: KeyObject;
  /** Leaf first, then the intermediate. */
  readonly chain: readonly Certificate[];
  readonly roots: readonly Certificate[];
  readonly bundleSequence: number;
  readonly issuedAtMs: number;
  readonly notAfterMs: number;
  readonly controlUrls: readonly string[];
  readonly enrollmentUrls: readonly string[];
}

/**
 * Verifies an answer the way a stranger would, before it is kept or shown to anybody: the chain ends in one of `anchors`,
 * the leaf carries our own key and exactly the identity that is ours, and it is in date now.
 */
export function verifyIssued(
  answer: IssuedAnswer,
  own: {
    readonly key: KeyObject;
    readonly expect: string;
    readonly trustDomain: string;
    /** Roots that the chain must end in; undefined for those of the answer, where the connection was proven. */
    readonly anchors: readonly Certificate[] | undefined;
    readonly atMs: number;
  },
): Issued | Refusal {
  const chain = readAll(answer.chain);
  if (isRefusal(chain)) return chain;
  const roots = readAll(answer.roots);
  if (isRefusal(roots)) return roots;
  const peer = verifyWorkload({
    chain,
    roots: own.anchors ?? roots,
    trustDomain: own.trustDomain,
    atMs: own.atMs,
    expect: own.expect,
  });
  if (isRefusal(peer)) return peer;
  const leaf = chain[0] as Certificate;
  if (!leaf.spki.equals(spkiOf(own.key))) {
    return refuse(
      "PEER_UNTRUSTED",
      "Cannot use the issued certificate: it carries another key than the one that was asked for",
      "Look at the control plane's audit log; it should never do this",
    );
  }
  // Life counts from issuance, but a value outside of the certificate's own dates would break the renewal formula.
  const issuedAtMs =
    answer.issuedAtMs >= leaf.notBeforeMs && answer.issuedAtMs < leaf.notAfterMs ? answer.issuedAtMs : leaf.notBeforeMs;
  return {
    instance: answer.instance,
    id: peer.id,
    key: own.key,
    chain,
    roots,
    bundleSequence: answer.bundleSequence,
    issuedAtMs,
    notAfterMs: leaf.notAfterMs,
    controlUrls: answer.controlUrls,
    enrollmentUrls: answer.enrollmentUrls,
  };
}

/** Certificates from base64 DER. */
export function readAll(texts: readonly string[]): Certificate[] | Refusal {
  const read: Certificate[] = [];
  for (const text of texts) {
    const certificate = readCertificate(Buffer.from(text, "base64"));
    if (isRefusal(certificate)) return certificate;
    read.push(certificate);
  }
  return read;
}
