import { hash, sign, type KeyObject } from "node:crypto";
import { assert, HauberkError, isRefusal } from "../base/errors.ts";
import { parseSpiffeId } from "../base/spiffe-id.ts";
import type { Certificate } from "./certificate.ts";
import { contextTag, tags } from "./der-reader.ts";
import {
  bitOctets,
  der,
  explicit,
  header,
  integer,
  octetString,
  oid,
  sequence,
  time,
  wholeSecondsMs,
} from "./der-writer.ts";
import { extensionOids } from "./extensions.ts";
import { ecdsaSha256, isP256Spki } from "./keys.ts";
import { forbiddenName } from "./names.ts";

/** What signs leaves: an intermediate's P-256 key and its certificate. */
export interface Issuer {
  readonly key: KeyObject;
  readonly certificate: Certificate;
}

export interface Leaf {
  /** A P-256 key, as SubjectPublicKeyInfo; take it from `readCsr`, which proves possession. */
  readonly spki: Buffer;
  /** The SPIFFE ID, with a path. */
  readonly id: string;
  readonly dnsNames: readonly string[];
  /** From `serialFrom`. */
  readonly serial: Buffer;
  /** Fractions of a second are cut off. */
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/**
 * A serial from 16 random octets: positive and of full length in every draw, so that the certificate's
 * `serial` is exactly the hexadecimal text of these octets (126 bits are random).
 */
export function serialFrom(random: Buffer): Buffer {
  assert(random.length === 16, "a serial is made of 16 octets");
  const serial = Buffer.from(random);
  serial[0] = ((serial[0] as number) & 0x3f) | 0x40;
  return serial;
}

/**
 * Signs a leaf, DER: empty subject, one URI and the DNS names in a critical SAN, digitalSignature,
 * serverAuth and clientAuth. All that is constant per issuer is built once, so that it costs little more than the
 * signature (bench/x509).
 * Throws `GRANT_IMPOSSIBLE` for names that the issuer must not sign.
 */
export function signLeaf(issuer: Issuer, leaf: Leaf): Buffer {
  assertSignable(issuer, leaf);
  const template = templateOf(issuer);
  const extensions = der(tags.sequence, template.extensions, alternativeNames(leaf), subjectKeyId(leaf.spki));
  const wrapped = header(contextTag(3), extensions.length);
  const body = [
    version3,
    integer(leaf.serial),
    template.issuer,
    sequence(time(leaf.notBeforeMs), time(leaf.notAfterMs)),
    emptySubject,
    leaf.spki,
    wrapped,
    extensions,
  ];
  const tbs = der(tags.sequence, ...body);
  return der(tags.sequence, tbs, ecdsaSha256, bitOctets(sign("sha256", tbs, issuer.key)));
}

function assertSignable(issuer: Issuer, leaf: Leaf): void {
  const { certificate } = issuer;
  assert(certificate.ca && certificate.keyUsage?.has("keyCertSign") === true, "the issuer may not sign certificates");
  assert(certificate.subjectKeyId !== undefined, "the issuer has no key identifier");
  assert(isP256Spki(leaf.spki), "the leaf's key is not on P-256");
  const first = leaf.serial[0] as number;
  assert(leaf.serial.length === 16 && first >= 0x40 && first < 0x80, "the serial is not from serialFrom");
  assert(wholeSecondsMs(leaf.notBeforeMs) < wholeSecondsMs(leaf.notAfterMs), "the leaf ends before it begins");
  assert(wholeSecondsMs(leaf.notAfterMs) <= certificate.notAfterMs, "the leaf outlives its issuer");
  const id = parseSpiffeId(leaf.id);
  if (isRefusal(id)) throw impossible(leaf.id, id.message);
  if (id.path === "") throw impossible(leaf.id, "a workload's identity has a path");
  const dns = leaf.dnsNames.find((name) => !dnsForm.test(name) || name.length > 253);
  if (dns !== undefined) throw impossible(leaf.id, `"${dns}" is no DNS name of lower-case labels`);
  const { nameConstraints } = certificate;
  const forbidden = nameConstraints && forbiddenName({ uris: [leaf.id], dnsNames: leaf.dnsNames }, nameConstraints);
  if (forbidden !== undefined) throw impossible(leaf.id, `the issuer may not sign "${forbidden}"`);
}

function impossible(id: string, because: string): HauberkError {
  return new HauberkError(
    "GRANT_IMPOSSIBLE",
    `Cannot sign a leaf for "${id}": ${because}`,
    "Grant an identity of this trust domain with a path, such as spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE",
  );
}

const dnsForm = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$/;

interface Template {
  /** Signature algorithm and issuer name, as they follow the serial. */
  readonly issuer: Buffer;
  /** Key usage, extended key usage, basic constraints, authority key identifier. */
  readonly extensions: Buffer;
}

const templates = new WeakMap<Certificate, Template>();

function templateOf({ certificate }: Issuer): Template {
  const known = templates.get(certificate);
  if (known !== undefined) return known;
  const authority = Buffer.from(certificate.subjectKeyId ?? "", "hex");
  const template = {
    issuer: Buffer.concat([ecdsaSha256, certificate.subject]),
    extensions: Buffer.concat([
      constantExtensions,
      extension(extensionOids.authorityKeyId, sequence(der(contextTag(0, false), authority))),
    ]),
  };
  templates.set(certificate, template);
  return template;
}

const critical = Buffer.from([tags.boolean, 1, 0xff]);

function extension(name: string, value: Buffer, mark: Buffer = Buffer.alloc(0)): Buffer {
  return sequence(oid(name), mark, octetString(value));
}

const version3 = explicit(0, integer(Buffer.from([2])));
const emptySubject = sequence();
const constantExtensions = Buffer.concat([
  // digitalSignature: the first bit, seven unused.
  extension(extensionOids.keyUsage, der(tags.bitString, Buffer.from([7, 0x80])), critical),
  // serverAuth and clientAuth: every workload calls and is called (X509-SVID §4.4).
  extension(extensionOids.extendedKeyUsage, sequence(oid("1.3.6.1.5.5.7.3.1"), oid("1.3.6.1.5.5.7.3.2"))),
  // cA is false, which DER says by saying nothing.
  extension(extensionOids.basicConstraints, sequence(), critical),
]);
const sanHead = Buffer.concat([oid(extensionOids.subjectAltName), critical]);
const skiHead = Buffer.concat([oid(extensionOids.subjectKeyId)]);

function alternativeNames(leaf: Leaf): Buffer {
  const names = [der(contextTag(6, false), Buffer.from(leaf.id, "latin1"))];
  for (const name of leaf.dnsNames) names.push(der(contextTag(2, false), Buffer.from(name, "latin1")));
  return sequence(sanHead, octetString(sequence(...names)));
}

/** RFC 7093 §2, method 1: the first 160 bits of the SHA-256 of the public key's bits, which in P-256 are the last 65. */
export function keyIdOf(p256Spki: Buffer): Buffer {
  return hash("sha256", p256Spki.subarray(-65), "buffer").subarray(0, 20);
}

function subjectKeyId(spki: Buffer): Buffer {
  return sequence(skiHead, octetString(octetString(keyIdOf(spki))));
}
