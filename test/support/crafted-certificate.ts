import { sign, type KeyObject } from "node:crypto";
import { HauberkError, isRefusal } from "../../src/base/errors.ts";
import { readCertificate, type Certificate, type KeyUsage } from "../../src/x509/certificate.ts";
import { contextTag, tags } from "../../src/x509/der-reader.ts";
import {
  bitOctets,
  der,
  explicit,
  integer,
  octetString,
  oid,
  sequence,
  smallInteger,
  time,
} from "../../src/x509/der-writer.ts";
import { extensionOids, keyUsageBits } from "../../src/x509/extensions.ts";
import { ecdsaSha256, generateKey, spkiOf } from "../../src/x509/keys.ts";
import { keyIdOf, type Issuer } from "../../src/x509/leaf.ts";

/** A certificate by parts, so that a test can make each of them wrong. What is left out is as a good leaf has it. */
export interface Crafted {
  readonly issuer: Issuer;
  readonly uris?: readonly string[];
  readonly dnsNames?: readonly string[];
  /** Whole GeneralNames after the URIs and DNS names. */
  readonly otherNames?: readonly Buffer[];
  readonly sanCritical?: boolean;
  readonly subject?: Buffer;
  readonly key?: KeyObject;
  readonly notBeforeMs?: number;
  readonly notAfterMs?: number;
  readonly keyUsage?: readonly KeyUsage[] | undefined;
  readonly keyUsageCritical?: boolean;
  readonly purposes?: readonly string[] | undefined;
  readonly ca?: boolean;
  readonly pathLength?: number;
  readonly authorityKeyId?: Buffer;
  /** Whole extensions, after the others. */
  readonly extensions?: readonly Buffer[];
  /** The whole list of extensions, in place of all others. */
  readonly onlyExtensions?: readonly Buffer[];
  readonly version?: number;
  readonly serial?: Buffer;
  readonly algorithm?: Buffer;
  readonly outerAlgorithm?: Buffer;
}

export const serverAuth = "1.3.6.1.5.5.7.3.1";
export const clientAuth = "1.3.6.1.5.5.7.3.2";

export function extension(name: string, value: Buffer, critical = false): Buffer {
  return critical
    ? sequence(oid(name), der(tags.boolean, Buffer.from([0xff])), octetString(value))
    : sequence(oid(name), octetString(value));
}

/** A Name with one common name. */
export function nameOf(commonName: string): Buffer {
  return sequence(der(tags.set, sequence(oid("2.5.4.3"), der(tags.utf8String, Buffer.from(commonName)))));
}

export function namedBits(bits: readonly number[]): Buffer {
  const highest = Math.max(...bits);
  const octets = Buffer.alloc((highest >> 3) + 1);
  for (const bit of bits) octets[bit >> 3] = (octets[bit >> 3] as number) | (0x80 >> (bit & 7));
  return der(tags.bitString, Buffer.from([7 - (highest & 7)]), octets);
}

export function uriName(text: string): Buffer {
  return der(contextTag(6, false), Buffer.from(text, "latin1"));
}

export function dnsName(text: string): Buffer {
  return der(contextTag(2, false), Buffer.from(text, "latin1"));
}

export const workload = "spiffe://mesh.local/ns/default/sa/orders";
export const craftedKey = generateKey();

export function craftDer(wish: Crafted): Buffer {
  const { issuer, version = 2, algorithm = ecdsaSha256, key = craftedKey } = wish;
  const { certificate } = issuer;
  const list = wish.onlyExtensions ?? extensionsOf(wish);
  const body = [
    explicit(0, smallInteger(version)),
    wish.serial ?? integer(Buffer.from("4102030405060708090a0b0c0d0e0f10", "hex")),
    algorithm,
    certificate.subject,
    sequence(time(wish.notBeforeMs ?? certificate.notBeforeMs), time(wish.notAfterMs ?? certificate.notAfterMs)),
    wish.subject ?? sequence(),
    spkiOf(key),
    ...(list.length === 0 ? [] : [explicit(3, sequence(...list))]),
  ];
  const tbs = sequence(...body);
  return sequence(tbs, wish.outerAlgorithm ?? algorithm, bitOctets(sign("sha256", tbs, issuer.key)));
}

function extensionsOf(wish: Crafted): Buffer[] {
  const { key = craftedKey, uris = [workload], dnsNames = [], otherNames = [] } = wish;
  const usage = "keyUsage" in wish ? wish.keyUsage : (["digitalSignature"] as const);
  const purposes = "purposes" in wish ? wish.purposes : [serverAuth, clientAuth];
  const names = [...uris.map(uriName), ...dnsNames.map(dnsName), ...otherNames];
  const authority = wish.authorityKeyId ?? Buffer.from(wish.issuer.certificate.subjectKeyId ?? "", "hex");
  const list: Buffer[] = [];
  if (usage !== undefined) {
    const bits = namedBits(usage.map((name) => keyUsageBits.indexOf(name)));
    list.push(extension(extensionOids.keyUsage, bits, wish.keyUsageCritical ?? true));
  }
  if (purposes !== undefined) list.push(extension(extensionOids.extendedKeyUsage, sequence(...purposes.map(oid))));
  if (wish.ca !== undefined) {
    const path = wish.pathLength === undefined ? [] : [smallInteger(wish.pathLength)];
    const flag = wish.ca ? [der(tags.boolean, Buffer.from([0xff]))] : [];
    list.push(extension(extensionOids.basicConstraints, sequence(...flag, ...path), true));
  }
  if (names.length > 0)
    list.push(extension(extensionOids.subjectAltName, sequence(...names), wish.sanCritical ?? true));
  list.push(extension(extensionOids.subjectKeyId, octetString(keyIdOf(spkiOf(key)))));
  list.push(extension(extensionOids.authorityKeyId, sequence(der(contextTag(0, false), authority))));
  return [...list, ...(wish.extensions ?? [])];
}

export function craft(wish: Crafted): Certificate {
  const certificate = readCertificate(craftDer(wish));
  if (isRefusal(certificate)) throw HauberkError.from(certificate);
  return certificate;
}

/** An authority by parts. */
export function craftAuthority(wish: Crafted & { readonly name?: string }): Issuer {
  const key = wish.key ?? generateKey();
  const defaults: Partial<Crafted> = {
    ca: true,
    keyUsage: ["keyCertSign", "cRLSign"],
    purposes: undefined,
    uris: [],
    subject: nameOf(wish.name ?? "Crafted authority"),
  };
  return { key, certificate: craft({ ...defaults, ...wish, key }) };
}
