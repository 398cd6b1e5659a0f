import { createHmac, generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { defaultsOf } from "../base/options.ts";
import type { JwtProvider } from "../policy/resource.ts";
import { silent } from "../telemetry/logger.ts";
import { BearerReader, readBearer } from "./bearer.ts";
import { TokenVerifier } from "./jwt.ts";
import { proxyOptions } from "./options.ts";
import { TokenCache } from "./token-cache.ts";

const options = defaultsOf(proxyOptions);
const ec = generateKeyPairSync("ec", { namedCurve: "P-256" });
const otherEc = generateKeyPairSync("ec", { namedCurve: "P-256" });
const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
const nowMs = Date.UTC(2026, 0, 1);
const nowSeconds = nowMs / 1000;

const jwkOf = (key: KeyObject, more: object): Record<string, unknown> => ({
  ...key.export({ format: "jwk" }),
  ...more,
});
const jwks = { keys: [jwkOf(ec.publicKey, { kid: "a", alg: "ES256" }), jwkOf(rsa.publicKey, { kid: "r" })] };

const corp: JwtProvider = {
  kind: "JwtProvider",
  name: "corp",
  namespace: "default",
  issuer: "https://corp.example",
  audiences: ["mesh"],
  algorithms: ["ES256", "RS256"],
  keys: { is: "inline", jwks },
  forward: true,
};
const partner: JwtProvider = { ...corp, name: "partner", issuer: "https://partner.example" };
const providers = new Map([
  ["default/corp", corp],
  ["default/partner", partner],
]);

const b64 = (value: string | Buffer): string => Buffer.from(value).toString("base64url");
const good = { iss: corp.issuer, aud: "mesh", sub: "u", exp: nowSeconds + 600, scope: "orders:read" };

interface Written {
  header?: object;
  claims?: object | string;
  key?: KeyObject;
}
function write({ header = {}, claims = good, key = ec.privateKey }: Written = {}): string {
  const head = b64(JSON.stringify({ alg: "ES256", kid: "a", ...header }));
  const body = b64(typeof claims === "string" ? claims : JSON.stringify(claims));
  const signature = sign("sha256", Buffer.from(`${head}.${body}`), { key, dsaEncoding: "ieee-p1363" });
  return `${head}.${body}.${b64(signature)}`;
}

function verifier(
  fetch: (uri: string) => Promise<unknown> = () => Promise.reject(new Error("no network in this test")),
) {
  const clock = new ManualClock(nowMs);
  const made = new TokenVerifier({ clock, log: silent, options, load: fetch });
  made.use(providers);
  return { clock, made };
}

const ask = (
  made: TokenVerifier,
  token: string,
  name = "default/corp",
  known: ReadonlyMap<string, JwtProvider> = providers,
) => made.verify(name, readBearer(`Bearer ${token}`, 1, options.tokenMaxBytes), known);

test("a good token is valid, and then known without waiting", async () => {
  const { made } = verifier();
  const token = write();
  const bearer = readBearer(`bearer  ${token}`, 1, options.tokenMaxBytes);
  expect(made.check("default/corp", bearer, providers)).toBeUndefined();
  expect(await made.verify("default/corp", bearer, providers)).toMatchObject({
    is: "valid",
    claims: { scope: "orders:read" },
  });
  expect(made.check("default/corp", bearer, providers)).toMatchObject({ is: "valid" });
});

const nested = (depth: number): unknown => (depth === 0 ? 1 : { a: nested(depth - 1) });
const hmac = (header: object): string => {
  const text = `${b64(JSON.stringify(header))}.${b64(JSON.stringify(good))}`;
  const secret = ec.publicKey.export({ format: "pem", type: "spki" });
  return `${text}.${b64(createHmac("sha256", secret).update(text).digest())}`;
};
const parts = write().split(".");

/** RFC 8725's list, and what attacked other meshes. */
const wrong: Record<string, string> = {
  "alg none": `${b64(JSON.stringify({ alg: "none" }))}.${parts[1]}.${parts[2]}`,
  "alg none without a signature": `${b64(JSON.stringify({ alg: "none" }))}.${parts[1]}.`,
  "alg nOnE": `${b64(JSON.stringify({ alg: "nOnE" }))}.${parts[1]}.${parts[2]}`,
  "HMAC with the public key as its secret": hmac({ alg: "HS256", kid: "a" }),
  "an algorithm that the provider does not list": write({ header: { alg: "ES384" } }),
  "an algorithm of another key type than the key's": write({ header: { alg: "RS256" } }),
  "another's key under a known id": write({ key: otherEc.privateKey }),
  "an unknown key id": write({ header: { kid: "zz" } }),
  "a key id that is a path": write({ header: { kid: "../../dev/null" } }),
  "a key id that is no text": write({ header: { kid: 7 } }),
  crit: write({ header: { crit: ["exp"] } }),
  "crit with b64": write({ header: { crit: ["b64"], b64: false } }),
  "b64 alone": write({ header: { b64: true } }),
  "a key in its header": write({
    header: { kid: undefined, jwk: otherEc.publicKey.export({ format: "jwk" }) },
    key: otherEc.privateKey,
  }),
  "a logout token": write({ header: { typ: "logout+jwt" } }),
  "a changed payload": `${parts[0]}.${b64(JSON.stringify({ ...good, sub: "root" }))}.${parts[2]}`,
  "no exp": write({ claims: { ...good, exp: undefined } }),
  "exp as text": write({ claims: { ...good, exp: String(good.exp) } }),
  "exp 61 seconds ago": write({ claims: { ...good, exp: nowSeconds - 61 } }),
  "nbf in two minutes": write({ claims: { ...good, nbf: nowSeconds + 120 } }),
  "no aud": write({ claims: { ...good, aud: undefined } }),
  "another's aud": write({ claims: { ...good, aud: ["shop"] } }),
  "an unknown issuer": write({ claims: { ...good, iss: "https://evil.example" } }),
  "no issuer": write({ claims: { ...good, iss: undefined } }),
  "an issuer that is a list": write({ claims: { ...good, iss: [corp.issuer] } }),
  "claims as a list": write({ claims: "[1]" }),
  "claims that are too deep": write({ claims: { ...good, deep: nested(40) } }),
  "five parts": "a.b.c.d.e",
  "one part": "opaque",
  "no text": "",
  padding: `${parts[0]}=.${parts[1]}.${parts[2]}`,
  "white space inside": `${parts[0]}. ${parts[1]}.${parts[2]}`,
  "a length over the cap": write({ claims: { ...good, fill: "x".repeat(9_000) } }),
};

test.each(Object.keys(wrong))("a token with %s is invalid", async (name) => {
  const { made } = verifier();
  expect(await ask(made, wrong[name] as string)).toMatchObject({ is: "invalid" });
});

test("the skew of 60 seconds counts on both sides", async () => {
  const { made } = verifier();
  expect(await ask(made, write({ claims: { ...good, exp: nowSeconds - 59 } }))).toMatchObject({ is: "valid" });
  expect(await ask(made, write({ claims: { ...good, nbf: nowSeconds + 59 } }))).toMatchObject({ is: "valid" });
});

test("a token of another known provider is absent for this one, also from memory", async () => {
  const { made } = verifier();
  const bearer = readBearer(`Bearer ${write()}`, 1, options.tokenMaxBytes);
  expect(await made.verify("default/partner", bearer, providers)).toEqual({ is: "absent" });
  expect(made.check("default/partner", bearer, providers)).toEqual({ is: "absent" });
  expect(await made.verify("default/corp", bearer, providers)).toMatchObject({ is: "valid" });
});

test("no token and other schemes are absent, two Authorization fields are invalid, an unknown provider is unavailable", () => {
  const { made } = verifier();
  const check = (value: string | undefined, count: number) =>
    made.check("default/corp", readBearer(value, count, options.tokenMaxBytes), providers);
  expect(check(undefined, 0)).toEqual({ is: "absent" });
  expect(check("Basic YTpi", 1)).toEqual({ is: "absent" });
  expect(check(`Bearer ${write()}`, 2)).toMatchObject({ is: "invalid" });
  expect(made.check("default/nobody", readBearer(`Bearer ${write()}`, 1, 9_000), providers)).toMatchObject({
    is: "unavailable",
  });
});

test("a cached token ends with its own exp and skew, and with the longest age", async () => {
  const { made, clock } = verifier();
  const short = readBearer(`Bearer ${write({ claims: { ...good, exp: nowSeconds + 10 } })}`, 1, 9_000);
  const long = readBearer(`Bearer ${write({ claims: { ...good, exp: nowSeconds + 86_400 } })}`, 1, 9_000);
  await made.verify("default/corp", short, providers);
  await made.verify("default/corp", long, providers);
  clock.advance(69_000);
  expect(made.check("default/corp", short, providers)).toMatchObject({ is: "valid" });
  clock.advance(2_000);
  expect(made.check("default/corp", short, providers)).toBeUndefined();
  expect(await made.verify("default/corp", short, providers)).toMatchObject({ is: "invalid" });
  clock.advance(options.tokenCacheMs);
  expect(made.check("default/corp", long, providers)).toBeUndefined();
});

test("a changed provider verifies anew", async () => {
  const { made } = verifier();
  const bearer = readBearer(`Bearer ${write()}`, 1, 9_000);
  await made.verify("default/corp", bearer, providers);
  const changed = new Map([["default/corp", { ...corp, audiences: ["other"] }]]);
  expect(made.check("default/corp", bearer, changed)).toBeUndefined();
  expect(await made.verify("default/corp", bearer, changed)).toMatchObject({ is: "invalid" });
});

test("the same token verified at the same time is verified once", async () => {
  const { made } = verifier();
  const bearer = readBearer(`Bearer ${write()}`, 1, 9_000);
  const first = made.verify("default/corp", bearer, providers);
  expect(made.verify("default/corp", bearer, providers)).toBe(first);
  await first;
});

test("inline keys that show a private key verify nothing", async () => {
  const { made } = verifier();
  const leaky = { ...corp, keys: { is: "inline" as const, jwks: { keys: [jwkOf(ec.privateKey, { kid: "a" })] } } };
  const known = new Map([["default/corp", leaky]]);
  made.use(known);
  expect(await ask(made, write(), "default/corp", known)).toMatchObject({ is: "unavailable" });
});

const remote = new Map<string, JwtProvider>([
  ["default/corp", { ...corp, keys: { is: "uri", uri: "https://corp.example/keys" } }],
]);

test("twenty first uses fetch the keys once; unknown key ids within the cool-down fetch nothing", async () => {
  let fetches = 0;
  const { made, clock } = verifier(() => {
    fetches++;
    return Promise.resolve(jwks);
  });
  const tokens = Array.from({ length: 20 }, (_, i) => write({ claims: { ...good, sub: String(i) } }));
  const states = await Promise.all(tokens.map((token) => ask(made, token, "default/corp", remote)));
  expect(states.every((state) => state.is === "valid")).toBe(true);
  for (let i = 0; i < 20; i++) await ask(made, write({ header: { kid: `x${i}` } }), "default/corp", remote);
  expect(fetches).toBe(1);
  clock.advance(options.jwksCoolDownMs);
  await ask(made, write({ header: { kid: "y" } }), "default/corp", remote);
  expect(fetches).toBe(2);
});

test("a key that appears at the source is found by its unknown id, and one that leaves ends what it verified", async () => {
  let now: unknown = jwks;
  const { made, clock } = verifier(() => Promise.resolve(now));
  const old = readBearer(`Bearer ${write()}`, 1, 9_000);
  expect(await made.verify("default/corp", old, remote)).toMatchObject({ is: "valid" });
  now = { keys: [jwkOf(otherEc.publicKey, { kid: "b" })] };
  clock.advance(options.jwksCoolDownMs);
  const token = write({ header: { kid: "b" }, key: otherEc.privateKey });
  expect(await ask(made, token, "default/corp", remote)).toMatchObject({ is: "valid" });
  expect(await made.verify("default/corp", old, remote)).toMatchObject({ is: "invalid" });
});

test("keys that were never had are unavailable, the last good ones count for a bounded time", async () => {
  let up = false;
  const { made, clock } = verifier(() => (up ? Promise.resolve(jwks) : Promise.reject(new Error("down"))));
  expect(await ask(made, write(), "default/corp", remote)).toMatchObject({ is: "unavailable" });
  up = true;
  clock.advance(options.jwksCoolDownMs);
  expect(await ask(made, write(), "default/corp", remote)).toMatchObject({ is: "valid" });
  up = false;
  clock.advance(options.jwksRefreshMs + options.jwksStaleMs - 1_000);
  const later = { ...good, exp: (clock.wallMs() + 600_000) / 1000 };
  expect(await ask(made, write({ claims: later }), "default/corp", remote)).toMatchObject({ is: "valid" });
  clock.advance(2_000);
  expect(await ask(made, write({ claims: { ...later, sub: "v" } }), "default/corp", remote)).toMatchObject({
    is: "unavailable",
  });
});

test("a wrong token causes no fetch", async () => {
  let fetches = 0;
  const { made } = verifier(() => {
    fetches++;
    return Promise.resolve(jwks);
  });
  for (const name of ["alg none", "crit", "an unknown issuer", "one part"]) {
    expect(await ask(made, wrong[name] as string, "default/corp", remote)).toMatchObject({ is: "invalid" });
  }
  expect(fetches).toBe(0);
});

test("a key without an id is found among several of its type", async () => {
  const { made } = verifier();
  const keys = [jwkOf(otherEc.publicKey, { kid: "1" }), jwkOf(ec.publicKey, { kid: "2" })];
  const known = new Map([["default/corp", { ...corp, keys: { is: "inline" as const, jwks: { keys } } }]]);
  expect(await ask(made, write({ header: { kid: undefined } }), "default/corp", known)).toMatchObject({ is: "valid" });
  expect(
    await ask(
      made,
      write({ header: { kid: undefined }, key: generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey }),
      "default/corp",
      known,
    ),
  ).toMatchObject({ is: "invalid" });
});

test("the cache never holds more than it may, and keeps what is used", () => {
  const cache = new TokenCache(10);
  cache.set("kept", { is: "absent" }, 1_000);
  for (let i = 0; i < 100; i++) {
    expect(cache.get("kept", 0)).toEqual({ is: "absent" });
    cache.set(`t${i}`, { is: "absent" }, 1_000);
    expect(cache.size).toBeLessThanOrEqual(10);
  }
  expect(cache.get("t0", 0)).toBeUndefined();
  expect(cache.get("kept", 1_000)).toBeUndefined();
});

test("the same bearer again is the one that was read, and another is not", () => {
  const reader = new BearerReader();
  const first = reader.read(`Bearer ${write()}`, 1, 9_000);
  const text = `Bearer ${write({ claims: { ...good, sub: "bea" } })}`;
  const second = reader.read(text, 1, 9_000);
  expect(second.token).not.toBe(first.token);
  expect(reader.read(text, 1, 9_000)).toBe(second);
  expect(reader.read(undefined, 0, 9_000).token).toBeUndefined();
  expect(reader.read(text, 2, 9_000).wrong).toContain("more than one");
  expect(reader.read("Basic eDp5", 1, 9_000).token).toBeUndefined();
});
