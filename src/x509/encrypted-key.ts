import {
  createCipheriv,
  createDecipheriv,
  createPrivateKey,
  pbkdf2Sync,
  randomBytes,
  scryptSync,
  type KeyObject,
} from "node:crypto";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { DerError, onlySequence, tags, type DerReader } from "./der-reader.ts";
import { der, octetString, oid, sequence, smallInteger } from "./der-writer.ts";
import { fromPem, toPem } from "./pem.ts";

const pbes2 = "1.2.840.113549.1.5.13";
const pbkdf2 = "1.2.840.113549.1.5.12";
const scrypt = "1.3.6.1.4.1.11591.4.11";
const hmacSha256 = "1.2.840.113549.2.9";
const aes256Cbc = "2.16.840.1.101.3.4.1.42";
const label = "ENCRYPTED PRIVATE KEY";

/** OWASP's figure for PBKDF2 with HMAC-SHA-256. */
export const pbkdf2Iterations = 600_000;
const keyBytes = 32;
const scryptMemoryMax = 1024 * 1024 * 1024;

/**
 * A private key sealed by a passphrase: PKCS#8, PBES2, PBKDF2 with HMAC-SHA-256 (600,000 iterations, about 0.1 s),
 * AES-256-CBC, PEM. Not scrypt: of N = 2^17 openssl 3 says "memory limit exceeded" (its bound is 32 MiB), and a CA's
 * key that only its own program can open is no backup. `openKey` reads both.
 */
export function sealKey(key: KeyObject, passphrase: string): string {
  return toPem(label, sealPkcs8(key, passphrase));
}

/** EncryptedPrivateKeyInfo (RFC 5958 §3), DER. */
export function sealPkcs8(key: KeyObject, passphrase: string): Buffer {
  const salt = randomBytes(16);
  const iv = randomBytes(16);
  const secret = pbkdf2Sync(passphrase, salt, pbkdf2Iterations, keyBytes, "sha256");
  const cipher = createCipheriv("aes-256-cbc", secret, iv);
  const body = Buffer.concat([cipher.update(key.export({ format: "der", type: "pkcs8" })), cipher.final()]);
  const parameters = sequence(
    octetString(salt),
    smallInteger(pbkdf2Iterations),
    sequence(oid(hmacSha256), der(tags.null)),
  );
  const scheme = sequence(sequence(oid(pbkdf2), parameters), sequence(oid(aes256Cbc), octetString(iv)));
  return sequence(sequence(oid(pbes2), scheme), octetString(body));
}

/**
 * Opens a key sealed with PBES2, PBKDF2 (HMAC-SHA-256) or scrypt, and AES-256-CBC, PEM. Refuses with
 * PASSPHRASE_WRONG, or STATE_DAMAGED where it is no such file.
 */
export function openKey(pem: string, passphrase: string): KeyObject | Refusal {
  const blocks = fromPem(pem);
  if (isRefusal(blocks)) return damaged("it is no PEM file");
  const [block] = blocks;
  if (block?.label !== label) return damaged(`it is not one ${label}`);
  let sealed;
  try {
    sealed = parse(block.der);
  } catch (thrown) {
    if (thrown instanceof DerError) return damaged(thrown.message);
    throw thrown;
  }
  try {
    const decipher = createDecipheriv("aes-256-cbc", sealed.derive(passphrase), sealed.iv);
    const pkcs8 = Buffer.concat([decipher.update(sealed.body), decipher.final()]);
    return createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" });
  } catch {
    // A wrong passphrase shows as bad padding, or as a key that is none.
    return refuse(
      "PASSPHRASE_WRONG",
      "Cannot open the key: the passphrase does not fit",
      "Give the passphrase that the key was sealed with",
    );
  }
}

interface Sealed {
  derive(passphrase: string): Buffer;
  readonly iv: Buffer;
  readonly body: Buffer;
}

function parse(bytes: Buffer): Sealed {
  const info = onlySequence(bytes, "the key");
  const algorithm = info.enter(tags.sequence);
  if (algorithm.oid() !== pbes2) throw new DerError("it is not sealed with PBES2");
  const scheme = algorithm.enter(tags.sequence);
  const derive = readDerivation(scheme.enter(tags.sequence));
  const cipher = scheme.enter(tags.sequence);
  if (cipher.oid() !== aes256Cbc) throw new DerError("it is not sealed with AES-256-CBC");
  const iv = cipher.content(tags.octetString);
  if (iv.length !== 16) throw new DerError("its initialization vector has not 16 octets");
  const body = info.content(tags.octetString);
  info.finish("the sealed key");
  return { derive, iv, body };
}

function readDerivation(derivation: DerReader): (passphrase: string) => Buffer {
  const name = derivation.oid();
  const fields = derivation.enter(tags.sequence);
  const salt = fields.content(tags.octetString);
  const cost = fields.smallInteger();
  if (name === pbkdf2) {
    if (cost < 1 || cost > 100_000_000) throw new DerError("its number of iterations is out of bounds");
    if (fields.tag === tags.integer) readKeyLength(fields);
    if (fields.done || fields.enter(tags.sequence).oid() !== hmacSha256)
      throw new DerError("it is not PBKDF2 with HMAC-SHA-256");
    return (passphrase) => pbkdf2Sync(passphrase, salt, cost, keyBytes, "sha256");
  }
  if (name !== scrypt) throw new DerError("its key derivation is neither PBKDF2 nor scrypt");
  const r = fields.smallInteger();
  const p = fields.smallInteger();
  if (!fields.done) readKeyLength(fields);
  const memory = 128 * cost * r;
  if (cost < 2 || (cost & (cost - 1)) !== 0 || r < 1 || p < 1 || p > 16 || memory > scryptMemoryMax) {
    throw new DerError("its scrypt parameters are out of bounds");
  }
  return (passphrase) =>
    scryptSync(passphrase, salt, keyBytes, { N: cost, r, p, maxmem: memory + 128 * r * (p + 2) + 4096 });
}

function readKeyLength(fields: DerReader): void {
  if (fields.smallInteger() !== keyBytes) throw new DerError("its derived key has not 32 octets");
}

function damaged(because: string): Refusal {
  return refuse("STATE_DAMAGED", `Cannot open the key: ${because}`, "Restore the file from its backup");
}
