import { randomBytes, type KeyObject } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { request } from "node:https";
import { join } from "node:path";
import { openCa } from "../../src/authority/ca-files.ts";
import type { IssuedAnswer } from "../../src/contract/enrollment.ts";
import { writeCsr } from "../../src/x509/csr.ts";
import { generateKey, spkiOf } from "../../src/x509/keys.ts";
import { serialFrom, signLeaf } from "../../src/x509/leaf.ts";
import { toPem } from "../../src/x509/pem.ts";
import type { Mesh } from "../support/mesh.ts";
import type { ClientIdentity } from "./routees.ts";

/** Somebody who holds an identity of the mesh and no sidecar: nothing renews it, and it says on the wire what it likes. */
export interface Stranger extends ClientIdentity {
  readonly privateKey: KeyObject;
  readonly answer: IssuedAnswer;
}

/** Enrolls with a token of its own, as any program could that speaks the protocol. */
export async function enrollStranger(mesh: Mesh, service: string): Promise<Stranger> {
  const key = generateKey();
  const done = await enrollWith(mesh, service, writeCsr(key).toString("base64"));
  if (done.status !== 200) throw new Error(`enrollment answered ${done.status} ${done.body}`);
  return { ...identityFrom(mesh, key, JSON.parse(done.body) as IssuedAnswer) };
}

/** What the control plane answers to a fresh token of `service` with this request for a certificate. */
export async function enrollWith(mesh: Mesh, service: string, csr: string): Promise<{ status: number; body: string }> {
  const token = readFileSync(await mesh.token(service), "utf8").trim();
  const recoveryKey = spkiOf(generateKey()).toString("base64");
  return askControl({ mesh, port: mesh.ports.enrollment, path: "/v1/enroll" }, { token, csr, recoveryKey });
}

function identityFrom(mesh: Mesh, privateKey: KeyObject, answer: IssuedAnswer): Stranger {
  return {
    privateKey,
    answer,
    key: privateKey.export({ type: "pkcs8", format: "pem" }),
    cert: answer.chain.map((der) => toPem("CERTIFICATE", Buffer.from(der, "base64"))).join(""),
    ca: readFileSync(join(mesh.home, "ca", "root.crt"), "utf8"),
    notAfterMs: answer.notAfterMs,
  };
}

/**
 * An identity signed here with the mesh's own issuing key, as only its control plane could: one that ends when the test
 * wants it to, and that nobody renews.
 */
export function signIdentity(mesh: Mesh, id: string, endsInMs: number): ClientIdentity {
  const folder = join(mesh.folder, "state", "hauberk", "passphrases");
  const passphrase = readFileSync(join(folder, readdirSync(folder)[0] ?? "", "issuing.passphrase"), "utf8").trim();
  const { issuer } = openCa(join(mesh.home, "ca"), passphrase, "mesh.local");
  const key = generateKey();
  // Certificates end with a whole second.
  const notAfterMs = Math.floor((Date.now() + endsInMs) / 1000) * 1000;
  const notBeforeMs = Math.max(issuer.certificate.notBeforeMs, Math.min(Date.now(), notAfterMs) - 30_000);
  const names = { id, dnsNames: [], serial: serialFrom(randomBytes(16)) };
  const leaf = signLeaf(issuer, { spki: spkiOf(key), ...names, notBeforeMs, notAfterMs });
  return pemOf({ chain: [leaf, issuer.certificate.der], key, notAfterMs });
}

export function pemOf(made: { chain: readonly Buffer[]; key: KeyObject; notAfterMs: number }): ClientIdentity {
  return {
    key: made.key.export({ type: "pkcs8", format: "pem" }),
    cert: made.chain.map((der) => toPem("CERTIFICATE", der)).join(""),
    ca: "",
    notAfterMs: made.notAfterMs,
  };
}

/** One JSON question to the control plane, with or without a certificate. */
export function askControl(
  where: { mesh: Mesh; port: number; path: string; identity?: ClientIdentity },
  body: object,
): Promise<{ status: number; body: string }> {
  const { port, path, identity } = where;
  const text = JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const outgoing = request(
      {
        host: "127.0.0.1",
        port,
        path,
        method: "POST",
        agent: false,
        ...(identity === undefined ? {} : { key: identity.key, cert: identity.cert }),
        ca: readFileSync(join(where.mesh.home, "ca", "root.crt"), "utf8"),
        checkServerIdentity: () => undefined, // A control plane is known by its SPIFFE ID, and a test by its port.
        headers: { "content-type": "application/json", "content-length": Buffer.byteLength(text) },
      },
      (incoming) => {
        const chunks: Buffer[] = [];
        incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
        incoming.once("end", () =>
          resolve({ status: incoming.statusCode ?? 0, body: Buffer.concat(chunks).toString("utf8") }),
        );
      },
    );
    outgoing.once("error", reject);
    outgoing.end(text);
  });
}
