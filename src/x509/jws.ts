import { sign, verify, type KeyObject } from "node:crypto";
import { isRefusal, refuse, type FailureCode, type Refusal } from "../base/errors.ts";

/** Claims as they were signed: any JSON object. */
export type Claims = Readonly<Record<string, unknown>>;

const headerNames = new Set(["alg", "typ", "kid"]);
const part = /^[A-Za-z0-9_-]+$/;

/** A compact JWS (RFC 7515 §3.1), ES256 only: `header` may add `kid` and change `typ`, which is JWT by default. */
export function signCompact(
  claims: object,
  key: KeyObject,
  header: { readonly typ?: string; readonly kid?: string } = {},
): string {
  const signed = `${encode({ alg: "ES256", typ: "JWT", ...header })}.${encode(claims)}`;
  const signature = sign("sha256", Buffer.from(signed, "latin1"), { key, dsaEncoding: "ieee-p1363" });
  return `${signed}.${signature.toString("base64url")}`;
}

/**
 * The claims of a compact JWS that `key`, P-256, signed. Exactly one reading is accepted: canonical base64url, a
 * header of `alg`, `typ` and `kid` only, in canonical JSON without duplicates, `alg` ES256, and with `typ` that type.
 * Refuses with TOKEN_MALFORMED, or TOKEN_UNKNOWN where the signature is not the key's. Looks at no claim.
 */
export function readCompact(
  text: string,
  key: KeyObject,
  limits: number | { readonly lengthMax: number; readonly typ?: string },
): Claims | Refusal {
  const { lengthMax, typ } = typeof limits === "number" ? { lengthMax: limits, typ: undefined } : limits;
  if (text.length > lengthMax) return malformed(`it is longer than ${lengthMax} characters`);
  const parts = split(text);
  if (parts === undefined) return malformed("it is not three parts of canonical base64url");
  const header = jsonObject(parts.header);
  if (header === undefined || JSON.stringify(header) !== parts.header.toString("utf8")) {
    return malformed("its header is not canonical JSON");
  }
  if (
    header["alg"] !== "ES256" ||
    !Object.entries(header).every(([name, value]) => headerNames.has(name) && typeof value === "string")
  ) {
    return malformed("its header is not ES256 with alg, typ and kid only");
  }
  if (typ !== undefined && header["typ"] !== typ) return malformed(`its type is not "${typ}"`);
  const signed = Buffer.from(text.slice(0, text.lastIndexOf(".")), "latin1");
  if (
    parts.signature.length !== 64 ||
    !isP256(key) ||
    !verify("sha256", signed, { key, dsaEncoding: "ieee-p1363" }, parts.signature)
  ) {
    return no("TOKEN_UNKNOWN", "it was not signed by the key that it was checked against");
  }
  return jsonObject(parts.claims) ?? malformed("its claims are no JSON object");
}

/** The claims without looking at the signature: for a holder reading its own token, never for a decision. */
export function claimsUnverified(text: string): Claims | Refusal {
  const parts = text.length > 16_384 ? undefined : split(text);
  return (parts && jsonObject(parts.claims)) ?? malformed("it is not three parts of canonical base64url around JSON");
}

function split(text: string): { header: Buffer; claims: Buffer; signature: Buffer } | undefined {
  const [header, claims, signature, ...more] = text.split(".", 4).map(decode);
  if (header === undefined || claims === undefined || signature === undefined || more.length > 0) return undefined;
  return { header, claims, signature };
}

/** Canonical base64url: what it decodes to encodes to the very same text, so that no token has two spellings. */
function decode(text: string): Buffer | undefined {
  if (!part.test(text)) return undefined;
  const bytes = Buffer.from(text, "base64url");
  return bytes.toString("base64url") === text ? bytes : undefined;
}

function encode(value: object): string {
  return Buffer.from(JSON.stringify(value), "utf8").toString("base64url");
}

function jsonObject(bytes: Buffer): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(utf8.decode(bytes));
    // What calls itself a refusal would be taken for one.
    return typeof value === "object" && value !== null && !Array.isArray(value) && !isRefusal(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function isP256(key: KeyObject): boolean {
  return key.asymmetricKeyType === "ec" && key.asymmetricKeyDetails?.namedCurve === "prime256v1";
}

function no(code: FailureCode, because: string): Refusal {
  return refuse(code, `Cannot read the token: ${because}`, "Copy the whole token again, or ask for a new one");
}

function malformed(because: string): Refusal {
  return no("TOKEN_MALFORMED", because);
}
