import { createPublicKey } from "node:crypto";
import { createLocalJWKSet, SignJWT, jwtVerify } from "jose";
import { expect, test } from "vitest";
import { makeTestPki } from "../../test/support/pki.ts";
import { isRefusal } from "../base/errors.ts";
import { readBundle, readBundleMap, writeBundle, type Bundle } from "./bundle.ts";
import { parseStrictJson } from "./json.ts";
import { generateKey } from "./keys.ts";

const pki = await makeTestPki();
const other = await makeTestPki({ trustDomain: "other.example" });
const jwtKey = generateKey();
const full: Bundle = {
  roots: [pki.root, other.root],
  jwtKeys: [{ kid: "k1", key: createPublicKey(jwtKey) }],
  sequence: 7n,
  refreshHintSeconds: 300,
};
const text = writeBundle(full);
interface Jwk {
  [name: string]: unknown;
}
const parsed = (): { keys: [Jwk, Jwk, Jwk]; [name: string]: unknown } => JSON.parse(text) as never;
const code = (value: unknown): string => {
  const read = readBundle(typeof value === "string" ? value : JSON.stringify(value));
  return isRefusal(read) ? read.code : `roots ${read.roots.length}, keys ${read.jwtKeys.length}`;
};

test("a bundle is read back as it was written", () => {
  const read = readBundle(text);
  if (isRefusal(read)) throw new Error(read.message);
  expect(read.roots.map((root) => root.der)).toEqual(full.roots.map((root) => root.der));
  expect(read.jwtKeys[0]?.key.equals(createPublicKey(jwtKey))).toBe(true);
  expect([read.sequence, read.refreshHintSeconds]).toEqual([7n, 300]);
});

test("jose verifies a token with the JWT key of a written bundle", async () => {
  const token = await new SignJWT({ sub: "a" }).setProtectedHeader({ alg: "ES256", kid: "k1" }).sign(jwtKey);
  const set = {
    keys: parsed()
      .keys.filter((jwk) => jwk["use"] === "jwt-svid")
      .map((jwk) => ({ ...jwk, use: "sig" })),
  };
  expect((await jwtVerify(token, createLocalJWKSet(set as never))).payload).toEqual({ sub: "a" });
});

test("X-9: a root has use x509-svid, no kid, and exactly one certificate in x5c", () => {
  const [jwk] = parsed().keys;
  expect(Object.keys(jwk).sort()).toEqual(["crv", "kty", "use", "x", "x5c", "y"]);
  expect(jwk["use"]).toBe("x509-svid");
  expect(jwk["x5c"]).toEqual([pki.root.der.toString("base64")]);
});

test("X-9: entries without x5c are passed over, and so are all but the first certificate of one", () => {
  const changed = parsed();
  delete changed.keys[0]["x5c"];
  expect(code(changed)).toBe("roots 1, keys 1");
  const more = parsed();
  (more.keys[0]["x5c"] as string[]).push("not base64");
  expect(code(more)).toBe("roots 2, keys 1");
});

test("X-9: an x5c that is no authority's certificate, or another key's, refuses the bundle", () => {
  const wish = (x5c: unknown): string => {
    const changed = parsed();
    changed.keys[0]["x5c"] = x5c;
    return code(changed);
  };
  const leaf = pki.issue("spiffe://mesh.local/a").chain[0];
  expect(wish([leaf?.der.toString("base64")])).toBe("MESSAGE_INVALID");
  expect(wish([pki.root.der.toString("base64url")])).toBe("MESSAGE_INVALID");
  expect(wish([other.root.der.toString("base64")])).toBe("MESSAGE_INVALID");
  expect(wish([1])).toBe("MESSAGE_INVALID");
  expect(wish(["AAAA"])).toBe("MESSAGE_INVALID");
});

test("J-9: a JWT key without a kid, or with a private part, refuses the bundle", () => {
  const changed = parsed();
  delete changed.keys[2]["kid"];
  expect(code(changed)).toBe("MESSAGE_INVALID");
  const secret = parsed();
  secret.keys[2]["d"] = "AAAA";
  expect(code(secret)).toBe("MESSAGE_INVALID");
});

test("B-1, B-5: unknown members and unknown uses are passed over, kty and use are wanted", () => {
  const changed = parsed();
  changed["later"] = { keys: 1 };
  changed.keys[1]["use"] = "wit-svid";
  changed.keys[0]["later"] = true;
  expect(code(changed)).toBe("roots 1, keys 1");
  for (const name of ["kty", "use"]) {
    const without = parsed();
    delete without.keys[0][name];
    expect(code(without)).toBe("MESSAGE_INVALID");
  }
});

test("B-2: a sequence beyond 2^53 is read to the last digit", () => {
  const wide = text.replace('"spiffe_sequence": 7', '"spiffe_sequence": 18446744073709551615');
  const read = readBundle(wide);
  expect(isRefusal(read) ? read : read.sequence).toBe(18446744073709551615n);
  expect(writeBundle({ roots: [], sequence: 18446744073709551615n })).toContain(
    '"spiffe_sequence": 18446744073709551615,',
  );
  for (const wrong of ["-1", "1.5", '"7"', "1e400", "null"]) {
    expect([wrong, code(text.replace('"spiffe_sequence": 7', `"spiffe_sequence": ${wrong}`))]).toEqual([
      wrong,
      "MESSAGE_INVALID",
    ]);
  }
});

test("B-3: a refresh hint is whole seconds, or absent", () => {
  for (const wrong of ["-1", "1.5", '"300"', "null"]) {
    expect(code(text.replace('"spiffe_refresh_hint": 300', `"spiffe_refresh_hint": ${wrong}`))).toBe("MESSAGE_INVALID");
  }
  const read = readBundle('{"keys":[]}');
  expect(read).toEqual({ roots: [], jwtKeys: [], sequence: undefined, refreshHintSeconds: undefined });
});

test("B-4: keys are wanted, and may be empty, which trusts nobody", () => {
  expect(code("{}")).toBe("MESSAGE_INVALID");
  expect(code('{"keys":{}}')).toBe("MESSAGE_INVALID");
  expect(code("[]")).toBe("MESSAGE_INVALID");
  expect(code("")).toBe("MESSAGE_INVALID");
  expect(code('{"keys":[1]}')).toBe("MESSAGE_INVALID");
  expect(code('{"keys":[]}')).toBe("roots 0, keys 0");
  expect(code(`{"keys":[${Array.from({ length: 300 }, () => "1").join()}]}`)).toBe("MESSAGE_INVALID");
  expect(code(" ".repeat(1024 * 1024 + 1))).toBe("MESSAGE_INVALID");
});

test("B-6, B-7: a bundle map gives each trust domain its own bundle, and no domain twice", () => {
  const map = readBundleMap(`{"trust_domains":{"mesh.local":${text},"other.example":{"keys":[]}}}`);
  if (isRefusal(map)) throw new Error(map.message);
  expect([...map.keys()]).toEqual(["mesh.local", "other.example"]);
  expect(map.get("mesh.local")?.roots).toHaveLength(2);
  const twice = readBundleMap('{"trust_domains":{"a.example":{"keys":[]},"\\u0061.example":{"keys":[]}}}');
  expect(isRefusal(twice)).toBe(true);
  for (const wrong of [
    "{}",
    '{"trust_domains":[]}',
    '{"trust_domains":{"A":{"keys":[]}}}',
    '{"trust_domains":{"a":{}}}',
    " ".repeat(1024 * 1024 + 1),
  ]) {
    expect(isRefusal(readBundleMap(wrong))).toBe(true);
  }
});

test("B-7: a member that comes twice in one object is refused, at any depth and in any spelling", () => {
  for (const wrong of ['{"a":1,"a":2}', '{"x":{"a":1,"b":{},"a":2}}', '[{"a":[],"\\u0061":1}]', '{"a" :1,"a"\n:2}']) {
    expect([wrong, parseStrictJson(wrong)]).toEqual([wrong, undefined]);
  }
  for (const right of [
    '{"a":{"a":{"a":"a"}}}',
    '[{"a":1},{"a":2}]',
    '{"a":"\\"a\\":1","b":"{","c":["a","a"]}',
    '{"a:":1,"a":2}',
  ]) {
    expect(parseStrictJson(right)).toEqual(JSON.parse(right));
  }
});
