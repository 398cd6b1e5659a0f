import { expect, test } from "vitest";
import * as fc from "fast-check";
import { isRefusal } from "../base/errors.ts";
import { LineReader } from "./lines.ts";
import { limits } from "./limits.ts";
import {
  readChallengeAnswer,
  readChallengeRequest,
  readEnrollRequest,
  readIssuedAnswer,
  readRecoverRequest,
  readRefusalAnswer,
  readRenewRequest,
  readRootsAnswer,
} from "./read-enrollment.ts";
import { readResource, readResourceList } from "./read-resource.ts";
import { readDown, readEntries, readUp, writeLine } from "./read-watch.ts";
import { isDeeperThan } from "./shape.ts";
import { compareVersions, versionText } from "./version.ts";
import type { Down, Up } from "./watch.ts";

const registration = {
  address: "10.0.0.7",
  port: 15443,
  ports: [{ name: "http", port: 8080, protocol: "http" }],
  healthy: true,
  draining: false,
} as const;

const hello: Up = {
  type: "hello",
  protocol: 1,
  release: "0.1.0",
  version: { epoch: "a1", counter: 7 },
  registration,
  subscriptions: ["orders.default"],
};

const policy = {
  kind: "AuthorizationPolicy",
  name: "web-reads-orders",
  namespace: "default",
  target: { namespace: "default", service: "orders" },
  action: "ALLOW",
  mode: "ENFORCE",
  rules: [
    {
      from: [{ services: ["web.default"] }],
      to: [{ methods: ["GET"], paths: ["/orders/*"], ports: [8080], headers: { "x-a": ["b"] } }],
      jwt: { provider: "default/corp", claims: { scope: ["orders:read"] } },
    },
  ],
} as const;

const provider = {
  kind: "JwtProvider",
  name: "corp",
  namespace: "default",
  issuer: "https://id.example",
  audiences: ["orders"],
  algorithms: ["ES256"],
  keys: { is: "inline", jwks: { keys: [{ kty: "EC", crv: "P-256", x: "AA", y: "AA", key_ops: ["verify"] }] } },
  forward: true,
} as const;

const full: Down = {
  type: "full",
  version: { epoch: "a1", counter: 8 },
  entries: [
    ["bundle", { trustDomain: "mesh.local", sequence: 3, roots: ["AAAA"] }],
    ["own", { policies: [policy] }],
    ["provider/default/corp", provider],
    [
      "service/orders.default",
      {
        id: "spiffe://mesh.local/ns/default/sa/orders",
        policies: [policy],
        endpoints: [
          { instance: "i1", address: "::1", port: 15443, ports: registration.ports, healthy: true, stale: false },
        ],
      },
    ],
    ["service/none.default", null],
  ],
};

const ups: readonly Up[] = [
  hello,
  { ...hello, version: null, registration: null, subscriptions: [] },
  { type: "register", registration: { ...registration, address: "host-1.example" } },
  { type: "register", registration: null },
  { type: "subscribe", service: "orders.default" },
  { type: "unsubscribe", service: "orders.default" },
  { type: "ack", version: { epoch: "a1", counter: 0 } },
  { type: "reject", version: { epoch: "a1", counter: 1 }, because: "no" },
  { type: "pong", number: 4 },
];

const downs: readonly Down[] = [
  full,
  { type: "delta", version: { epoch: "a1", counter: 9 }, set: full.entries, gone: ["service/old.default"] },
  { type: "ping", number: 1, wallMs: 1_800_000_000_000.5 },
  { type: "goodbye", because: "the server is going away" },
  { type: "refused", code: "RATE_LIMITED", message: "Cannot go on: too fast", hint: "Wait" },
];

test("every message comes back from the wire as it went", () => {
  for (const up of ups) expect(readUp(writeLine(up))).toEqual(up);
  for (const down of downs) expect(readDown(writeLine(down))).toEqual(down);
  expect(readEntries(full.entries)).toEqual(full.entries);
});

test("an unknown key is refused at every level of a message", () => {
  const places = (value: unknown, path: (string | number)[] = []): (string | number)[][] =>
    Array.isArray(value)
      ? value.flatMap((item, index) => places(item, [...path, index]))
      : typeof value === "object" && value !== null
        ? [path, ...Object.entries(value).flatMap(([name, item]) => places(item, [...path, name]))]
        : [];
  let seen = 0;
  for (const message of [...downs, ...ups]) {
    for (const path of places(message)) {
      // Free-form by design: header names, claim names and members of a JWK.
      if (path.includes("headers") || path.includes("claims") || (path.includes("keys") && path.length > 6)) continue;
      const copy = structuredClone(message) as unknown;
      let at = copy as Record<string | number, unknown>;
      for (const step of path) at = at[step] as Record<string | number, unknown>;
      at["surprise"] = 1;
      const text = JSON.stringify(copy);
      expect(isRefusal(readDown(text)) && isRefusal(readUp(text)), text).toBe(true);
      seen++;
    }
  }
  expect(seen).toBeGreaterThan(30);
});

test("a missing key is refused", () => {
  for (const up of ups) {
    for (const name of Object.keys(up)) {
      const { [name as keyof Up]: _, ...rest } = up;
      expect(isRefusal(readUp(JSON.stringify(rest))), `${up.type} without ${name}`).toBe(true);
    }
  }
});

test.each([
  ["a port of 0", { ...registration, port: 0 }],
  ["a fractional port", { ...registration, port: 1.5 }],
  ["an address that is everywhere", { ...registration, address: "0.0.0.0" }],
  ["an IPv6 address that is everywhere", { ...registration, address: "::" }],
  ["an address in a resolver's short form", { ...registration, address: "127.1" }],
  ["an address as one number", { ...registration, address: "2130706433" }],
  ["an address in hexadecimal", { ...registration, address: "0x7f000001" }],
  ["an address of its own link", { ...registration, address: "169.254.169.254" }],
  ["a mapped address of its own link", { ...registration, address: "::ffff:169.254.169.254" }],
  ["an IPv6 address of its own link", { ...registration, address: "fe80::1" }],
  ["a mapped address that is everywhere", { ...registration, address: "::ffff:0.0.0.0" }],
  ["a mapped address that is everywhere in IPv6's spelling", { ...registration, address: "0:0:0:0:0:ffff:0:0" }],
  ["loopback as IPv6 once wrote it", { ...registration, address: "::127.0.0.1" }],
  ["the address of a group", { ...registration, address: "224.0.0.1" }],
  ["the IPv6 address of a group", { ...registration, address: "ff02::1" }],
  ["the address of everybody", { ...registration, address: "255.255.255.255" }],
  ["an address that is none", { ...registration, address: "999.1.1.1" }],
  ["a name with an empty label", { ...registration, address: "a..b" }],
  ["an address with a path", { ...registration, address: "10.0.0.7/x" }],
  ["an address with a line end", { ...registration, address: "10.0.0.7\n" }],
  ["two ports of one name", { ...registration, ports: [...registration.ports, ...registration.ports] }],
  ["a service of its own choice", { ...registration, service: "orders" }],
])("a registration with %s is refused", (_, bad) => {
  expect(readUp(JSON.stringify({ type: "register", registration: bad }))).toMatchObject({ code: "MESSAGE_INVALID" });
});

test("a service's state under another service's key is refused", () => {
  const orders = full.entries[3];
  const line = JSON.stringify({ ...full, entries: [["service/ledger.default", orders?.[1]]] });
  expect(readDown(line)).toMatchObject({ code: "MESSAGE_INVALID" });
});

test("the bundle and the own policies are never null", () => {
  for (const key of ["bundle", "own"]) {
    expect(isRefusal(readDown(JSON.stringify({ ...full, entries: [[key, null]] })))).toBe(true);
  }
});

test("a sidecar's words reach no terminal as control sequences", () => {
  const line = JSON.stringify({
    type: "reject",
    version: { epoch: "a", counter: 1 },
    because: "\u001b[2Jgone\n\u0085!",
  });
  expect(readUp(line)).toMatchObject({ because: " [2Jgone !" });
});

test("more subscriptions than the limit are refused", () => {
  const many = Array.from({ length: limits.subscriptionsMax + 1 }, (_, index) => `s${index}.default`);
  expect(isRefusal(readUp(JSON.stringify({ ...hello, subscriptions: many })))).toBe(true);
  expect(isRefusal(readUp(JSON.stringify({ ...hello, subscriptions: many.slice(1) })))).toBe(false);
});

test("the longest hello that a sidecar may have to say is read", () => {
  const name = (letter: string, index: number): string => `${letter.repeat(59)}${String(index).padStart(4, "0")}`;
  const ports = Array.from({ length: limits.routeePortsMax }, (_, index) => ({
    name: name("p", index),
    port: 65_535 - index,
    protocol: "http" as const,
  }));
  const longest: Up = {
    ...hello,
    release: "9".repeat(64),
    name: "n".repeat(63),
    workers: 1_024,
    version: { epoch: "e".repeat(64), counter: Number.MAX_SAFE_INTEGER },
    registration: { ...registration, address: [name("a", 1), name("b", 2), name("c", 3)].join("."), ports },
    subscriptions: Array.from(
      { length: limits.subscriptionsMax },
      (_, index) => `${name("s", index)}.${name("m", index)}`,
    ),
  };
  expect(readUp(JSON.stringify(longest))).toEqual(longest);
});

test("nesting is refused before it is parsed, brackets within strings do not count", () => {
  expect(readUp("[".repeat(60_000))).toMatchObject({ code: "MESSAGE_INVALID" });
  expect(readDown(`${'{"a":'.repeat(1_000)}1${"}".repeat(1_000)}`)).toMatchObject({
    message: expect.stringContaining("nested"),
  });
  expect(isDeeperThan(JSON.stringify(['[[[[\\"[[', '"']), 1)).toBe(false);
  expect(isDeeperThan("[[]]", 1)).toBe(true);
});

test("a line over the limit is refused unread", () => {
  const long = JSON.stringify({
    type: "reject",
    version: { epoch: "a", counter: 1 },
    because: "x".repeat(limits.upLineBytesMax),
  });
  expect(readUp(long)).toMatchObject({ message: expect.stringContaining("longer") });
});

const readers: readonly ((text: string) => unknown)[] = [
  readUp,
  readDown,
  readEnrollRequest,
  readRenewRequest,
  readChallengeRequest,
  readChallengeAnswer,
  readRecoverRequest,
  readIssuedAnswer,
  readRootsAnswer,
  readRefusalAnswer,
  (text) => readResource(JSON.parse(text) as unknown),
  (text) => readResourceList(JSON.parse(text) as unknown),
];

test("no JSON whatever makes a reader throw", () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 6 }), (value) => {
      for (const reader of readers) reader(JSON.stringify(value));
    }),
    { numRuns: 300 },
  );
});

test("no text whatever makes a reader of lines throw", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), (text) => {
      for (const reader of readers.slice(0, 10)) expect(isRefusal(reader(text))).toBe(true);
    }),
    { numRuns: 300 },
  );
});

test("a good message with one thing changed is read exactly or refused, never mended", () => {
  const strange = fc.oneof(
    fc.jsonValue({ maxDepth: 2 }),
    fc.constantFrom("__proto__", "constructor", -1, 65_536, "a.b.c"),
  );
  fc.assert(
    fc.property(fc.constantFrom(...ups, ...downs), fc.nat(), strange, (message, where, value) => {
      const spots: [Record<string, unknown>, string][] = [];
      const copy = structuredClone(message) as unknown as Record<string, unknown>;
      const walk = (at: Record<string, unknown>): void => {
        for (const name of Object.keys(at)) {
          spots.push([at, name]);
          if (typeof at[name] === "object" && at[name] !== null) walk(at[name] as Record<string, unknown>);
        }
      };
      walk(copy);
      const [at, name] = spots[where % spots.length] as [Record<string, unknown>, string];
      at[name] = value;
      const text = JSON.stringify(copy);
      for (const read of [readUp(text), readDown(text)]) {
        if (isRefusal(read)) continue;
        // Sentences are cut and cleaned; everything else is exactly what was sent.
        if (name !== "because" && name !== "message" && name !== "hint") expect(read).toEqual(JSON.parse(text));
      }
    }),
    { numRuns: 1_000 },
  );
});

test("the bodies of enrollment are read exactly", () => {
  const issued = {
    instance: "i1",
    chain: ["AAAA", "BBBB"],
    roots: ["CCCC"],
    bundleSequence: 1,
    issuedAtMs: 1,
    notAfterMs: 2,
    controlUrls: ["https://127.0.0.1:7443"],
    enrollmentUrls: ["https://[::1]:7444"],
  };
  expect(readIssuedAnswer(JSON.stringify(issued))).toEqual(issued);
  expect(isRefusal(readIssuedAnswer(JSON.stringify({ ...issued, chain: [] })))).toBe(true);
  expect(isRefusal(readIssuedAnswer(JSON.stringify({ ...issued, controlUrls: ["http://127.0.0.1:7443"] })))).toBe(true);
  expect(isRefusal(readIssuedAnswer(JSON.stringify({ ...issued, controlUrls: ["https://u:p@h:1"] })))).toBe(true);
  expect(readRenewRequest('{"csr":"AAAA"}')).toEqual({ csr: "AAAA" });
  for (const csr of ["AAA", "A=AA", "AA==AA==", "AAAA\n", "", "A".repeat(22_004)]) {
    expect(isRefusal(readRenewRequest(JSON.stringify({ csr }))), csr).toBe(true);
  }
  expect(readRefusalAnswer('{"code":"TOKEN_EXPIRED","message":"m","hint":"h"}')).toMatchObject({
    code: "TOKEN_EXPIRED",
  });
});

test("lines come out whole, however the bytes are cut", () => {
  fc.assert(
    fc.property(
      fc.array(fc.string({ unit: "grapheme" }).map((s) => s.trim().replaceAll("\n", ""))),
      fc.array(fc.integer({ min: 1, max: 9 })),
      (lines, cuts) => {
        const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(""), "utf8");
        const reader = new LineReader(1_000_000);
        const out: string[] = [];
        for (let at = 0, cut = 0; at < bytes.length; cut++) {
          const size = cuts[cut % Math.max(1, cuts.length)] ?? 3;
          const got = reader.push(bytes.subarray(at, at + size));
          if (isRefusal(got)) throw new Error(got.message);
          out.push(...got);
          at += size;
        }
        expect(out).toEqual(lines.map((line) => line.trim()));
        expect(reader.pendingBytes).toBe(0);
      },
    ),
  );
});

test("a line without an end is refused at the cap, and the reader stays refused", () => {
  const reader = new LineReader(8);
  expect(reader.push(Buffer.from("1234"))).toEqual([]);
  expect(reader.push(Buffer.from("5678\n"))).toEqual(["12345678"]);
  expect(isRefusal(reader.push(Buffer.from("123456789")))).toBe(true);
  expect(isRefusal(reader.push(Buffer.from("\n1\n")))).toBe(true);
});

test("versions of different epochs have no order", () => {
  const version = { epoch: "aaaaaaaaaaaa", counter: 2 };
  expect(compareVersions(version, { ...version, counter: 3 })).toBe("before");
  expect(compareVersions(version, { ...version, counter: 1 })).toBe("after");
  expect(compareVersions(version, { ...version })).toBe("same");
  expect(compareVersions(version, { epoch: "b", counter: 9 })).toBe("unrelated");
  expect(versionText(version)).toBe("aaaaaaaa:2");
});
