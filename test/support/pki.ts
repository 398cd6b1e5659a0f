import type { KeyObject } from "node:crypto";
import { HauberkError, isRefusal } from "../../src/base/errors.ts";
import { parseSpiffeId } from "../../src/base/spiffe-id.ts";
import { makeIntermediate, makeRoot } from "../../src/x509/ca-certificate.ts";
import { readCertificate, type Certificate } from "../../src/x509/certificate.ts";
import { generateKey, spkiOf } from "../../src/x509/keys.ts";
import { serialFrom, signLeaf, type Issuer } from "../../src/x509/leaf.ts";
import type { TlsIdentity } from "../../src/x509/tls-identity.ts";
import { SeededRandom } from "./seeded-random.ts";

export interface TestPki {
  readonly trustDomain: string;
  readonly root: Certificate;
  readonly rootKey: KeyObject;
  readonly intermediate: Certificate;
  /** The intermediate as what signs leaves. */
  readonly issuer: Issuer;
  /** A leaf with a fresh key: `issue("spiffe://…/ns/default/sa/orders")`; by default it lives from `wallMs` on. */
  issue(id: string, wish?: LeafWish): TlsIdentity;
}

export interface LeafWish {
  readonly dnsNames?: readonly string[];
  readonly notBeforeMs?: number;
  readonly notAfterMs?: number;
}

const yearMs = 365 * 24 * 3_600_000;

/**
 * A real authority for tests: root, intermediate and leaves as the product makes them.
 * Defaults: trust domain mesh.local, 2026-01-01 (where ManualClock starts), leaves of one hour, authorities from a
 * year before to ten after. For tests over real TLS pass `wallMs: Date.now()`.
 */
export async function makeTestPki(
  wish: { trustDomain?: string; wallMs?: number; lifetimeMs?: number } = {},
): Promise<TestPki> {
  const { trustDomain = "mesh.local", wallMs = Date.UTC(2026, 0, 1), lifetimeMs = 3_600_000 } = wish;
  const random = new SeededRandom(wallMs % 2 ** 32);
  const serial = (): Buffer => serialFrom(random.bytes(16));
  const life = { notBeforeMs: wallMs - yearMs, notAfterMs: wallMs + 10 * yearMs };
  const rootKey = generateKey();
  const root = await makeRoot({ trustDomain, commonName: "Test root", ...life, serial: serial(), key: rootKey });
  const key = generateKey();
  const intermediate = await makeIntermediate(
    { trustDomain, commonName: "Test intermediate", ...life, serial: serial(), key },
    { key: rootKey, certificate: root },
  );
  const issuer: Issuer = { key, certificate: intermediate };
  let generation = 0;
  const issue = (id: string, leafWish: LeafWish = {}): TlsIdentity => {
    const leafKey = generateKey();
    const leaf = {
      spki: spkiOf(leafKey),
      id,
      dnsNames: leafWish.dnsNames ?? [],
      serial: serial(),
      notBeforeMs: leafWish.notBeforeMs ?? wallMs - 60_000,
      notAfterMs: leafWish.notAfterMs ?? wallMs + lifetimeMs,
    };
    const certificate = certain(readCertificate(signLeaf(issuer, leaf)));
    return Object.freeze({
      id: certain(parseSpiffeId(id)),
      chain: [certificate, intermediate],
      key: leafKey,
      roots: [root],
      bundleSequence: 1,
      issuedAtMs: Math.max(wallMs, leaf.notBeforeMs),
      notAfterMs: certificate.notAfterMs,
      generation: ++generation,
    });
  };
  return { trustDomain, root, rootKey, intermediate, issuer, issue };
}

function certain<T>(value: T): Exclude<T, { refused: true }> {
  if (isRefusal(value)) throw HauberkError.from(value);
  return value as Exclude<T, { refused: true }>;
}
