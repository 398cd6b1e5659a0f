import { createHmac, hash, randomBytes, type KeyObject } from "node:crypto";
import forge from "node-forge";
import type { Certificate } from "./certificate.ts";
import { tags } from "./der-reader.ts";
import { der, explicit, octetString, oid, sequence, smallInteger } from "./der-writer.ts";
import { sealPkcs8 } from "./encrypted-key.ts";

const data = "1.2.840.113549.1.7.1";
const shroudedKeyBag = "1.2.840.113549.1.12.10.1.2";
const certificateBag = "1.2.840.113549.1.12.10.1.3";
const x509Certificate = "1.2.840.113549.1.9.22.1";
const friendlyName = "1.2.840.113549.1.9.20";
const localKeyId = "1.2.840.113549.1.9.21";
const sha256 = "2.16.840.1.101.3.4.2.1";

/** The derivation runs in JavaScript: this many take some tenths of a second. */
const macIterations = 20_000;
const macKeyPurpose = 3;

/**
 * A PKCS#12 file (RFC 7292) of a key and its chain, leaf first, as openssl and Java's keytool read it: the key sealed
 * as `sealKey` does, the certificates plain, the whole under an HMAC-SHA-256. node-forge cannot hold EC keys or
 * certificates, so the bags are our own DER and forge derives the key of the HMAC. Blocks for about half a second.
 */
export function toPkcs12(input: {
  readonly key: KeyObject;
  readonly chain: readonly Certificate[];
  readonly passphrase: string;
  readonly name: string;
}): Buffer {
  const keyId = hash("sha1", input.chain[0]?.der ?? Buffer.alloc(0), "buffer");
  const attributes = setOf(attribute(friendlyName, bmpString(input.name)), attribute(localKeyId, octetString(keyId)));
  const keyBag = sequence(oid(shroudedKeyBag), explicit(0, sealPkcs8(input.key, input.passphrase)), attributes);
  const certificateBags = input.chain.map(({ der: bytes }, index) =>
    sequence(
      oid(certificateBag),
      explicit(0, sequence(oid(x509Certificate), explicit(0, octetString(bytes)))),
      ...(index === 0 ? [attributes] : []),
    ),
  );
  const safe = sequence(contentInfo(sequence(keyBag)), contentInfo(sequence(...certificateBags)));
  return sequence(smallInteger(3), contentInfo(safe), macOf(safe, input.passphrase));
}

function contentInfo(content: Buffer): Buffer {
  return sequence(oid(data), explicit(0, octetString(content)));
}

function macOf(safe: Buffer, passphrase: string): Buffer {
  const salt = randomBytes(16);
  const derived = forge.pkcs12.generateKey(
    passphrase,
    forge.util.createBuffer(salt.toString("binary")),
    macKeyPurpose,
    macIterations,
    32,
    forge.md.sha256.create(),
  );
  const mac = createHmac("sha256", Buffer.from(derived.toHex(), "hex")).update(safe).digest();
  return sequence(
    sequence(sequence(oid(sha256), der(tags.null)), octetString(mac)),
    octetString(salt),
    smallInteger(macIterations),
  );
}

function attribute(name: string, value: Buffer): Buffer {
  return sequence(oid(name), der(tags.set, value));
}

/** DER wants the members of a SET OF in the order of their bytes. */
function setOf(...members: Buffer[]): Buffer {
  return der(tags.set, ...members.sort((a, b) => a.compare(b)));
}

function bmpString(text: string): Buffer {
  return der(0x1e, Buffer.from(text, "utf16le").swap16());
}
