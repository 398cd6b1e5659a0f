import { createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";

/** AlgorithmIdentifier of ecdsa-with-SHA256 (RFC 5758 §3.2: no parameters). */
export const ecdsaSha256 = Buffer.from("300a06082a8648ce3d040302", "hex");
export const ecdsaSha256Oid = "1.2.840.10045.4.3.2";

/** What the SubjectPublicKeyInfo of an uncompressed P-256 point begins with (RFC 5480); 64 octets follow. */
const p256Head = Buffer.from("3059301306072a8648ce3d020106082a8648ce3d03010703420004", "hex");
const p256SpkiBytes = p256Head.length + 64;

/** A fresh private key on P-256. */
export function generateKey(): KeyObject {
  return generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
}

/** SubjectPublicKeyInfo, DER, of a public or private key. */
export function spkiOf(key: KeyObject): Buffer {
  const publicKey = key.type === "private" ? createPublicKey(key) : key;
  return publicKey.export({ format: "der", type: "spki" });
}

/** Whether the bytes are the SubjectPublicKeyInfo of an uncompressed P-256 point; not whether it is on the curve. */
export function isP256Spki(spki: Buffer): boolean {
  return spki.length === p256SpkiBytes && spki.subarray(0, p256Head.length).equals(p256Head);
}

/** The public key of a SubjectPublicKeyInfo; undefined where OpenSSL knows none, or the point is not on its curve. */
export function keyOfSpki(spki: Buffer): KeyObject | undefined {
  try {
    return createPublicKey({ key: spki, format: "der", type: "spki" });
  } catch {
    return undefined;
  }
}
