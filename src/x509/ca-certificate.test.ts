import { expect, test } from "vitest";
import { hasProgram, runWith } from "../../test/support/openssl.ts";
import { makeTestPki } from "../../test/support/pki.ts";
import { makeIntermediate, makeRoot } from "./ca-certificate.ts";
import { generateKey } from "./keys.ts";
import { serialFrom } from "./leaf.ts";
import { toPem } from "./pem.ts";
import { verifyChain } from "./verify.ts";

const noOpenssl = !hasProgram("openssl", "version");
const atMs = Date.UTC(2026, 0, 1);
const pki = await makeTestPki({ wallMs: atMs });
const life = { notBeforeMs: atMs, notAfterMs: atMs + 3_600_000 };
const serial = serialFrom(Buffer.alloc(16, 3));

test("a root is self-signed, may sign certificates and lists, and names its trust domain", () => {
  expect(pki.root).toMatchObject({
    ca: true,
    pathLength: undefined,
    uris: ["spiffe://mesh.local"],
    keyUsageCritical: true,
    authorityKeyId: pki.root.subjectKeyId,
    nameConstraints: undefined,
  });
  expect([...(pki.root.keyUsage ?? [])]).toEqual(["keyCertSign", "cRLSign"]);
  expect(pki.root.subject).toEqual(pki.root.issuer);
  expect(verifyChain({ chain: [pki.root], roots: [pki.root], atMs })).toBe(true);
});

test("an intermediate signs leaves only, of its trust domain and below mesh only", () => {
  expect(pki.intermediate).toMatchObject({
    ca: true,
    pathLength: 0,
    keyUsageCritical: true,
    authorityKeyId: pki.root.subjectKeyId,
    nameConstraints: { permittedUris: ["mesh.local"], permittedDns: ["mesh"], excludedUris: [], excludedDns: [] },
  });
  expect(pki.intermediate.issuer).toEqual(pki.root.subject);
  expect(verifyChain({ chain: [pki.intermediate], roots: [pki.root], atMs })).toBe(true);
});

test("openssl takes root and intermediate as strict, and the constraints as critical", ({ skip }) => {
  skip(noOpenssl, "openssl is not installed");
  const files = { "root.pem": toPem("CERTIFICATE", pki.root.der), "i.pem": toPem("CERTIFICATE", pki.intermediate.der) };
  const verified = runWith(
    "openssl",
    ["verify", "-x509_strict", "-attime", String(atMs / 1000), "-CAfile", "root.pem", "i.pem"],
    files,
  );
  expect(verified).toEqual({ ok: true, output: "i.pem: OK\n" });
  const text = runWith("openssl", ["x509", "-in", "i.pem", "-noout", "-text"], files).output;
  expect(text).toMatch(/Name Constraints: critical\s+Permitted:\s+URI:mesh.local\s+DNS:mesh/);
});

test("a name with commas, quotes and letters beyond ASCII still chains byte for byte", async () => {
  const rootKey = generateKey();
  const commonName = 'Mésh, "the" = root + one\\';
  const root = await makeRoot({ trustDomain: "mesh.local", commonName, ...life, serial, key: rootKey });
  const intermediate = await makeIntermediate(
    { trustDomain: "mesh.local", commonName, ...life, serial, key: generateKey() },
    { key: rootKey, certificate: root },
  );
  expect(intermediate.issuer).toEqual(root.subject);
  expect(verifyChain({ chain: [intermediate], roots: [root], atMs })).toBe(true);
});

test("an intermediate does not outlive its root, and a trust domain has SPIFFE's form", async () => {
  const wish = { trustDomain: "mesh.local", commonName: "x", serial, key: generateKey(), ...life };
  const root = { key: pki.rootKey, certificate: pki.root };
  await expect(makeIntermediate({ ...wish, notAfterMs: pki.root.notAfterMs + 1000 }, root)).rejects.toThrow(
    "outlives its root",
  );
  await expect(makeRoot({ ...wish, trustDomain: "Mesh" })).rejects.toThrow("trust domain");
  await expect(makeRoot({ ...wish, trustDomain: "" })).rejects.toThrow("trust domain");
});
