// First of all: @peculiar/x509 throws on import without it.
import "reflect-metadata";
import { webcrypto, type KeyObject } from "node:crypto";
import { AsnConvert } from "@peculiar/asn1-schema";
import * as asn1 from "@peculiar/asn1-x509";
import * as x509 from "@peculiar/x509";
import { HauberkError, isRefusal, assert } from "../base/errors.ts";
import { isTrustDomain } from "../base/spiffe-id.ts";
import { readCertificate, type Certificate } from "./certificate.ts";
import { wholeSecondsMs } from "./der-writer.ts";
import { ecdsaSha256Oid, spkiOf } from "./keys.ts";
import { keyIdOf, type Issuer } from "./leaf.ts";

/** What a certificate of an authority is made from. Fractions of a second are cut off. */
export interface AuthorityCertificate {
  readonly trustDomain: string;
  readonly commonName: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  /** From `serialFrom`. */
  readonly serial: Buffer;
  /** The authority's own P-256 key: private for a root; for an intermediate its public half is enough. */
  readonly key: KeyObject;
}

/** A self-signed root: keyCertSign and cRLSign, no path length; its URI SAN is the trust domain's own ID. */
export async function makeRoot(root: AuthorityCertificate): Promise<Certificate> {
  return make(root, { key: root.key, name: nameOf(root), authorityKeyId: keyIdOf(spkiOf(root.key)), extensions: [] });
}

/** An intermediate: path length 0, and by critical constraints only URIs of the trust domain and DNS names below `mesh`. */
export async function makeIntermediate(intermediate: AuthorityCertificate, root: Issuer): Promise<Certificate> {
  assert(root.certificate.subjectKeyId !== undefined, "the root has no key identifier");
  assert(wholeSecondsMs(intermediate.notAfterMs) <= root.certificate.notAfterMs, "the intermediate outlives its root");
  return make(intermediate, {
    key: root.key,
    name: new x509.X509Certificate(root.certificate.der).subjectName,
    authorityKeyId: Buffer.from(root.certificate.subjectKeyId, "hex"),
    pathLength: 0,
    extensions: [nameConstraints(intermediate.trustDomain)],
  });
}

interface Signer {
  readonly key: KeyObject;
  readonly name: x509.Name;
  readonly authorityKeyId: Buffer;
  readonly pathLength?: number;
  readonly extensions: readonly x509.Extension[];
}

async function make(subject: AuthorityCertificate, signer: Signer): Promise<Certificate> {
  assert(isTrustDomain(subject.trustDomain), "the trust domain has a form that SPIFFE forbids");
  const spki = spkiOf(subject.key);
  const made = await x509.X509CertificateGenerator.create(
    {
      serialNumber: subject.serial.toString("hex"),
      subject: nameOf(subject),
      issuer: signer.name,
      notBefore: new Date(wholeSecondsMs(subject.notBeforeMs)),
      notAfter: new Date(wholeSecondsMs(subject.notAfterMs)),
      publicKey: new x509.PublicKey(spki),
      signingKey: signer.key.toCryptoKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign"]),
      signingAlgorithm: { name: "ECDSA", hash: "SHA-256" },
      extensions: [
        new x509.BasicConstraintsExtension(true, signer.pathLength, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
        new x509.SubjectAlternativeNameExtension([{ type: "url", value: `spiffe://${subject.trustDomain}` }], false),
        new x509.SubjectKeyIdentifierExtension(keyIdOf(spki).toString("hex")),
        new x509.AuthorityKeyIdentifierExtension(signer.authorityKeyId.toString("hex")),
        ...signer.extensions,
      ],
    },
    webcrypto,
  );
  // The strict reader sees it first: what it would not accept is not handed out.
  const certificate = readCertificate(Buffer.from(made.rawData));
  if (isRefusal(certificate)) throw HauberkError.from(certificate);
  assert(certificate.signatureAlgorithm === ecdsaSha256Oid && certificate.ca, "the authority's certificate is none");
  return certificate;
}

function nameOf({ commonName, trustDomain }: AuthorityCertificate): x509.Name {
  return new x509.Name([{ O: [trustDomain] }, { CN: [commonName] }]);
}

function nameConstraints(trustDomain: string): x509.Extension {
  const permitted = (name: Partial<asn1.GeneralName>): asn1.GeneralSubtree =>
    new asn1.GeneralSubtree({ base: new asn1.GeneralName(name) });
  const constraints = new asn1.NameConstraints({
    permittedSubtrees: new asn1.GeneralSubtrees([
      permitted({ uniformResourceIdentifier: trustDomain }),
      permitted({ dNSName: "mesh" }),
    ]),
  });
  return new x509.Extension(asn1.id_ce_nameConstraints, true, AsnConvert.serialize(constraints));
}
