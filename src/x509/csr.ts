import { sign, verify, type KeyObject } from "node:crypto";
import { refuse, type Refusal } from "../base/errors.ts";
import { DerError, DerReader, contextTag, onlySequence, tags } from "./der-reader.ts";
import { bitOctets, explicit, sequence, smallInteger } from "./der-writer.ts";
import { readExtensions } from "./extensions.ts";
import { ecdsaSha256, isP256Spki, keyOfSpki, spkiOf } from "./keys.ts";

/** What a request for a certificate contributes: a public key and the proof of its private half. */
export interface CertificateRequest {
  /** SubjectPublicKeyInfo, DER. */
  readonly spki: Buffer;
  readonly publicKey: KeyObject;
  /** URI and DNS names that it asks for. They decide nothing, for names come from the grant; empty in our own. */
  readonly names: readonly string[];
}

const csrBytesMax = 4096;
const extensionRequest = "1.2.840.113549.1.9.14";

/** A PKCS#10 request (RFC 2986), DER, with an empty subject, for a private P-256 key. */
export function writeCsr(key: KeyObject): Buffer {
  const info = sequence(smallInteger(0), sequence(), spkiOf(key), explicit(0));
  return sequence(info, ecdsaSha256, bitOctets(sign("sha256", info, key)));
}

/**
 * Reads a request and verifies its self-signature. Refuses with CSR_MALFORMED (not strict DER, over 4 KiB),
 * CSR_KEY_REFUSED (not an uncompressed P-256 key) and CSR_SIGNATURE_WRONG.
 */
export function readCsr(bytes: Buffer): CertificateRequest | Refusal {
  if (bytes.length > csrBytesMax) return malformed(`it is longer than ${csrBytesMax} bytes`);
  let request;
  try {
    request = parse(bytes);
  } catch (thrown) {
    if (thrown instanceof DerError) return malformed(thrown.message);
    throw thrown;
  }
  const { info, spki, algorithm, signature, names } = request;
  const publicKey = isP256Spki(spki) ? keyOfSpki(spki) : undefined;
  if (publicKey === undefined) {
    return refuse(
      "CSR_KEY_REFUSED",
      "Cannot read the certificate request: its key is not an uncompressed point on P-256",
      "Make the key with: openssl ecparam -name prime256v1 -genkey",
    );
  }
  if (!algorithm.equals(ecdsaSha256) || !verify("sha256", info, publicKey, signature)) {
    return refuse(
      "CSR_SIGNATURE_WRONG",
      "Cannot read the certificate request: it is not signed by its own key with ECDSA and SHA-256",
      "Sign the request with the key that it is for",
    );
  }
  return { spki: Buffer.from(spki), publicKey, names };
}

function parse(bytes: Buffer) {
  const request = onlySequence(bytes, "the request");
  const info = request.element(tags.sequence);
  const algorithm = request.element(tags.sequence);
  const signature = request.bitOctets();
  request.finish("the signature");
  const fields = new DerReader(info).enter(tags.sequence);
  if (fields.smallInteger() !== 0) throw new DerError("its version is not 1");
  // The subject is read over: whatever it says, the identity comes from what was granted.
  fields.element(tags.sequence);
  const spki = fields.element(tags.sequence);
  const names = readAttributes(fields.enter(contextTag(0)));
  fields.finish("the attributes");
  return { info, spki, algorithm, signature, names };
}

function readAttributes(attributes: DerReader): readonly string[] {
  let names: readonly string[] = [];
  const seen = new Set<string>();
  while (!attributes.done) {
    const attribute = attributes.enter(tags.sequence);
    const oid = attribute.oid();
    if (seen.has(oid)) throw new DerError(`attribute ${oid} is there twice`);
    seen.add(oid);
    const values = attribute.enter(tags.set);
    attribute.finish("an attribute");
    if (oid !== extensionRequest) continue;
    const asked = readExtensions(values.enter(tags.sequence));
    values.finish("the extension request");
    names = [...asked.uris, ...asked.dnsNames];
  }
  return names;
}

function malformed(because: string): Refusal {
  return refuse(
    "CSR_MALFORMED",
    `Cannot read the certificate request: ${because}`,
    "Send one PKCS#10 request in DER, as openssl req -outform DER writes it",
  );
}
