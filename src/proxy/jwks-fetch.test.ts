import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { isRefusal } from "../base/errors.ts";
import { defaultsOf } from "../base/options.ts";
import { fetchJwks, forbiddenAddress, guardedLookup } from "./jwks-fetch.ts";
import { readKeySet } from "./jwks.ts";
import { proxyOptions } from "./options.ts";

const options = { ...defaultsOf(proxyOptions), jwksAllowLoopback: true };
const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

async function serve(listener: RequestListener): Promise<string> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  ends.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/keys`;
}

const messageOf = (value: unknown): string => (isRefusal(value) ? `${value.code} ${value.message}` : "no refusal");
const get = (uri: string, clock = new ManualClock()) => fetchJwks(uri, { clock, options });

test("a key set is fetched", async () => {
  const uri = await serve((_, response) => response.end('{"keys":[]}'));
  expect(await get(uri)).toEqual({ keys: [] });
});

test("a redirect is not followed", async () => {
  let asked = 0;
  const uri = await serve((request, response) => {
    asked++;
    response.writeHead(302, { location: `http://${request.headers.host}/other` }).end();
  });
  expect(messageOf(await get(uri))).toMatch(/^JWT_KEYS_UNAVAILABLE .*302/);
  expect(asked).toBe(1);
});

test("an answer over the cap is refused, with and without a length", async () => {
  const large = Buffer.alloc(options.jwksMaxBytes + 1, " ");
  const whole = await serve((_, response) => response.end(large));
  const chunked = await serve((_, response) => {
    response.write(large);
    response.end();
  });
  expect(messageOf(await get(whole))).toMatch(/^JWT_KEYS_UNAVAILABLE/);
  expect(messageOf(await get(chunked))).toMatch(/^JWT_KEYS_UNAVAILABLE/);
});

test("a source that breaks off, in the head or in the body, or says nonsense is a refusal", async () => {
  const head = await serve((request) => request.socket.destroy());
  const body = await serve((request, response) => {
    response.writeHead(200, { "content-length": "1000" }).write('{"keys":');
    response.write(" ", () => request.socket.destroy());
  });
  const nonsense = await serve((_, response) => response.end("<html>"));
  for (const uri of [head, body, nonsense]) expect(messageOf(await get(uri))).toMatch(/^JWT_KEYS_UNAVAILABLE/);
});

test("a source that says nothing is given up in time", async () => {
  const clock = new ManualClock();
  const asked = Promise.withResolvers<void>();
  const uri = await serve(() => asked.resolve());
  const fetched = get(uri, clock);
  await asked.promise;
  clock.advance(options.jwksTimeoutMs);
  expect(messageOf(await fetched)).toMatch(/took too long/);
});

test.each([
  "http://169.254.169.254/latest/meta-data",
  "https://169.254.169.254/keys",
  "https://[fe80::1]/keys",
  "https://[::ffff:169.254.169.254]/keys",
  "https://[fd00:ec2::254]/keys",
  "https://2852039166/keys",
  "https://0xa9fea9fe/keys",
  "https://0.0.0.0/keys",
  "http://corp.example/keys",
  "ftp://corp.example/keys",
  "file:///etc/passwd",
  "https://user:secret@corp.example/keys",
  "nothing",
])("nothing is asked for at %s", async (uri) => {
  expect(messageOf(await get(uri))).toMatch(/^JWT_KEYS_UNAVAILABLE/);
});

test("loopback is dialled only where it is allowed", async () => {
  expect(forbiddenAddress("127.0.0.1", false)).toBeDefined();
  expect(forbiddenAddress("::1", false)).toBeDefined();
  expect(forbiddenAddress("::ffff:127.0.0.1", false)).toBeDefined();
  expect(forbiddenAddress("127.0.0.1", true)).toBeUndefined();
  expect(forbiddenAddress("10.0.0.1", false)).toBeUndefined();
  expect(
    messageOf(
      await fetchJwks("https://127.0.0.1/keys", { clock: new ManualClock(), options: defaultsOf(proxyOptions) }),
    ),
  ).toMatch(/loopback/);
});

test("a name that leads to a forbidden address is not dialled", async () => {
  const found = await new Promise<NodeJS.ErrnoException | null>((resolve) =>
    guardedLookup(false)("localhost", {}, (error) => resolve(error)),
  );
  expect(found?.message).toMatch(/loopback/);
});

test("a key set without a public key for signatures, or with a private one, is none", () => {
  expect(readKeySet({ keys: [] })).toMatch(/no public key/);
  expect(readKeySet({ keys: [{ kty: "oct", k: "AAAA" }] })).toMatch(/no public key/);
  expect(readKeySet({ keys: [{ kty: "RSA", n: "x", e: "AQAB", d: "y" }] })).toMatch(/private/);
  expect(readKeySet({ keys: [{ kty: "EC", use: "enc" }] })).toMatch(/no public key/);
  for (const value of [null, 1, "x", [], {}, { keys: {} }, { keys: [1] }, { keys: [null] }, { keys: [[]] }]) {
    expect(typeof readKeySet(value)).toBe("string");
  }
});
