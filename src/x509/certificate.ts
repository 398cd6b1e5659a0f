import type { KeyObject } from "node:crypto";
import type { Refusal } from "../base/errors.ts";

/** The bits of RFC 5280 §4.2.1.3, by the names that the standard gives them. */
export type KeyUsage =
  | "digitalSignature"
  | "nonRepudiation"
  | "keyEncipherment"
  | "dataEncipherment"
  | "keyAgreement"
  | "keyCertSign"
  | "cRLSign"
  | "encipherOnly"
  | "decipherOnly";

/** What an issuer lets the certificates below it be called (RFC 5280 §4.2.1.10). */
export interface NameConstraints {
  /** Hosts that a URI may have; undefined where the constraint says nothing of URIs. */
  readonly permittedUris: readonly string[] | undefined;
  readonly permittedDns: readonly string[] | undefined;
  readonly excludedUris: readonly string[];
  readonly excludedDns: readonly string[];
}

/** A certificate as strict DER says it: plain data that points into `der`. */
export interface Certificate {
  readonly der: Buffer;
  /** Lower-case hexadecimal digits, without the sign octet. */
  readonly serial: string;
  /** The issuer's Name, DER. */
  readonly issuer: Buffer;
  /** The subject's Name, DER. */
  readonly subject: Buffer;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  /** SubjectPublicKeyInfo, DER. */
  readonly spki: Buffer;
  readonly uris: readonly string[];
  readonly dnsNames: readonly string[];
  readonly sanCritical: boolean;
  readonly ca: boolean;
  readonly pathLength: number | undefined;
  readonly keyUsage: ReadonlySet<KeyUsage> | undefined;
  readonly keyUsageCritical: boolean;
  /** OIDs in dotted form. */
  readonly extendedKeyUsage: readonly string[] | undefined;
  readonly nameConstraints: NameConstraints | undefined;
  /** Lower-case hexadecimal digits. */
  readonly subjectKeyId: string | undefined;
  readonly authorityKeyId: string | undefined;
  readonly tbs: Buffer;
  readonly signature: Buffer;
  /** OID in dotted form: `1.2.840.10045.4.3.2` is ecdsa-with-SHA256. */
  readonly signatureAlgorithm: string;
}

/** Reads one DER certificate. */
export function readCertificate(_der: Buffer): Certificate | Refusal {
  throw new Error("not yet");
}

/** The certificate's public key. */
export function publicKeyOf(_certificate: Certificate): KeyObject {
  throw new Error("not yet");
}

/** SHA-256 in lower-case hexadecimal digits. */
export function fingerprintOf(_der: Buffer): string {
  throw new Error("not yet");
}
