import { createPublicKey, type KeyObject, type webcrypto } from "node:crypto";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { isTrustDomain } from "../base/spiffe-id.ts";
import { readCertificate, tryPublicKeyOf, type Certificate } from "./certificate.ts";
import { parseStrictJson } from "./json.ts";

/** What one trust domain is verified with (SPIFFE Trust Domain and Bundle §4). */
export interface Bundle {
  /** Roots for X509-SVIDs. Empty: everything was revoked. */
  readonly roots: readonly Certificate[];
  /** Keys for JWT-SVIDs, by their key identifier. */
  readonly jwtKeys: readonly { readonly kid: string; readonly key: KeyObject }[];
  /** Grows with every change of content; any 64-bit integer and beyond. */
  readonly sequence: bigint | undefined;
  readonly refreshHintSeconds: number | undefined;
}

const textMax = 1024 * 1024;
const keysMax = 256;

/** The bundle as a JWK Set, JSON. */
export function writeBundle(bundle: Partial<Bundle> & Pick<Bundle, "roots">): string {
  const keys = [
    ...bundle.roots.map((root) => ({
      ...tryPublicKeyOf(root)?.export({ format: "jwk" }),
      use: "x509-svid",
      x5c: [root.der.toString("base64")],
    })),
    ...(bundle.jwtKeys ?? []).map(({ kid, key }) => ({ ...key.export({ format: "jwk" }), use: "jwt-svid", kid })),
  ];
  const rest = bundle.refreshHintSeconds === undefined ? {} : { spiffe_refresh_hint: bundle.refreshHintSeconds };
  const text = JSON.stringify({ keys, ...rest }, undefined, 2);
  // JSON.stringify has no bigint: the sequence is put in as its digits.
  return bundle.sequence === undefined ? text : text.replace("{", `{\n  "spiffe_sequence": ${bundle.sequence},`);
}

/**
 * Reads a JWK Set. Unknown members, unknown uses and entries without what their use needs are passed over, as the
 * standard wants; duplicate members and wrong values are refused with MESSAGE_INVALID.
 */
export function readBundle(text: string): Bundle | Refusal {
  if (text.length > textMax) return not(`it is longer than ${textMax} characters`);
  return bundleOf(parseStrictJson(text));
}

/** Reads a bundle map (§5): `trust_domains` by name. */
export function readBundleMap(text: string): ReadonlyMap<string, Bundle> | Refusal {
  if (text.length > textMax) return not(`it is longer than ${textMax} characters`);
  const domains = field(parseStrictJson(text), "trust_domains");
  if (!isObject(domains)) return not("it has no trust_domains, or a member twice");
  const bundles = new Map<string, Bundle>();
  for (const [name, value] of Object.entries(domains)) {
    if (!isTrustDomain(name)) return not(`"${name}" is no trust domain`);
    const bundle = bundleOf(value);
    if (isRefusal(bundle)) return bundle;
    bundles.set(name, bundle);
  }
  return bundles;
}

function bundleOf(value: unknown): Bundle | Refusal {
  const keys = field(value, "keys");
  if (!Array.isArray(keys)) return not("it is no JSON object with keys, or has a member twice");
  if (keys.length > keysMax) return not(`it has more than ${keysMax} keys`);
  const sequence = readSequence(field(value, "spiffe_sequence"));
  if (isRefusal(sequence)) return sequence;
  const hint = field(value, "spiffe_refresh_hint");
  if (hint !== undefined && !(Number.isSafeInteger(hint) && (hint as number) >= 0)) {
    return not("its spiffe_refresh_hint is no number of seconds");
  }
  const roots: Certificate[] = [];
  const jwtKeys: { kid: string; key: KeyObject }[] = [];
  for (const jwk of keys as unknown[]) {
    if (typeof field(jwk, "kty") !== "string" || typeof field(jwk, "use") !== "string")
      return not("a key has no kty or no use");
    const use = field(jwk, "use");
    const read = use === "x509-svid" ? readRoot(jwk) : use === "jwt-svid" ? readJwtKey(jwk) : undefined;
    if (isRefusal(read)) return read;
    if (read !== undefined && "der" in read) roots.push(read);
    else if (read !== undefined) jwtKeys.push(read);
  }
  return { roots, jwtKeys, sequence, refreshHintSeconds: hint as number | undefined };
}

function readSequence(value: unknown): bigint | undefined | Refusal {
  if (value === undefined || (typeof value === "bigint" && value >= 0n)) return value;
  if (Number.isSafeInteger(value) && (value as number) >= 0) return BigInt(value as number);
  return not("its spiffe_sequence is no integer");
}

/** Only the first entry of x5c counts, and no x5c is no root. */
function readRoot(jwk: unknown): Certificate | undefined | Refusal {
  const x5c = field(jwk, "x5c");
  const first: unknown = Array.isArray(x5c) ? x5c[0] : undefined;
  if (first === undefined) return undefined;
  const der = typeof first === "string" ? Buffer.from(first, "base64") : Buffer.alloc(0);
  if (der.toString("base64") !== first) return not("an x5c is not base64");
  const root = readCertificate(der);
  if (isRefusal(root)) return not(`a root cannot be read: ${root.message.replace(/^Cannot /, "cannot ")}`);
  if (!root.ca || root.keyUsage?.has("keyCertSign") !== true) return not("a root may not sign certificates");
  const inside = tryPublicKeyOf(root);
  const beside = importJwk(jwk);
  // RFC 7517 §4.7: the key of the first certificate is the key of the JWK.
  if (inside === undefined || beside === undefined || !inside.equals(beside))
    return not("a root's key is not its JWK's");
  return root;
}

function readJwtKey(jwk: unknown): { kid: string; key: KeyObject } | Refusal {
  const kid = field(jwk, "kid");
  const key = importJwk(jwk);
  if (typeof kid !== "string" || kid === "" || key === undefined) return not("a jwt-svid key has no kid or is no key");
  return { kid, key };
}

function importJwk(jwk: unknown): KeyObject | undefined {
  if (field(jwk, "d") !== undefined || field(jwk, "k") !== undefined) return undefined;
  try {
    return createPublicKey({ key: jwk as webcrypto.JsonWebKey, format: "jwk" });
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function field(value: unknown, name: string): unknown {
  return isObject(value) && Object.hasOwn(value, name) ? value[name] : undefined;
}

function not(because: string): Refusal {
  return refuse("MESSAGE_INVALID", `Cannot read the bundle: ${because}`, "Fetch it again from its trust domain");
}
