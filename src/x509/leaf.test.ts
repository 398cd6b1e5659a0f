import * as fc from "fast-check";
import { expect, test } from "vitest";
import { workload } from "../../test/support/crafted-certificate.ts";
import { hasProgram, runWith } from "../../test/support/openssl.ts";
import { makeTestPki } from "../../test/support/pki.ts";
import { HauberkError, isRefusal } from "../base/errors.ts";
import { publicKeyOf, readCertificate, type Certificate } from "./certificate.ts";
import { generateKey, spkiOf } from "./keys.ts";
import { serialFrom, signLeaf, type Leaf } from "./leaf.ts";
import { toPem } from "./pem.ts";

const noOpenssl = !hasProgram("openssl", "version");
const atMs = Date.UTC(2026, 0, 1);
const pki = await makeTestPki({ wallMs: atMs });
const key = generateKey();
const good: Leaf = {
  spki: spkiOf(key),
  id: workload,
  dnsNames: ["orders.default.mesh"],
  serial: serialFrom(Buffer.alloc(16, 0xee)),
  notBeforeMs: atMs,
  notAfterMs: atMs + 3_600_000,
};

const signed = (wish: Partial<Leaf>): Certificate => {
  const certificate = readCertificate(signLeaf(pki.issuer, { ...good, ...wish }));
  if (isRefusal(certificate)) throw new Error(certificate.message);
  return certificate;
};
const thrown = (wish: Partial<Leaf>): string => {
  try {
    signLeaf(pki.issuer, { ...good, ...wish });
  } catch (error) {
    return error instanceof HauberkError ? `${error.code}: ${error.message}` : String(error);
  }
  return "signed";
};

function verifyStrict(leaf: Certificate, at = atMs): { ok: boolean; output: string } {
  const options = ["-x509_strict", "-policy_check", "-attime", String(at / 1000)];
  return runWith(
    "openssl",
    ["verify", ...options, "-CAfile", "root.pem", "-untrusted", "intermediate.pem", "leaf.pem"],
    {
      "root.pem": toPem("CERTIFICATE", pki.root.der),
      "intermediate.pem": toPem("CERTIFICATE", pki.intermediate.der),
      "leaf.pem": toPem("CERTIFICATE", leaf.der),
    },
  );
}

test("a leaf has an empty subject, one critical URI name, its DNS names, and may only authenticate", () => {
  const leaf = signed({});
  expect(leaf).toMatchObject({
    serial: good.serial.toString("hex"),
    uris: [workload],
    dnsNames: ["orders.default.mesh"],
    sanCritical: true,
    ca: false,
    pathLength: undefined,
    keyUsageCritical: true,
    extendedKeyUsage: ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"],
    notBeforeMs: good.notBeforeMs,
    notAfterMs: good.notAfterMs,
    authorityKeyId: pki.intermediate.subjectKeyId,
  });
  expect(leaf.subject.toString("hex")).toBe("3000");
  expect([...(leaf.keyUsage ?? [])]).toEqual(["digitalSignature"]);
  expect(publicKeyOf(leaf).export({ format: "jwk" })).toMatchObject({ crv: "P-256" });
  expect(leaf.spki).toEqual(good.spki);
});

test("openssl verify -x509_strict accepts leaves of any name, serial and time", ({ skip }) => {
  skip(noOpenssl, "openssl is not installed");
  const segment = fc.stringMatching(/^[a-z0-9][a-z0-9-]{0,20}[a-z0-9]$/);
  const wish = fc.record({
    service: segment,
    namespace: segment,
    random: fc.uint8Array({ minLength: 16, maxLength: 16 }),
    dns: fc.boolean(),
    seconds: fc.integer({ min: 1, max: 9 * 365 * 86_400 }),
  });
  fc.assert(
    fc.property(wish, ({ service, namespace, random, dns, seconds }) => {
      const leaf = signed({
        id: `spiffe://mesh.local/ns/${namespace}/sa/${service}`,
        dnsNames: dns ? [`${service}.${namespace}.mesh`] : [],
        serial: serialFrom(Buffer.from(random)),
        notAfterMs: atMs + seconds * 1000,
      });
      expect(verifyStrict(leaf)).toEqual({ ok: true, output: "leaf.pem: OK\n" });
    }),
    { numRuns: 12 },
  );
});

test("openssl refuses what the name constraints of the intermediate forbid", ({ skip }) => {
  skip(noOpenssl, "openssl is not installed");
  // The issuer would throw; without its constraints at hand it signs, and openssl sees the certificate itself.
  const blind = { key: pki.issuer.key, certificate: { ...pki.intermediate, nameConstraints: undefined } };
  for (const wish of [{ id: "spiffe://evil.example/a", dnsNames: [] }, { dnsNames: ["evil.example"] }]) {
    const evil = readCertificate(signLeaf(blind, { ...good, ...wish }));
    if (isRefusal(evil)) throw new Error(evil.message);
    expect(verifyStrict(evil).output).toContain("permitted subtree violation");
  }
});

test("a leaf that ends after 2049 has a GeneralizedTime, and openssl reads the same end", async ({ skip }) => {
  skip(noOpenssl, "openssl is not installed");
  const late = await makeTestPki({ wallMs: Date.UTC(2049, 11, 31, 23, 30) });
  const leaf = late.issue(workload).chain[0] as Certificate;
  const { output } = runWith("openssl", ["x509", "-in", "leaf.pem", "-noout", "-enddate"], {
    "leaf.pem": toPem("CERTIFICATE", leaf.der),
  });
  expect(output).toBe("notAfter=Jan  1 00:30:00 2050 GMT\n");
  expect(leaf.notAfterMs).toBe(Date.UTC(2050, 0, 1, 0, 30));
});

test("ID-1, ID-2, ID-3, ID-4, X-2: names that are no workload's identity are not signed", () => {
  const wrong = [
    "",
    "https://mesh.local/a",
    "spiffe://mesh.local",
    "spiffe://mesh.local/",
    "spiffe://mesh.local/a/",
    "spiffe://mesh.local/../a",
    "spiffe://Mesh.local/a",
    "spiffe://mesh.local/a?b",
    "spiffe://mesh.local/a#b",
    "spiffe://mesh.local/a%20b",
    "spiffe://mesh.local:1/a",
    "spiffe://mesh.local/a\u0000b",
    `spiffe://mesh.local/${"a".repeat(2048)}`,
  ];
  for (const id of wrong) expect([id, thrown({ id })]).toEqual([id, expect.stringContaining("GRANT_IMPOSSIBLE")]);
  for (const name of ["", "*.mesh", "a..mesh", "A.mesh", "a.mesh.", "a_b.mesh", "a\u0000.mesh", "a,URI:b", "é.mesh"]) {
    expect([name, thrown({ dnsNames: [name] })]).toEqual([name, expect.stringContaining("GRANT_IMPOSSIBLE")]);
  }
});

test("X-5: an issuer does not sign what its own name constraints forbid", () => {
  expect(thrown({ id: "spiffe://evil.example/a" })).toContain("GRANT_IMPOSSIBLE");
  expect(thrown({ dnsNames: ["evil.example"] })).toContain("GRANT_IMPOSSIBLE");
});

test("X-1, X-4, X-6, X-7: whatever is signed has one URI, no CA bit, the one usage and both purposes", () => {
  const id = fc.stringMatching(/^[a-zA-Z0-9_-]{1,40}$/).map((path) => `spiffe://mesh.local/${path}`);
  fc.assert(
    fc.property(id, (text) => {
      const leaf = signed({ id: text });
      expect([leaf.uris, leaf.ca, leaf.extendedKeyUsage?.length, leaf.keyUsage?.size]).toEqual([[text], false, 2, 1]);
    }),
    { numRuns: 40 },
  );
});

test("a leaf never outlives its issuer, ends after it begins, and is of P-256", () => {
  const end = pki.intermediate.notAfterMs;
  expect(thrown({ notAfterMs: end })).toBe("signed");
  expect(thrown({ notAfterMs: end + 999 })).toBe("signed");
  expect(signed({ notAfterMs: end + 999 }).notAfterMs).toBe(end);
  expect(thrown({ notAfterMs: end + 1000 })).toContain("outlives its issuer");
  expect(thrown({ notAfterMs: good.notBeforeMs })).toContain("ends before it begins");
  expect(thrown({ spki: good.spki.subarray(1) })).toContain("not on P-256");
  expect(thrown({ serial: Buffer.alloc(16) })).toContain("serialFrom");
  expect(thrown({ serial: Buffer.alloc(15, 0x41) })).toContain("serialFrom");
});

test("a leaf issues nothing", () => {
  const leaf = signed({});
  expect(() => signLeaf({ key, certificate: leaf }, good)).toThrow("may not sign certificates");
});

test("a serial is 16 positive octets whatever was drawn", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (random) => {
      const serial = serialFrom(Buffer.from(random));
      expect(signed({ serial }).serial).toBe(serial.toString("hex"));
    }),
    { numRuns: 30 },
  );
});
