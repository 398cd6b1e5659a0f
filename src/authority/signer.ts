import { hash } from "node:crypto";
import { assert, HauberkError, isRefusal, refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { Random } from "../base/random.ts";
import { adminId, controlId, serviceId } from "../base/spiffe-id.ts";
import type { LeafHolder, LeafRow } from "../storage/rows.ts";
import { readCertificate } from "../x509/certificate.ts";
import { readCsr, type CertificateRequest } from "../x509/csr.ts";
import { generateKey, spkiOf } from "../x509/keys.ts";
import { serialFrom, signLeaf } from "../x509/leaf.ts";
import type { OpenedCa } from "./ca-files.ts";
import { leafLife, lifetimeLeastMs } from "./leaf-life.ts";
import type { authorityOptions } from "./options.ts";
import { checkAgainst, type LeafProfile } from "./profiles.ts";

/** What a leaf is to say and where it comes from. The names are the authority's, never the requester's. */
export interface LeafWish {
  readonly holder: LeafHolder;
  readonly owner: string;
  readonly identity: string;
  /** Of a workload: what its DNS names are made from. */
  readonly service?: string;
  readonly namespace?: string;
  readonly spki: Buffer;
  readonly parent: string | null;
  readonly token: string | null;
}

/** SHA-256 of a SubjectPublicKeyInfo, as the store keeps it. */
export function keyHashOf(spki: Uint8Array): string {
  return hash("sha256", spki, "hex");
}

/** Signs leaves by the profiles and the options. */
export class Signer {
  readonly #ca: OpenedCa;
  readonly #random: Random;
  readonly #backdateMs: number;
  readonly #lifetimes: Readonly<Record<LeafHolder, number>>;
  readonly #profiles: Readonly<Record<LeafHolder, LeafProfile>>;

  /** Throws CONFIG_INVALID where options and profiles contradict, or a profile says what would not be signed. */
  constructor(context: {
    ca: OpenedCa;
    random: Random;
    trustDomain: string;
    options: OptionValues<typeof authorityOptions>;
  }) {
    const { ca, options } = context;
    this.#ca = ca;
    this.#random = context.random;
    this.#backdateMs = options.backdateMs;
    this.#profiles = { workload: ca.profiles.workload, control: ca.profiles.control, administrator: ca.profiles.admin };
    this.#lifetimes = {
      workload: allowed("leafLifetimeMs", ca.profiles.workload, options),
      control: allowed("controlLifetimeMs", ca.profiles.control, options),
      administrator: allowed("adminLifetimeMs", ca.profiles.admin, options),
    };
    this.#probe(context.trustDomain);
  }

  /** The leaf's life decides first: nothing is to be spent on a leaf that cannot be signed. */
  lifeOf(holder: LeafHolder, atMs: number): ReturnType<typeof leafLife> {
    const backdateMs = Math.min(this.#backdateMs, this.#profiles[holder].backdateMaxMs);
    return leafLife({ atMs, lifetimeMs: this.#lifetimes[holder], backdateMs }, this.#ca.issuer.certificate);
  }

  /** How far a peer's clock may be off before it is wrong about the end of a leaf. */
  get skewMs(): number {
    return Math.min(this.#backdateMs, this.#lifetimes.workload / 4);
  }

  /** Signs; the row is not stored yet. */
  sign(wish: LeafWish, life: Exclude<ReturnType<typeof leafLife>, Refusal>): LeafRow {
    const { spki } = wish;
    const serial = serialFrom(this.#random.bytes(16));
    const der = signLeaf(this.#ca.issuer, {
      spki,
      id: wish.identity,
      dnsNames: this.dnsNames(wish),
      serial,
      notBeforeMs: life.notBeforeMs,
      notAfterMs: life.notAfterMs,
    });
    return {
      serial: serial.toString("hex"),
      holder: wish.holder,
      owner: wish.owner,
      parent: wish.parent,
      token: wish.token,
      keyHash: keyHashOf(spki),
      issuedAtMs: life.issuedAtMs,
      notAfterMs: life.notAfterMs,
      seenAtMs: null,
      childSeen: null,
      status: "good",
      der,
    };
  }

  dnsNames(wish: Pick<LeafWish, "holder" | "service" | "namespace">): string[] {
    const { service = "", namespace = "" } = wish;
    return this.#profiles[wish.holder].dnsNames.map((name) =>
      name.replaceAll("{service}", service).replaceAll("{namespace}", namespace),
    );
  }

  /** One leaf of each kind that nobody gets: what the profiles say is compared with what is signed. */
  #probe(trustDomain: string): void {
    const spki = spkiOf(generateKey());
    const names = { service: "probe", namespace: "probe" };
    const { certificate: issuer } = this.#ca.issuer;
    const life = {
      issuedAtMs: issuer.notBeforeMs,
      notBeforeMs: issuer.notBeforeMs,
      notAfterMs: issuer.notBeforeMs + 1_000,
    };
    for (const [holder, name, identity] of [
      ["workload", "workload", serviceId(trustDomain, names)],
      ["control", "control", controlId(trustDomain)],
      ["administrator", "admin", adminId(trustDomain, "probe")],
    ] as const) {
      const wish: LeafWish = { holder, owner: "", identity, spki, parent: null, token: null, ...names };
      const certificate = readCertificate(Buffer.from(this.sign(wish, life).der));
      if (isRefusal(certificate)) throw HauberkError.from(certificate);
      assert(!certificate.ca && certificate.uris[0] === identity, "a leaf is not what it was made to be");
      const judged = checkAgainst(name, this.#profiles[holder], { certificate, trustDomain });
      if (isRefusal(judged)) throw HauberkError.from(judged);
    }
  }
}

function allowed(
  name: "leafLifetimeMs" | "controlLifetimeMs" | "adminLifetimeMs",
  profile: LeafProfile,
  options: OptionValues<typeof authorityOptions>,
): number {
  const lifetimeMs = options[name];
  const leastMs = options.allowSeconds ? lifetimeLeastMs : profile.lifetimeMinMs;
  if (lifetimeMs >= leastMs && lifetimeMs <= profile.lifetimeMaxMs) return lifetimeMs;
  throw new HauberkError(
    "CONFIG_INVALID",
    `Cannot sign leaves of ${lifetimeMs} ms (${name}): ${leastMs} to ${profile.lifetimeMaxMs} ms was wanted`,
    lifetimeMs < leastMs
      ? "Set lifetimes.allowSeconds: true where an outage of the control plane does not matter, or choose a longer life"
      : "Choose a shorter life, or change the profile in ca/profiles",
  );
}

const base64Form = /^[A-Za-z0-9+/]+={0,2}$/;

/** DER from base64 with one spelling only; undefined for anything else. */
export function fromBase64(text: unknown, lengthMax: number): Buffer | undefined {
  if (typeof text !== "string" || text.length > lengthMax || !base64Form.test(text)) return undefined;
  const bytes = Buffer.from(text, "base64");
  return bytes.toString("base64") === text ? bytes : undefined;
}

/** A request from its base64: the CSR_* codes. */
export function readRequest(csr: unknown): CertificateRequest | Refusal {
  const der = fromBase64(csr, 8_192);
  if (der !== undefined) return readCsr(der);
  return refuse(
    "CSR_MALFORMED",
    "Cannot read the certificate request: it is not base64 of at most 8192 characters",
    "Send the DER of a PKCS#10 request in base64",
  );
}
