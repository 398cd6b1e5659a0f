/**
 * The proof of a certificate inside a running connection, after the exported authenticators of RFC 9261: a chain, and a
 * signature by its leaf's key over this connection's TLS exporter. What travels and what is signed stand in
 * docs/decisions/0010. Pure: who sends it, and what it changes, is `transport/proof.ts`.
 */
import { hash, sign, verify, type KeyObject } from "node:crypto";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { readCertificate, tryPublicKeyOf, type Certificate } from "./certificate.ts";
import { isP256Spki } from "./keys.ts";

/** Who proves: an end never takes a proof of its own role, so that none can be sent back to its sender. */
export type ProofRole = "client" | "server";

/** What a proof is worth something for, beside its chain: one connection, one direction, one place in the order. */
export interface ProofBinding {
  readonly role: ProofRole;
  readonly trustDomain: string;
  /** `exporterBytes` of this connection's TLS exporter with `exporterLabel(role)` and an empty context. */
  readonly exporter: Buffer;
  /** 1 for the first proof that this end sends on this connection, then one more for each. */
  readonly counter: number;
}

/** A proof as it was read; nothing of it is verified. */
export interface Proof {
  readonly counter: number;
  /** Leaf first. */
  readonly chain: readonly Certificate[];
  /** SHA-256 over the chain as it was sent. */
  readonly chainHash: Buffer;
  /** ECDSA with P-256 and SHA-256, DER. */
  readonly signature: Buffer;
}

export const exporterBytes = 32;
const chainMax = 4;
/** Of a whole proof: it travels in one HTTP/2 frame of the size that every peer takes. */
export const proofBytesMax = 16_384;
/** DER of two 256-bit numbers. */
const signatureBytesMax = 72;
const headBytes = 6;

/** RFC 5705, 4: labels that begin like this are not registered. */
export function exporterLabel(role: ProofRole): string {
  return `EXPERIMENTAL-hauberk-proof-${role}`;
}

/** Signs and writes a proof. Throws where the chain cannot be sent: more than four certificates, or too many bytes. */
export function writeProof(own: { chain: readonly Certificate[]; key: KeyObject }, binding: ProofBinding): Buffer {
  const parts = own.chain.flatMap(({ der }) => [uint16(der.length), der]);
  const chain = Buffer.concat(parts);
  const signature = sign("sha256", signedContent(binding, hash("sha256", chain, "buffer")), own.key);
  const counter = Buffer.alloc(4);
  counter.writeUInt32BE(binding.counter);
  const bytes = headBytes + chain.length + 1 + signature.length;
  if (own.chain.length === 0 || own.chain.length > chainMax || bytes > proofBytesMax) {
    throw new RangeError(`a chain of ${own.chain.length} certificates and ${chain.length} bytes cannot be proven`);
  }
  return Buffer.concat([counter, uint16(chain.length), chain, Buffer.of(signature.length), signature]);
}

/**
 * Reads a proof: every length exact, nothing after it. Refuses with MESSAGE_INVALID, or PEER_UNTRUSTED for a certificate
 * that cannot be read. The result keeps none of the bytes.
 */
export function readProof(bytes: Buffer): Proof | Refusal {
  if (bytes.length > proofBytesMax) return not(`it has ${bytes.length} bytes, wanted at most ${proofBytesMax}`);
  if (bytes.length < headBytes + 1) return not("it is cut off");
  const signatureAt = headBytes + bytes.readUInt16BE(4);
  if (bytes.length <= signatureAt) return not("its chain is cut off");
  const signatureBytes = bytes[signatureAt] as number;
  if (bytes.length !== signatureAt + 1 + signatureBytes)
    return not("its signature is cut off, or something follows it");
  if (signatureBytes === 0 || signatureBytes > signatureBytesMax)
    return not("its signature is none of ECDSA with P-256");
  const sent = bytes.subarray(headBytes, signatureAt);
  const chain = readChain(sent);
  if (isRefusal(chain)) return chain;
  return {
    counter: bytes.readUInt32BE(0),
    chain,
    chainHash: hash("sha256", sent, "buffer"),
    signature: Buffer.from(bytes.subarray(signatureAt + 1)),
  };
}

function readChain(bytes: Buffer): readonly Certificate[] | Refusal {
  const ders: Buffer[] = [];
  for (let at = 0; at < bytes.length;) {
    if (ders.length === chainMax) return not(`its chain has more than ${chainMax} certificates`);
    if (bytes.length < at + 2) return not("a length in its chain is cut off");
    const end = at + 2 + bytes.readUInt16BE(at);
    if (bytes.length < end) return not("a certificate of its chain is cut off");
    ders.push(bytes.subarray(at + 2, end));
    at = end;
  }
  if (ders.length === 0) return not("it has no certificate");
  const chain: Certificate[] = [];
  for (const der of ders) {
    const certificate = readCertificate(der);
    if (isRefusal(certificate)) return certificate;
    chain.push(certificate);
  }
  return chain;
}

/**
 * Whether the leaf's key signed this proof for this connection, role and place. The chain has to be verified as well, and
 * first: a key is not used before it is trusted.
 */
export function isSignedProof(proof: Proof, binding: Omit<ProofBinding, "counter">): boolean {
  const leaf = proof.chain[0];
  if (leaf === undefined || !isP256Spki(leaf.spki)) return false;
  const key = tryPublicKeyOf(leaf);
  if (key === undefined) return false;
  return verify("sha256", signedContent({ ...binding, counter: proof.counter }, proof.chainHash), key, proof.signature);
}

/** 64 spaces, a text with the role, and a zero, as in TLS 1.3 (RFC 8446, 4.4.3): no signature of a handshake looks like it. */
function signedContent({ role, trustDomain, exporter, counter }: ProofBinding, chainHash: Buffer): Buffer {
  const domain = Buffer.from(trustDomain, "latin1");
  const numbers = Buffer.alloc(5);
  numbers.writeUInt32BE(counter);
  numbers[4] = domain.length;
  return Buffer.concat([prefixes[role], exporter, numbers, domain, chainHash]);
}

const prefixes: Readonly<Record<ProofRole, Buffer>> = { client: prefixOf("client"), server: prefixOf("server") };

function prefixOf(role: ProofRole): Buffer {
  return Buffer.from(`${" ".repeat(64)}hauberk proof 1, ${role}\0`, "latin1");
}

function uint16(value: number): Buffer {
  return Buffer.of(value >>> 8, value & 0xff);
}

function not(because: string): Refusal {
  return refuse("MESSAGE_INVALID", `Cannot read the proof: ${because}`, "Look at what the peer runs, and its release");
}
