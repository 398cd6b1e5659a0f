/**
 * What a certificate costs: reading one, verifying a chain, reading a request, signing a leaf.
 * Run: npx node bench/x509/x509.ts
 */
import { makeTestPki } from "../../test/support/pki.ts";
import { readCertificate } from "../../src/x509/certificate.ts";
import { readCsr, writeCsr } from "../../src/x509/csr.ts";
import { generateKey } from "../../src/x509/keys.ts";
import { serialFrom, signLeaf } from "../../src/x509/leaf.ts";
import { verifyWorkload } from "../../src/x509/verify.ts";

const atMs = Date.UTC(2026, 0, 1);
const id = "spiffe://mesh.local/ns/default/sa/orders";
const dnsNames = ["orders.default.mesh"];
const pki = await makeTestPki({ wallMs: atMs });
const { issuer, root } = pki;
const { chain } = pki.issue(id, { dnsNames });
const ders = chain.map((certificate) => certificate.der);
const [leafDer = Buffer.alloc(0)] = ders;
const spki = chain[0]?.spki ?? Buffer.alloc(0);
const csr = writeCsr(generateKey());
const serial = serialFrom(Buffer.alloc(16, 1));

function measure(name: string, task: () => unknown): void {
  const rounds = 4_000;
  for (let round = 0; round < rounds / 4; round++) task();
  const startMs = performance.now();
  for (let round = 0; round < rounds; round++) task();
  const eachUs = ((performance.now() - startMs) * 1_000) / rounds;
  console.log(`${name.padEnd(44)} ${eachUs.toFixed(1)} us   ${Math.round(1e6 / eachUs)} per second`);
}

measure("readCertificate", () => readCertificate(leafDer));
measure("readCertificate of a chain, verifyWorkload", () => {
  const read = ders.map((der) => readCertificate(der) as (typeof chain)[number]);
  return verifyWorkload({ chain: read, roots: [root], trustDomain: "mesh.local", atMs });
});
measure("readCsr", () => readCsr(csr));
measure("signLeaf", () =>
  signLeaf(issuer, { spki, id, dnsNames, serial, notBeforeMs: atMs, notAfterMs: atMs + 3_600_000 }),
);
