import "reflect-metadata";
import { X509Certificate } from "node:crypto";
import { AsnConvert } from "@peculiar/asn1-schema";
import { SubjectAlternativeName } from "@peculiar/asn1-x509";
import * as x509 from "@peculiar/x509";
import * as fc from "fast-check";
import { expect, test } from "vitest";
import {
  craft,
  craftDer,
  dnsName,
  extension,
  namedBits,
  nameOf,
  uriName,
  workload,
  type Crafted,
} from "../../test/support/crafted-certificate.ts";
import { makeTestPki } from "../../test/support/pki.ts";
import { isRefusal } from "../base/errors.ts";
import { fingerprintOf, publicKeyOf, readCertificate, type Certificate } from "./certificate.ts";
import { contextTag, tags } from "./der-reader.ts";
import { der, integer, octetString, oid, sequence, smallInteger } from "./der-writer.ts";
import { extensionOids } from "./extensions.ts";
import { verifyWorkload } from "./verify.ts";

const pki = await makeTestPki();
const { issuer } = pki;

const verdict = (bytes: Buffer): string => {
  const read = readCertificate(bytes);
  return isRefusal(read) ? `${read.code}: ${read.message}` : "accepted";
};
const crafted = (wish: Omit<Crafted, "issuer">): string => verdict(craftDer({ issuer, ...wish }));
const san = (...names: Buffer[]): { onlyExtensions: Buffer[] } => ({
  onlyExtensions: [extension(extensionOids.subjectAltName, sequence(...names), true)],
});

test("a certificate is read as OpenSSL and @peculiar/x509 read it", () => {
  const leaf = pki.issue(workload, { dnsNames: ["orders.default.mesh"] }).chain[0] as Certificate;
  for (const certificate of [pki.root, pki.intermediate, leaf]) {
    const node = new X509Certificate(certificate.der);
    const peculiar = new x509.X509Certificate(certificate.der);
    expect(certificate.serial).toBe(node.serialNumber.toLowerCase());
    expect(certificate.notAfterMs).toBe(peculiar.notAfter.getTime());
    expect(certificate.notBeforeMs).toBe(peculiar.notBefore.getTime());
    expect(certificate.ca).toBe(node.ca);
    expect(publicKeyOf(certificate).equals(node.publicKey)).toBe(true);
    expect(publicKeyOf(certificate)).toBe(publicKeyOf(certificate));
    expect(fingerprintOf(certificate.der)).toBe(node.fingerprint256.replaceAll(":", "").toLowerCase());
    expect(certificate.issuer).toEqual(Buffer.from(peculiar.issuerName.toArrayBuffer()));
  }
});

test("alternative names are those that @peculiar/x509 sees, for any names", () => {
  const label = fc.stringMatching(/^[a-z0-9]{1,12}$/);
  fc.assert(
    fc.property(
      fc.array(label, { minLength: 1, maxLength: 4 }),
      fc.array(label, { maxLength: 3 }),
      (uris, dnsNames) => {
        const certificate = craft({ issuer, uris: uris.map((uri) => `spiffe://mesh.local/${uri}`), dnsNames });
        const theirs = new x509.X509Certificate(certificate.der).getExtension(extensionOids.subjectAltName);
        const names = AsnConvert.parse(theirs?.value ?? new ArrayBuffer(0), SubjectAlternativeName);
        expect(certificate.uris).toEqual(names.flatMap((name) => name.uniformResourceIdentifier ?? []));
        expect(certificate.dnsNames).toEqual(names.flatMap((name) => name.dNSName ?? []));
      },
    ),
    { numRuns: 30 },
  );
});

test("bytes before, after or beyond a certificate are refused", () => {
  const good = craftDer({ issuer });
  expect(verdict(good)).toBe("accepted");
  expect(verdict(Buffer.concat([good, Buffer.from([0])]))).toContain("bytes follow the certificate");
  expect(verdict(good.subarray(0, -1))).toContain("PEER_UNTRUSTED");
  expect(verdict(Buffer.alloc(0))).toContain("PEER_UNTRUSTED");
  expect(verdict(Buffer.alloc(16 * 1024 + 1, 0x30))).toContain("longer than 16384");
});

test("long-form lengths and indefinite lengths are refused wherever they stand", () => {
  const good = craftDer({ issuer });
  const content = good.subarray(4);
  const longer = Buffer.concat([Buffer.from([0x30, 0x83, 0, content.length >> 8, content.length & 255]), content]);
  expect(verdict(longer)).toContain("a length is not minimal");
  expect(verdict(Buffer.concat([Buffer.from([0x30, 0x80]), content, Buffer.from([0, 0])]))).toContain("indefinite");
  const longName = Buffer.concat([Buffer.from([0x30, 0x81, 0x0a]), nameOf("x").subarray(2)]);
  expect(crafted({ subject: longName })).toContain("a length is not minimal");
});

test("an extension that comes twice, or is critical and unknown, refuses the certificate", () => {
  const usage = extension(extensionOids.keyUsage, namedBits([0]), true);
  expect(crafted({ extensions: [usage] })).toContain("extension 2.5.29.15 is there twice");
  expect(crafted({ extensions: [extension("1.2.3.4", octetString(Buffer.from("x")), true)] })).toContain("critical");
  expect(crafted({ extensions: [extension("1.2.3.4", octetString(Buffer.from("x")))] })).toBe("accepted");
  const falseFlag = sequence(oid("1.2.3.4"), der(tags.boolean, Buffer.from([0])), octetString(Buffer.alloc(1)));
  expect(crafted({ extensions: [falseFlag] })).toContain("a default is written out");
  const flag = sequence(oid("1.2.3.4"), der(tags.boolean, Buffer.from([1])), octetString(Buffer.alloc(1)));
  expect(crafted({ extensions: [flag] })).toContain("neither 00 nor FF");
  expect(crafted({ onlyExtensions: [] })).toBe("accepted");
});

test("names with NUL, blanks, line breaks or other than ASCII are refused (row 35)", () => {
  for (const text of [`${workload}\u0000.evil`, `${workload} `, `${workload}\n`, `${workload}é`, `\u0000`]) {
    expect([text, crafted(san(uriName(text)))]).toEqual([text, expect.stringContaining("visible ASCII")]);
    expect([text, crafted(san(dnsName(text)))]).toEqual([text, expect.stringContaining("visible ASCII")]);
  }
  const withNul = sequence(
    oid("1.3.6.1.4.1.311.20.2.3"),
    der(contextTag(0), der(tags.utf8String, Buffer.from("a\u0000b"))),
  );
  const otherName = der(contextTag(0), withNul.subarray(2));
  const read = craft({ issuer, otherNames: [otherName, der(contextTag(7, false), Buffer.from([127, 0, 0, 1]))] });
  // Names of other kinds never become text, so that nothing can be split out of them.
  expect([read.uris, read.dnsNames]).toEqual([[workload], []]);
});

test("a name that carries another name's text stays one name (CVE-2021-44532)", () => {
  const read = craft({
    issuer,
    uris: [workload],
    dnsNames: ['a",URI:spiffe://mesh.local/ns/default/sa/admin'.replaceAll(" ", "")],
  });
  expect(read.uris).toEqual([workload]);
  expect(read.dnsNames).toHaveLength(1);
});

test("the parts of a certificate that contradict the standard are refused", () => {
  const sha384 = sequence(oid("1.2.840.10045.4.3.3"));
  const nullParameter = sequence(oid("1.2.840.10045.4.3.2"), der(tags.null));
  const cases: [string, Omit<Crafted, "issuer">][] = [
    ["version is not 3", { version: 1 }],
    ["two signature algorithms differ", { outerAlgorithm: sha384 }],
    ["bytes follow the algorithm", { algorithm: nullParameter }],
    ["serial number", { serial: der(tags.integer, Buffer.from([0])) }],
    ["serial number", { serial: der(tags.integer, Buffer.from([0x80])) }],
    ["serial number", { serial: integer(Buffer.alloc(21, 1)) }],
    ["integer is not minimal", { serial: der(tags.integer, Buffer.from([0, 1])) }],
    ["its list of names is empty", san()],
    ["no known kind", san(der(contextTag(9, false), Buffer.from("x")))],
    ["no known kind", san(der(contextTag(6), der(0x16, Buffer.from("x"))))],
    [
      "key usage is empty",
      { onlyExtensions: [extension(extensionOids.keyUsage, der(tags.bitString, Buffer.from([0])), true)] },
    ],
    ["without a meaning", { onlyExtensions: [extension(extensionOids.keyUsage, namedBits([9]), true)] }],
    ["extended key usage is empty", { purposes: [] }],
    ["path length and is no authority", { ca: false, pathLength: 0 }],
    ["authority without a name", { ca: true }],
    [
      "a default is written out",
      { onlyExtensions: [extension(extensionOids.basicConstraints, sequence(der(tags.boolean, Buffer.from([0]))))] },
    ],
    [
      "bytes follow the basic constraints",
      { onlyExtensions: [extension(extensionOids.basicConstraints, sequence(smallInteger(0), smallInteger(0)))] },
    ],
    [
      "bytes follow extension",
      {
        onlyExtensions: [
          extension(extensionOids.subjectKeyId, Buffer.concat([octetString(Buffer.from("k")), Buffer.from([5, 0])])),
        ],
      },
    ],
    ["neither URIs nor DNS names", { onlyExtensions: [constraints(der(contextTag(1, false), Buffer.from("mail")))] }],
    ["names nothing", { onlyExtensions: [constraints(uriName(""))] }],
    ["name constraints are empty", { onlyExtensions: [extension(extensionOids.nameConstraints, sequence())] }],
  ];
  for (const [because, wish] of cases) expect(crafted(wish)).toContain(because);
});

function constraints(name: Buffer): Buffer {
  return extension(extensionOids.nameConstraints, sequence(der(contextTag(0), sequence(name))), true);
}

test("random bytes and cut certificates are refused, never thrown over", () => {
  const good = craftDer({ issuer });
  for (let end = 0; end < good.length; end++) expect(isRefusal(readCertificate(good.subarray(0, end)))).toBe(true);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (octets) => isRefusal(readCertificate(Buffer.from(octets)))),
  );
  const inside = fc.uint8Array({ maxLength: 60 });
  fc.assert(
    fc.property(fc.constantFrom(...Object.values(extensionOids)), inside, fc.boolean(), (name, value, critical) => {
      const wish = { issuer, onlyExtensions: [extension(name, Buffer.from(value), critical)] };
      expect(typeof verdict(craftDer(wish))).toBe("string");
    }),
    { numRuns: 200 },
  );
});

test("no change of one octet leaves a leaf that verifies", () => {
  const { root, intermediate } = pki;
  const leaf = pki.issue(workload).chain[0] as Certificate;
  const verify = (certificate: Certificate): boolean => {
    const atMs = Date.UTC(2026, 0, 1);
    return !isRefusal(
      verifyWorkload({ chain: [certificate, intermediate], roots: [root], trustDomain: "mesh.local", atMs }),
    );
  };
  expect(verify(leaf)).toBe(true);
  let read = 0;
  for (let index = 0; index < leaf.der.length; index++) {
    const changed = Buffer.from(leaf.der);
    changed[index] = (changed[index] as number) ^ (1 << (index % 8));
    const certificate = readCertificate(changed);
    if (isRefusal(certificate)) continue;
    read++;
    expect(verify(certificate)).toBe(false);
  }
  expect(read).toBeGreaterThan(100);
});

test("a certificate does not change with the buffer that it was read from", () => {
  const bytes = Buffer.from(craftDer({ issuer }));
  const certificate = readCertificate(bytes);
  bytes.fill(0);
  expect(isRefusal(certificate) ? undefined : certificate.der[0]).toBe(0x30);
});
