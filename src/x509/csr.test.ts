import "reflect-metadata";
import { generateKeyPairSync, webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { extension, nameOf } from "../../test/support/crafted-certificate.ts";
import { hasProgram, runWith } from "../../test/support/openssl.ts";
import { isRefusal } from "../base/errors.ts";
import { readCsr, writeCsr } from "./csr.ts";
import { contextTag, tags } from "./der-reader.ts";
import { bitOctets, der, explicit, oid, sequence, smallInteger } from "./der-writer.ts";
import { generateKey, spkiOf } from "./keys.ts";
import { fromPem, toPem } from "./pem.ts";

const noOpenssl = !hasProgram("openssl", "version");
const key = generateKey();
const verdict = (bytes: Buffer): string => {
  const read = readCsr(bytes);
  return isRefusal(read) ? read.code : "accepted";
};

test("a request carries the key and asks for no name, and openssl agrees", ({ skip }) => {
  skip(noOpenssl, "openssl is not installed");
  const csr = writeCsr(key);
  const read = readCsr(csr);
  expect(read).toMatchObject({ spki: spkiOf(key), names: [] });
  const seen = runWith("openssl", ["req", "-in", "a.csr", "-verify", "-noout", "-subject"], {
    "a.csr": toPem("CERTIFICATE REQUEST", csr),
  });
  expect(seen.ok).toBe(true);
  expect(seen.output).toContain("verify OK");
});

test("a request that openssl made is read, and the names that it asks for are reported", ({ skip }) => {
  skip(noOpenssl, "openssl is not installed");
  const pem = key.export({ format: "pem", type: "pkcs8" });
  const names = "subjectAltName=URI:spiffe://mesh.local/admin/eve,DNS:eve.mesh";
  const made = runWith("openssl", ["req", "-new", "-key", "key.pem", "-subj", "/CN=eve", "-addext", names], {
    "key.pem": pem,
  });
  const blocks = fromPem(made.output);
  const read = isRefusal(blocks) ? blocks : readCsr(blocks[0]?.der ?? Buffer.alloc(0));
  expect(read).toMatchObject({ spki: spkiOf(key), names: ["spiffe://mesh.local/admin/eve", "eve.mesh"] });
});

test("a request that @peculiar/x509 made is read, and ours is verified by it", async () => {
  const algorithm = { name: "ECDSA", namedCurve: "P-256" };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const made = await x509.Pkcs10CertificateRequestGenerator.create(
    { name: "CN=orders", keys, signingAlgorithm: { name: "ECDSA", hash: "SHA-256" } },
    webcrypto,
  );
  expect(verdict(Buffer.from(made.rawData))).toBe("accepted");
  expect(await new x509.Pkcs10CertificateRequest(writeCsr(key)).verify(webcrypto)).toBe(true);
});

test("a request whose signature is another key's, or over other bytes, is refused", () => {
  const info = sequence(smallInteger(0), sequence(), spkiOf(generateKey()), explicit(0));
  const csr = writeCsr(key);
  const flipped = Buffer.from(csr);
  flipped[flipped.length - 1] = (flipped.at(-1) as number) ^ 1;
  expect(verdict(flipped)).toBe("CSR_SIGNATURE_WRONG");
  const algorithm = sequence(oid("1.2.840.10045.4.3.2"));
  expect(verdict(sequence(info, algorithm, bitOctets(Buffer.from("x"))))).toBe("CSR_SIGNATURE_WRONG");
  const otherAlgorithm = sequence(oid("1.2.840.10045.4.3.3"));
  expect(verdict(sequence(info, otherAlgorithm, bitOctets(Buffer.from("x"))))).toBe("CSR_SIGNATURE_WRONG");
});

test("keys other than a point on P-256 are refused", () => {
  for (const { publicKey } of [
    generateKeyPairSync("ec", { namedCurve: "P-384" }),
    generateKeyPairSync("ec", { namedCurve: "secp256k1" }),
    generateKeyPairSync("ed25519"),
    generateKeyPairSync("rsa", { modulusLength: 2048 }),
  ]) {
    expect(verdict(bare(publicKey.export({ format: "der", type: "spki" })))).toBe("CSR_KEY_REFUSED");
  }
  const off = Buffer.from(spkiOf(key));
  off[off.length - 1] = (off.at(-1) as number) ^ 1;
  expect(verdict(bare(off))).toBe("CSR_KEY_REFUSED");
});

function bare(spki: Buffer, ...attributes: Buffer[]): Buffer {
  const info = sequence(smallInteger(0), nameOf("x"), spki, explicit(0, ...attributes));
  return sequence(info, sequence(oid("1.2.840.10045.4.3.2")), bitOctets(Buffer.from("x")));
}

test("a request that is not strict, or too long, is malformed", () => {
  const csr = writeCsr(key);
  const attribute = (...values: Buffer[]): Buffer => sequence(oid("1.2.840.113549.1.9.14"), der(tags.set, ...values));
  const spki = spkiOf(key);
  const cases = [
    Buffer.alloc(0),
    Buffer.alloc(5000, 0x30),
    Buffer.concat([csr, Buffer.from([5, 0])]),
    csr.subarray(0, -1),
    sequence(csr),
    bare(spki, attribute(sequence()), attribute(sequence())),
    bare(spki, attribute()),
    bare(spki, attribute(sequence())),
    bare(spki, attribute(sequence(extension("1.2.3.4", Buffer.from("x"), true)))),
    bare(spki, der(contextTag(1), Buffer.alloc(0))),
    bare(sequence()).fill(0x82, 1, 2),
  ];
  expect(cases.map(verdict)).toEqual(cases.map(() => "CSR_MALFORMED"));
});

test("random and cut requests are refused, never thrown over", () => {
  const csr = writeCsr(key);
  for (let end = 0; end < csr.length; end++) expect(verdict(csr.subarray(0, end))).toBe("CSR_MALFORMED");
  fc.assert(
    fc.property(fc.nat({ max: csr.length - 1 }), fc.nat({ max: 255 }), (index, octet) => {
      const changed = Buffer.from(csr);
      changed[index] = octet;
      expect(verdict(changed) === "accepted").toBe(changed.equals(csr));
    }),
    { numRuns: 300 },
  );
});
