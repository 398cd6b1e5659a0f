import { generateKeyPairSync, hash, verify } from "node:crypto";
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { craft } from "../../test/support/crafted-certificate.ts";
import { makeTestPki } from "../../test/support/pki.ts";
import { isRefusal } from "../base/errors.ts";
import { publicKeyOf, type Certificate } from "./certificate.ts";
import {
  exporterBytes,
  exporterLabel,
  isSignedProof,
  proofBytesMax,
  readProof,
  writeProof,
  type Proof,
  type ProofBinding,
} from "./proof.ts";

const pki = await makeTestPki();
const web = pki.issue("spiffe://mesh.local/ns/default/sa/web");
const leaf = web.chain[0] as Certificate;
const binding: ProofBinding = {
  role: "client",
  trustDomain: "mesh.local",
  exporter: Buffer.alloc(32, 7),
  counter: 3,
};
const good = writeProof(web, binding);

function read(bytes: Buffer): Proof {
  const proof = readProof(bytes);
  if (isRefusal(proof)) throw new Error(proof.message);
  return proof;
}

function because(bytes: Buffer): string {
  const proof = readProof(bytes);
  return isRefusal(proof) ? `${proof.code} ${proof.message}` : "read";
}

test("what is written is read: the number, the chain and a signature that holds", () => {
  const proof = read(good);
  expect([proof.counter, proof.chain.map(({ der }) => der)]).toEqual([3, web.chain.map(({ der }) => der)]);
  expect(isSignedProof(proof, binding)).toBe(true);
});

test("the layout and the signed bytes are those of the decision record", () => {
  const [first, second] = web.chain as [Certificate, Certificate];
  const sent = Buffer.concat([uint16(first.der.length), first.der, uint16(second.der.length), second.der]);
  expect(good.subarray(0, 6 + sent.length)).toEqual(Buffer.concat([Buffer.of(0, 0, 0, 3), uint16(sent.length), sent]));
  const signature = good.subarray(7 + sent.length);
  expect(good[6 + sent.length]).toBe(signature.length);
  const signed = Buffer.concat([
    Buffer.alloc(64, " "),
    Buffer.from("hauberk proof 1, client\0"),
    binding.exporter,
    Buffer.of(0, 0, 0, 3, 10),
    Buffer.from("mesh.local"),
    hash("sha256", sent, "buffer"),
  ]);
  expect(verify("sha256", signed, publicKeyOf(leaf), signature)).toBe(true);
  expect([exporterLabel("client"), exporterLabel("server"), exporterBytes]).toEqual([
    "EXPERIMENTAL-hauberk-proof-client",
    "EXPERIMENTAL-hauberk-proof-server",
    32,
  ]);
});

test("a proof is worth nothing for another role, trust domain, connection, number or chain", () => {
  const proof = read(good);
  const other = pki.issue("spiffe://mesh.local/ns/default/sa/web");
  const wrong: [string, Proof, typeof binding][] = [
    ["role", proof, { ...binding, role: "server" }],
    ["trust domain", proof, { ...binding, trustDomain: "mesh.locam" }],
    ["connection", proof, { ...binding, exporter: Buffer.alloc(32, 8) }],
    ["number", { ...proof, counter: 4 }, binding],
    ["chain", { ...proof, chainHash: Buffer.alloc(32) }, binding],
    ["leaf", { ...proof, chain: other.chain }, binding],
    ["no leaf", { ...proof, chain: [] }, binding],
    ["signature", { ...proof, signature: flipped(proof.signature, proof.signature.length - 1) }, binding],
  ];
  for (const [what, altered, against] of wrong) expect(isSignedProof(altered, against), what).toBe(false);
});

test("a key that is not on P-256 proves nothing, although its signature holds", () => {
  const { privateKey: key } = generateKeyPairSync("ec", { namedCurve: "secp384r1" });
  const chain = [craft({ issuer: pki.issuer, key }), pki.intermediate];
  const written = writeProof({ chain, key }, binding);
  expect(because(written)).toContain("none of ECDSA with P-256");
  const signatureAt = 6 + written.readUInt16BE(4);
  const proof = {
    counter: 3,
    chain,
    chainHash: hash("sha256", written.subarray(6, signatureAt), "buffer"),
    signature: written.subarray(signatureAt + 1),
  };
  expect(isSignedProof(proof, binding)).toBe(false);
});

test("a proof that is cut anywhere, or goes on after its end, is refused", () => {
  for (let cut = 0; cut < good.length; cut++) {
    expect(because(good.subarray(0, cut)), `cut at ${cut}`).toMatch(/^MESSAGE_INVALID Cannot read the proof: /);
  }
  expect(because(Buffer.concat([good, Buffer.of(0)]))).toContain("something follows it");
});

test("what is too much of anything is refused before a certificate is read", () => {
  const part = Buffer.concat([uint16(leaf.der.length), leaf.der]);
  const signed = Buffer.of(8, 0, 0, 0, 0, 0, 0, 0, 0);
  const chainOf = (...parts: Buffer[]): Buffer => {
    const chain = Buffer.concat(parts);
    return Buffer.concat([Buffer.of(0, 0, 0, 1), uint16(chain.length), chain, signed]);
  };
  expect(because(chainOf(part, part, part, part))).toBe("read");
  expect(because(chainOf(part, part, part, part, part))).toContain("more than 4 certificates");
  expect(because(chainOf())).toContain("no certificate");
  expect(because(chainOf(part, uint16(0)))).toMatch(/^PEER_UNTRUSTED Cannot read the certificate/);
  expect(because(chainOf(part, Buffer.of(0)))).toContain("a length in its chain is cut off");
  expect(because(chainOf(part, uint16(2), Buffer.of(0)))).toContain("a certificate of its chain is cut off");
  expect(because(chainOf(Buffer.concat([uint16(16_370), Buffer.alloc(16_370)])))).toContain("16387 bytes");
  const head = good.subarray(0, 6 + good.readUInt16BE(4));
  expect(because(Buffer.concat([head, Buffer.of(0)]))).toContain("none of ECDSA");
  expect(because(Buffer.concat([head, Buffer.of(73), Buffer.alloc(73)]))).toContain("none of ECDSA");
});

test("a chain that no frame can carry is not written", () => {
  expect(() => writeProof({ ...web, chain: [] }, binding)).toThrow(RangeError);
  expect(() => writeProof({ ...web, chain: [leaf, leaf, leaf, leaf, leaf] }, binding)).toThrow(RangeError);
  const large = { ...leaf, der: Buffer.alloc(proofBytesMax) };
  expect(() => writeProof({ ...web, chain: [large] }, binding)).toThrow(RangeError);
});

test("whatever is changed in a proof, it is refused or its signature does not hold; nothing throws", () => {
  fc.assert(
    fc.property(fc.nat(good.length - 1), fc.integer({ min: 1, max: 255 }), (at, by) => {
      const altered = Buffer.from(good);
      altered[at] = (altered[at] as number) ^ by;
      const proof = readProof(altered);
      expect(isRefusal(proof) || !isSignedProof(proof, binding)).toBe(true);
    }),
    { numRuns: 500 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      expect(isRefusal(readProof(Buffer.from(bytes)))).toBe(true);
    }),
  );
});

function uint16(value: number): Buffer {
  return Buffer.of(value >>> 8, value & 0xff);
}

function flipped(bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[at] = (copy[at] as number) ^ 1;
  return copy;
}
