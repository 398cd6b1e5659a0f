import { createPublicKey } from "node:crypto";
import { messageOf } from "../base/errors.ts";
import { jwtAlgorithms } from "../base/jwt-algorithms.ts";
import { isLocal, isLoopback, parseAddress } from "../base/ip-address.ts";
import type { JwtKeys, JwtProvider } from "./resource.ts";
import { flag, list, map, oneOf, text, type At, type Desk, type Read } from "./yaml-shape.ts";

/** `JwtProvider`: whose tokens, for whom, signed how, and where its keys come from. */
type Jwk = Readonly<Record<string, unknown>>;

const jwksBytesMax = 131_072;
const keysMax = 100;
const filled = text((value) =>
  value.trim() === value && value !== ""
    ? undefined
    : { because: "it is empty or has outer spaces", hint: "Write it out" },
);

const uri = text((value) => {
  const because = problemOfUri(value);
  return because === undefined ? undefined : { because, hint: "Write https://issuer.example/jwks.json" };
});

/** HTTPS only, plain HTTP to this machine; what it resolves to is checked where it is dialled. */
function problemOfUri(value: string): string | undefined {
  if (!URL.canParse(value)) return "it is no URL";
  const { protocol, hostname, username, password, hash } = new URL(value);
  if (username !== "" || password !== "") return "a URL with a password ends up in logs";
  if (hash !== "") return "it has a fragment";
  const address = parseAddress(hostname.replaceAll(/[[\]]/g, ""));
  const loopback = hostname === "localhost" || (address !== undefined && isLoopback(address));
  if (!loopback && address !== undefined && isLocal(address)) return "it leads to a link-local address";
  if (protocol === "https:" || (protocol === "http:" && loopback)) return undefined;
  return protocol === "http:" ? "keys over plain HTTP can be replaced on the way" : "it is not https";
}

/** Any value: a JWK Set is judged as JSON, wherever it came from. */
const anything: Read<{ readonly json: unknown }> = (at, key, desk) => {
  if (at === null) return desk.wrong(at, `Cannot use ${key}: it is empty, not a JWK Set`, "Write a JWK Set");
  return { json: at.toJSON() as unknown };
};

const keys = map({ inline: anything, file: filled, uri });

export const providerSpec = map(
  {
    issuer: filled,
    audiences: list(filled),
    algorithms: list(oneOf(...jwtAlgorithms)),
    keys,
    forward: flag,
  },
  ["issuer", "audiences", "algorithms", "keys"],
);

type Found<R> = R extends Read<infer T> ? T : never;

export interface ProviderContext {
  readonly name: string;
  readonly namespace: string;
  readonly desk: Desk;
  /** Reads a file of keys, relative to the policy's own; throws where it cannot. */
  readonly readFile: ((path: string) => string) | undefined;
}

export function toProvider(spec: Found<typeof providerSpec>, context: ProviderContext): JwtProvider | undefined {
  const { issuer, audiences, algorithms, keys: written, forward } = spec.values;
  if (issuer === undefined || audiences === undefined || algorithms === undefined || written === undefined)
    return undefined;
  const found = toKeys(written, algorithms, context);
  if (found === undefined) return undefined;
  const { name, namespace } = context;
  return { kind: "JwtProvider", name, namespace, issuer, audiences, algorithms, keys: found, forward: forward ?? true };
}

function toKeys(
  found: Found<typeof keys>,
  algorithms: readonly string[],
  context: ProviderContext,
): JwtKeys | undefined {
  const { desk } = context;
  const ways = Object.keys(found.at);
  if (ways.length !== 1)
    return desk.wrong(
      found.node,
      `Cannot use keys: ${ways.length === 0 ? "it is empty" : `it has ${ways.join(" and ")}`}`,
      "Write one of inline, file and uri",
    );
  const { inline, file, uri } = found.values;
  if (uri !== undefined) return { is: "uri", uri };
  if (inline !== undefined) return toInline(inline.json, { at: found.at.inline ?? null, algorithms, desk });
  if (file === undefined) return undefined;
  const at = found.at.file ?? null;
  const json = readJwks(file, at, context);
  return json === undefined ? undefined : toInline(json, { at, algorithms, desk });
}

/** The message never carries what the file holds: it may be the wrong file. */
function readJwks(file: string, at: At, { desk, readFile }: ProviderContext): unknown {
  if (readFile === undefined)
    return desk.wrong(at, `Cannot read the keys "${file}": files cannot be read here`, "Write them inline");
  let content: string;
  try {
    content = readFile(beside(desk.file, file));
  } catch (thrown) {
    return desk.wrong(
      at,
      `Cannot read the keys "${file}": ${messageOf(thrown).split("\n")[0] ?? ""}`,
      "Give a path relative to this file",
    );
  }
  if (content.length > jwksBytesMax)
    return desk.wrong(
      at,
      `Cannot read the keys "${file}": it is larger than ${jwksBytesMax} bytes`,
      "Keep only the keys in use",
    );
  try {
    return JSON.parse(content) as unknown;
  } catch {
    return desk.wrong(at, `Cannot read the keys "${file}": it is no JSON`, 'Write a JWK Set: { "keys": […] }');
  }
}

/** `file` as seen from the folder in which `base` lies. */
function beside(base: string, file: string): string {
  if (file.startsWith("/")) return file;
  const slash = base.lastIndexOf("/");
  return slash < 0 ? file : `${base.slice(0, slash + 1)}${file}`;
}

interface Judging {
  readonly at: At;
  readonly algorithms: readonly string[];
  readonly desk: Desk;
}

function toInline(json: unknown, { at, algorithms, desk }: Judging): JwtKeys | undefined {
  const set = typeof json === "object" && json !== null ? (json as { keys?: unknown }).keys : undefined;
  if (!Array.isArray(set) || set.length === 0 || set.length > keysMax)
    return desk.wrong(
      at,
      `Cannot use keys: it is no JWK Set of 1 to ${keysMax} keys`,
      "Write { keys: [ { kty: EC, … } ] }",
    );
  const ids = new Set<unknown>();
  for (const [index, jwk] of (set as unknown[]).entries()) {
    const because = problemOfKey(jwk, algorithms, ids);
    if (because !== undefined)
      return desk.wrong(
        at,
        `Cannot use key ${index + 1} of keys: ${because}`,
        "Give public signature keys, each fit for one of algorithms",
      );
  }
  return { is: "inline", jwks: { keys: set as Jwk[] } };
}

const algorithmsOf: Readonly<Record<string, readonly string[]>> = {
  RSA: ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
  "P-256": ["ES256"],
  "P-384": ["ES384"],
  "P-521": ["ES512"],
  Ed25519: ["EdDSA"],
};

/** What RFC 7517 and RFC 7518 want of a public signature key, and that it can be used with one of `algorithms`. */
function problemOfKey(value: unknown, algorithms: readonly string[], ids: Set<unknown>): string | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return "it is no object";
  const jwk = value as Jwk;
  if (jwk["kty"] === "oct") return "a shared secret cannot stay secret here";
  if (["d", "p", "q", "dp", "dq", "qi", "k"].some((member) => Object.hasOwn(jwk, member)))
    return "it holds a private key";
  if (jwk["use"] !== undefined && jwk["use"] !== "sig") return "it is not for signatures";
  if (jwk["kid"] !== undefined && (typeof jwk["kid"] !== "string" || ids.has(jwk["kid"])))
    return "its kid is no text, or is used twice";
  ids.add(jwk["kid"]);
  const fit = algorithmsOf[String(jwk["kty"] === "RSA" ? "RSA" : jwk["crv"])] ?? [];
  const usable = fit.filter((algorithm) => algorithms.includes(algorithm));
  if (usable.length === 0 || (jwk["alg"] !== undefined && !usable.some((one) => one === jwk["alg"])))
    return `it is of no use for ${algorithms.join(", ")}`;
  try {
    const key = createPublicKey({ key: jwk, format: "jwk" });
    return (key.asymmetricKeyDetails?.modulusLength ?? 2_048) < 2_048
      ? "its modulus has less than 2048 bits"
      : undefined;
  } catch {
    return "its numbers make no key";
  }
}
