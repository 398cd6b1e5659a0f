import { createPublicKey, generateKeyPairSync, sign } from "node:crypto";
import * as fc from "fast-check";
import { compactVerify, decodeProtectedHeader, SignJWT, jwtVerify } from "jose";
import { expect, test } from "vitest";
import { isRefusal } from "../base/errors.ts";
import { claimsUnverified, readCompact, signCompact } from "./jws.ts";
import { generateKey, spkiOf } from "./keys.ts";

const key = generateKey();
const publicKey = createPublicKey(key);
const claims = { id: "a1", exp: 1_800_000_000, urls: ["https://control:7444"], note: "é" };
const token = signCompact(claims, key, { kid: "k1" });
const [header = "", body = "", signature = ""] = token.split(".");

const code = (text: string, limits: Parameters<typeof readCompact>[2] = 4096): string => {
  const read = readCompact(text, publicKey, limits);
  return isRefusal(read) ? read.code : "accepted";
};
const encode = (text: string): string => Buffer.from(text).toString("base64url");
/** A token with this header, truly signed. */
const withHeader = (text: string): string => {
  const signed = `${encode(text)}.${body}`;
  const proof = sign("sha256", Buffer.from(signed), { key, dsaEncoding: "ieee-p1363" });
  return `${signed}.${proof.toString("base64url")}`;
};

test("what is signed is read back, and no more", () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (any) => {
      const text = signCompact(any, key);
      expect(readCompact(text, publicKey, 1e6)).toEqual(JSON.parse(JSON.stringify(any)));
      expect(claimsUnverified(text)).toEqual(JSON.parse(JSON.stringify(any)));
    }),
    { numRuns: 40 },
  );
  expect(readCompact(token, publicKey, token.length)).toEqual(claims);
  expect(code(token, token.length - 1)).toBe("TOKEN_MALFORMED");
});

test("jose verifies our tokens, and we verify jose's", async () => {
  const { payload, protectedHeader } = await jwtVerify(token, publicKey, { currentDate: new Date(0) });
  expect(payload).toEqual(claims);
  expect(protectedHeader).toEqual({ alg: "ES256", typ: "JWT", kid: "k1" });
  const theirs = await new SignJWT(claims).setProtectedHeader({ alg: "ES256", kid: "k1" }).sign(key);
  expect(readCompact(theirs, publicKey, 4096)).toEqual(claims);
});

test("we accept no token that jose refuses", async () => {
  const letters = fc.constantFrom(..."ABCabc019-_.=+/ ".split(""));
  await fc.assert(
    fc.asyncProperty(fc.nat({ max: token.length - 1 }), letters, async (index, letter) => {
      const changed = token.slice(0, index) + letter + token.slice(index + 1);
      if (code(changed) !== "accepted") return;
      expect(changed).toBe(token);
      await compactVerify(changed, publicKey);
    }),
    { numRuns: 300 },
  );
});

test("a token of another key, or changed, is unknown", () => {
  const other = createPublicKey(generateKey());
  const read = readCompact(token, other, 4096);
  expect(isRefusal(read) && read["code"]).toBe("TOKEN_UNKNOWN");
  expect(code(`${header}.${encode('{"id":"b"}')}.${signature}`)).toBe("TOKEN_UNKNOWN");
  expect(code(`${header}.${body}.${encode("short")}`)).toBe("TOKEN_UNKNOWN");
  expect(code(`${header}.${body}.${Buffer.alloc(64).toString("base64url")}`)).toBe("TOKEN_UNKNOWN");
});

test("a key that is not on P-256 verifies nothing", () => {
  const wrong = generateKeyPairSync("ec", { namedCurve: "P-384" }).publicKey;
  const read = readCompact(token, wrong, 4096);
  expect(isRefusal(read) && read["code"]).toBe("TOKEN_UNKNOWN");
  // A curve with signatures of the same length: the signature is right, the algorithm is another one.
  const koblitz = generateKeyPairSync("ec", { namedCurve: "secp256k1" });
  const other = readCompact(signCompact(claims, koblitz.privateKey), koblitz.publicKey, 4096);
  expect(isRefusal(other) && other.code).toBe("TOKEN_UNKNOWN");
});

test("base64url has one spelling: padding, other letters, loose bits and blanks are refused", () => {
  const loose = body.slice(0, -1) + (body.endsWith("A") ? "B" : "A");
  for (const text of [
    `${token}=`,
    ` ${token}`,
    `${token}\n`,
    `${header}..${signature}`,
    `${header}.${body}`,
    `${token}.`,
    `${token}.a`,
    "",
    "...",
    `${header}.${body}.+${signature.slice(1)}`,
  ]) {
    expect([text, code(text)]).toEqual([text, "TOKEN_MALFORMED"]);
  }
  expect(code(`${header}.${loose}.${signature}`)).not.toBe("accepted");
  const bits = signature.slice(0, -1) + String.fromCharCode(signature.charCodeAt(signature.length - 1) + 1);
  expect(code(`${header}.${body}.${bits}`)).not.toBe("accepted");
});

test("J-1, J-2, J-3: only a compact ES256 header of alg, typ and kid is read, before any signature", () => {
  const wrong = [
    '{"alg":"none"}',
    '{"alg":"HS256"}',
    '{"alg":"ES384"}',
    '{"alg":"EdDSA"}',
    '{"alg":"es256"}',
    '{"typ":"JWT"}',
    "{}",
    "[]",
    "null",
    '"ES256"',
    '{"alg":"ES256","jwk":{}}',
    '{"alg":"ES256","x5c":[]}',
    '{"alg":"ES256","crit":["b64"]}',
    '{"alg":"ES256","kid":1}',
    '{"alg":["ES256"]}',
    '{"alg":"none","alg":"ES256"}',
    '{ "alg":"ES256"}',
    '{"alg":"\\u0045S256"}',
    '{"__proto__":"x","alg":"ES256"}',
  ];
  expect(code(withHeader('{"alg":"ES256"}'))).toBe("accepted");
  for (const text of wrong) expect([text, code(withHeader(text))]).toEqual([text, "TOKEN_MALFORMED"]);
  expect(code(JSON.stringify({ payload: body, signature, protected: header }))).toBe("TOKEN_MALFORMED");
});

test("a token of another type is refused where one is wanted", () => {
  const typed = signCompact(claims, key, { typ: "hauberk-enrollment" });
  expect(code(typed, { lengthMax: 4096, typ: "hauberk-enrollment" })).toBe("accepted");
  expect(code(token, { lengthMax: 4096, typ: "hauberk-enrollment" })).toBe("TOKEN_MALFORMED");
  expect(decodeProtectedHeader(typed)).toEqual({ alg: "ES256", typ: "hauberk-enrollment" });
});

test("claims that are no object are refused, signed or not", () => {
  expect(code(signCompact([1], key))).toBe("TOKEN_MALFORMED");
  for (const text of [
    `${header}.${encode("[1]")}.${signature}`,
    `${header}.${encode("{")}.${signature}`,
    "a.b",
    "x".repeat(20_000),
  ]) {
    expect(isRefusal(claimsUnverified(text))).toBe(true);
  }
  expect(code(signCompact({ refused: true }, key))).toBe("TOKEN_MALFORMED");
  expect(claimsUnverified(token)).toEqual(claims);
});

test("random text is refused, never thrown over", () => {
  fc.assert(
    fc.property(
      fc.string(),
      (text) => isRefusal(readCompact(text, publicKey, 4096)) && isRefusal(claimsUnverified(text)),
    ),
  );
  expect(spkiOf(key)).toEqual(spkiOf(publicKey));
});
