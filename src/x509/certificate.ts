/**
 * The idea of this room: certificates, requests, chains, tokens and bundles as bytes in and plain values out.
 * Everything here is strict, because two readers that differ in leniency are two different identities
 * (CVE-2021-44531 and its family): what is not exactly one canonical certificate is refused.
 */
import { createPublicKey, hash, type KeyObject } from "node:crypto";
import { refuse, type Refusal } from "../base/errors.ts";
import { DerError, DerReader, contextTag, onlySequence, tags } from "./der-reader.ts";
import { keyOfSpki } from "./keys.ts";
import { noExtensions, readExtensions, type Extensions } from "./extensions.ts";

export type { KeyUsage } from "./extensions.ts";

/** A certificate as strict DER says it: plain data that points into `der`. */
export interface Certificate extends Extensions {
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
  readonly tbs: Buffer;
  readonly signature: Buffer;
  /** OID in dotted form: `1.2.840.10045.4.3.2` is ecdsa-with-SHA256. */
  readonly signatureAlgorithm: string;
}

const certificateBytesMax = 16 * 1024;
const emptyName = 2;

/**
 * Reads one DER certificate of version 3 (RFC 5280 §4.1), nothing before or after it. Refuses with
 * `PEER_UNTRUSTED`: what is not canonical, over 16 KiB, has a duplicate or an unknown critical extension.
 */
export function readCertificate(bytes: Buffer): Certificate | Refusal {
  if (bytes.length > certificateBytesMax) return not(`it is longer than ${certificateBytesMax} bytes`);
  try {
    // A copy of its own: a TLS record or a request body must not be kept alive by, or change under, a certificate.
    return parse(Buffer.from(bytes));
  } catch (thrown) {
    if (thrown instanceof DerError) return not(thrown.message);
    throw thrown;
  }
}

/** The certificate's public key; a key that OpenSSL cannot read is undefined. */
export function tryPublicKeyOf(certificate: Certificate): KeyObject | undefined {
  const known = keys.get(certificate);
  if (known !== undefined) return known;
  const key = certificate.ca ? issuerKey(certificate.spki) : keyOfSpki(certificate.spki);
  if (key !== undefined) keys.set(certificate, key);
  return key;
}

/** The certificate's public key. Throws where the certificate holds none that OpenSSL knows. */
export function publicKeyOf(certificate: Certificate): KeyObject {
  return tryPublicKeyOf(certificate) ?? createPublicKey({ key: certificate.spki, format: "der", type: "spki" });
}

/** SHA-256 in lower-case hexadecimal digits. */
export function fingerprintOf(der: Uint8Array): string {
  return hash("sha256", der, "hex");
}

function not(because: string): Refusal {
  return refuse("PEER_UNTRUSTED", `Cannot read the certificate: ${because}`, "Use a certificate that this mesh issued");
}

function parse(bytes: Buffer): Certificate {
  const certificate = onlySequence(bytes, "the certificate");
  const tbs = certificate.element(tags.sequence);
  const algorithm = certificate.element(tags.sequence);
  const signature = certificate.bitOctets();
  certificate.finish("the signature");
  const fields = new DerReader(tbs).enter(tags.sequence);
  readVersion(fields);
  const serial = readSerial(fields);
  if (!fields.element(tags.sequence).equals(algorithm)) {
    throw new DerError("its two signature algorithms differ");
  }
  const issuer = fields.element(tags.sequence);
  const validity = fields.enter(tags.sequence);
  const notBeforeMs = validity.time();
  const notAfterMs = validity.time();
  validity.finish("the validity");
  const subject = fields.element(tags.sequence);
  const spki = fields.element(tags.sequence);
  const extensions = readRest(fields);
  if (issuer.length === emptyName) throw new DerError("its issuer has no name");
  if (extensions.ca && subject.length === emptyName) throw new DerError("it is an authority without a name");
  const signatureAlgorithm = algorithmOf(algorithm);
  const own = { serial, issuer, subject, notBeforeMs, notAfterMs, spki, tbs, signature, signatureAlgorithm };
  return Object.freeze({ der: bytes, ...own, ...extensions });
}

function readVersion(fields: DerReader): void {
  const version = fields.enter(contextTag(0));
  if (version.smallInteger() !== 2) throw new DerError("its version is not 3");
  version.finish("the version");
}

/** RFC 5280 §4.1.2.2: positive, at most 20 octets. */
function readSerial(fields: DerReader): string {
  const octets = fields.integer();
  const first = octets[0] as number;
  if (first >= 0x80 || (octets.length === 1 && first === 0) || octets.length > 20) {
    throw new DerError("its serial number is not positive or longer than 20 octets");
  }
  return octets.toString("hex", first === 0 ? 1 : 0);
}

function readRest(fields: DerReader): Extensions {
  if (fields.done) return noExtensions;
  const wrapped = fields.enter(contextTag(3));
  const extensions = readExtensions(wrapped.enter(tags.sequence));
  wrapped.finish("the extensions");
  fields.finish("the extensions");
  return extensions;
}

/** The identifier of an AlgorithmIdentifier; parameters only where the algorithm has them (RFC 5758 §3.2, RFC 4055 §5). */
function algorithmOf(element: Buffer): string {
  const reader = new DerReader(element).enter(tags.sequence);
  const oid = reader.oid();
  if (oid.startsWith("1.2.840.113549.1.1.")) {
    if (!reader.done && reader.tag === tags.null && reader.content(tags.null).length !== 0) {
      throw new DerError("a NULL has content");
    }
    if (oid !== "1.2.840.113549.1.1.10") reader.finish("the algorithm");
  } else reader.finish("the algorithm");
  return oid;
}

const keys = new WeakMap<Certificate, KeyObject>();

// Every handshake parses the peer's intermediate anew; importing its key costs more than all the reading.
const issuerKeys = new Map<string, KeyObject>();
const issuerKeysMax = 64;

function issuerKey(spki: Buffer): KeyObject | undefined {
  const name = spki.toString("latin1");
  const known = issuerKeys.get(name);
  if (known !== undefined) return known;
  const key = keyOfSpki(spki);
  if (key === undefined) return undefined;
  if (issuerKeys.size >= issuerKeysMax) issuerKeys.delete(issuerKeys.keys().next().value as string);
  issuerKeys.set(name, key);
  return key;
}
