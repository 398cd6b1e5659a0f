import { generateKeyPairSync } from "node:crypto";
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { readResource } from "../contract/read-resource.ts";
import { readPolicySet, type PolicySet, type ReadContext } from "./read-yaml.ts";

const context: ReadContext = { trustDomain: "mesh.local" };
const read = (text: string, more: Partial<ReadContext> = {}): PolicySet =>
  readPolicySet([{ path: "policies/a.yaml", text }], { ...context, ...more });

/** A policy around one rule, which stands in line 7 and the lines below. */
const policy = (rule: string, action = "ALLOW"): string =>
  `apiVersion: hauberk.dev/v1\nkind: AuthorizationPolicy\nmetadata: { name: p }\nspec:\n  target: { service: orders }\n  action: ${action}\n  rules: [${rule}]\n`;
const problems = (text: string, more: Partial<ReadContext> = {}): string[] => {
  const set = read(text, more);
  return set.is === "read" ? [] : set.problems.map((one) => `${one.line}:${one.column} ${one.message} | ${one.hint}`);
};
const ruleProblems = (rule: string): string[] => problems(policy(rule));

test("the example of the design is read, with every name completed and every default filled in", () => {
  const set = read(`apiVersion: hauberk.dev/v1
kind: AuthorizationPolicy
metadata: { name: web-reads-orders }
spec:
  target: { service: orders }
  action: ALLOW            # ALLOW or DENY
  rules:
    - from: [{ services: [web] }]
      to: [{ methods: [GET], paths: ["/orders/*"] }]
      jwt: { provider: corp, claims: { scope: ["orders:read"], level: [3, true] } }
---
apiVersion: hauberk.dev/v1
kind: JwtProvider
metadata: { name: corp }
spec:
  issuer: https://corp.example
  audiences: [orders]
  algorithms: [ES256, RS256]
  keys: { uri: "https://corp.example/jwks.json" }
`);
  expect(set).toEqual({
    is: "read",
    warnings: [],
    resources: [
      {
        kind: "AuthorizationPolicy",
        name: "web-reads-orders",
        namespace: "default",
        trustDomain: "mesh.local",
        target: { service: "orders", namespace: "default" },
        action: "ALLOW",
        mode: "ENFORCE",
        rules: [
          {
            from: [{ services: ["web.default"] }],
            to: [{ methods: ["GET"], paths: ["/orders/*"] }],
            jwt: { provider: "default/corp", claims: { scope: ["orders:read"], level: ["3", "true"] } },
          },
        ],
      },
      {
        kind: "JwtProvider",
        name: "corp",
        namespace: "default",
        issuer: "https://corp.example",
        audiences: ["orders"],
        algorithms: ["ES256", "RS256"],
        keys: { is: "uri", uri: "https://corp.example/jwks.json" },
        forward: true,
      },
    ],
  });
  if (set.is !== "read") return;
  for (const resource of set.resources) {
    expect(readResource(JSON.parse(JSON.stringify(resource)))).toEqual(resource);
    expect(Object.isFrozen(resource)).toBe(true);
  }
});

test("names without a namespace mean the policy's own, and those with one theirs", () => {
  const set = read(`apiVersion: hauberk.dev/v1
kind: AuthorizationPolicy
metadata: { name: p, namespace: shop }
spec:
  target: { service: orders }
  action: DENY
  mode: AUDIT
  rules: [{ from: [{ services: [web, web.default], notServices: [cart] }] }]
`);
  expect(set).toMatchObject({
    is: "read",
    resources: [
      {
        namespace: "shop",
        mode: "AUDIT",
        target: { service: "orders", namespace: "shop" },
        rules: [{ from: [{ services: ["web.shop", "web.default"], notServices: ["cart.shop"] }] }],
      },
    ],
  });
});

test("an unknown key is refused at its place, with the key that was meant", () => {
  expect(ruleProblems("{ to: [{ method: [GET] }] }")).toEqual([
    '7:20 Cannot use the key "method": it is not known in to | Did you mean methods?',
  ]);
  expect(problems(policy("{ from: [{ services: [web] }] }").replace("  action", "  mood: AUDIT\n  action"))).toEqual([
    '6:3 Cannot use the key "mood": it is not known in spec | Did you mean mode?',
  ]);
  expect(ruleProblems("{ when: x }")[0]).toContain("Known are from, to, jwt");
});

test.each([
  ["{}", "7:11 Cannot use an empty rule: it would match every call"],
  ["{ from: [] }", "7:19 Cannot use from: the list is empty"],
  ["{ from: [{}] }", "7:20 Cannot use an empty entry of from"],
  ["{ to: [{}] }", "7:18 Cannot use an empty entry of to"],
  ["{ to: [{ methods: [] }] }", "7:29 Cannot use methods: the list is empty"],
  ["{ to: [{ methods: GET }] }", '7:29 Cannot use methods: it is the text "GET", not a list'],
  ["{ to: [{ methods: }] }", "7:29 Cannot use methods: it is empty, not a list"],
  ["{ to: [{ methods: [get] }] }", '7:30 Cannot use methods "get": methods are upper-case words'],
  ["{ to: [{ methods: [GET, GET] }] }", '7:35 Cannot use methods "GET": it is listed twice'],
  ["{ to: [{ methods: [GET], notMethods: [GET] }] }", '7:48 Cannot use notMethods "GET": it stands in methods as well'],
  ["{ to: [{ paths: [orders] }] }", '7:28 Cannot use paths "orders": it does not start with "/"'],
  ["{ to: [{ paths: [/a/*/b] }] }", '"*" stands in the middle'],
  ["{ to: [{ paths: ['*/a*'] }] }", 'more than one "*"'],
  ["{ to: [{ paths: ['/a/{id}x'] }] }", "a template is {name} or {**}"],
  ["{ to: [{ paths: ['/a/{*}'] }] }", '"*" and {…} do not mix'],
  ["{ to: [{ paths: ['/{**}/a/{**}'] }] }", "{**} may stand only once"],
  ["{ to: [{ paths: ['/{id}/*'] }] }", '"*" and {…} do not mix'],
  ["{ to: [{ paths: ['/a/../b'] }] }", 'no "." and ".." segments'],
  ["{ to: [{ paths: ['/a//b'] }] }", "no empty segments"],
  ["{ to: [{ paths: ['/a?x=1'] }] }", "without its query"],
  ["{ to: [{ paths: ['/a#x'] }] }", "without its query"],
  ["{ to: [{ paths: ['/ä'] }] }", "no normalized path has"],
  ["{ to: [{ paths: ['/a%2fb'] }] }", "in upper case"],
  ["{ to: [{ paths: ['/a%2Fb'] }] }", "refused before any policy"],
  ["{ to: [{ paths: ['/%41'] }] }", 'write "A" instead of %41'],
  ["{ to: [{ paths: ['/%zz'] }] }", "two hexadecimal digits"],
  ["{ to: [{ hosts: ['a:80'] }] }", "matched without a port"],
  ["{ to: [{ hosts: [a.] }] }", "without a final dot"],
  ["{ to: [{ hosts: [A] }] }", "matched in lower case"],
  ["{ to: [{ hosts: ['a*b'] }] }", "no host name or pattern"],
  ["{ to: [{ ports: [0] }] }", "whole number from 1 to 65535"],
  ["{ to: [{ ports: ['80'] }] }", "whole number from 1 to 65535"],
  ["{ to: [{ headers: { X-Role: [a] } }] }", "no header name in lower case"],
  ["{ to: [{ headers: { host: [a] } }] }", "Host is no header here"],
  ["{ to: [{ headers: { transfer-encoding: [a] } }] }", "removed before a policy sees it"],
  ["{ to: [{ headers: { x-hauberk-code: [a] } }] }", "removed before a policy sees it"],
  ["{ to: [{ headers: {} }] }", "it is empty, and no call could match it"],
  ["{ to: [{ headers: { x-a: ['é'] } }] }", "no header has this value"],
  ["{ from: [{ services: [Web] }] }", "not SERVICE or SERVICE.NAMESPACE"],
  ["{ from: [{ services: [a.b.c] }] }", "not SERVICE or SERVICE.NAMESPACE"],
  ["{ from: [{ services: ['*'] }] }", "not SERVICE or SERVICE.NAMESPACE"],
  ["{ from: [{ principals: ['spiffe://Mesh/x'] }] }", "its trust domain is not"],
  ["{ from: [{ principals: ['https://mesh/x'] }] }", "does not start with spiffe://"],
  [
    "{ from: [{ principals: ['spiffe://mesh*'] }] }",
    "a prefix has to hold spiffe://, its whole trust domain and a slash",
  ],
  ["{ from: [{ principals: ['spiffe://*/sa/web'] }] }", "only first or last"],
  ["{ from: [{ services: [web], notServices: [web] }] }", "stands in services as well"],
  ["{ from: [{ namespaces: [A] }] }", "no RFC 1123 label"],
  ["{ from: [{ addresses: [10.0.0.1/8] }] }", "bits set behind its prefix"],
  ["{ from: [{ addresses: [10.0.0.0/33] }] }", "not a number from 0 to 32"],
  ["{ from: [{ addresses: [10.0.0] }] }", "neither an IP address nor a CIDR block"],
  ["{ from: [{ addresses: ['fe80::1%eth0'] }] }", "no zone"],
  ["{ jwt: { claims: { scope: [a] } } }", "provider is missing"],
  ["{ jwt: { provider: nosuch } }", "7:30 Cannot use the provider default/nosuch: the set has no such JwtProvider"],
  ["{ jwt: { provider: a/b/c } }", "not PROVIDER or NAMESPACE/PROVIDER"],
  ["{ jwt: { provider: p, claims: { scope: ['a b'] } } }", "a scope is matched word by word"],
  ["{ jwt: { provider: p, claims: { scope: ['a*b'] } } }", "only first or last"],
  ["{ jwt: { provider: p, claims: {} } }", "it is empty, and no call could match it"],
])("the rule %s is refused", (rule, because) => {
  expect(ruleProblems(rule).join("\n")).toContain(because);
});

test.each([
  ["", []],
  ["# only words\n", []],
  ["a: [1", ["Cannot read the file: "]],
  ["- a\n", ["it is not a map of keys and values"]],
  ["kind: Nothing\n", ["it is not known"]],
  ["kind: AuthorisationPolicy\n", ["Did you mean AuthorizationPolicy?"]],
  ["kind: HTTPRoute\n", ["does not know it yet"]],
  ["kind: TrafficPolicy\n", ["does not know it yet"]],
  ["apiVersion: x\nkind: JwtProvider\n", ["it is none of hauberk.dev/v1", "metadata is missing", "spec is missing"]],
  ["kind: JwtProvider\nkind: JwtProvider\n", ["Map keys must be unique"]],
])("the file %j", (text, expected) => {
  const found = problems(text).join("\n");
  for (const part of expected) expect(found).toContain(part);
  if (expected.length === 0) expect(found).toBe("");
});

test("aliases, tags, deep nesting and large files are refused, and quickly", () => {
  const bomb = `a: &a [x,x,x,x,x,x,x,x,x]\n${["b", "c", "d", "e", "f", "g", "h", "i"].map((name, index) => `${name}: &${name} [${Array.from({ length: 9 }, () => `*${"abcdefgh"[index]}`).join(",")}]`).join("\n")}\n`;
  expect(problems(bomb).join("\n")).toContain("it has an alias");
  expect(problems("kind: !!js/function x\n").join("\n")).toMatch(/tag/i);
  expect(problems("[".repeat(100_000)).join("\n")).toContain("nested deeper");
  expect(problems("- ".repeat(5_000)).join("\n")).toContain("Cannot read the file");
  expect(problems(`${"a: {".repeat(40)}${"}".repeat(40)}`).join("\n")).toContain("nested deeper than 16");
  expect(problems(`# ${"x".repeat(300_000)}`).join("\n")).toContain("more than 262144");
});

test("what is wrong at one place is told once, however many brackets stay open there", () => {
  const set = read("kind: AuthorizationPolicy\nspec: { target: { service: orders\n");
  const problems = set.is === "refused" ? set.problems.map((one) => `${one.line}:${one.column} ${one.message}`) : [];
  expect(problems).not.toEqual([]);
  expect(new Set(problems).size).toBe(problems.length);
});

test("nothing of a set is used where one file of it is wrong, and every problem names its file", () => {
  const good = policy("{ from: [{ services: [web] }] }");
  const set = readPolicySet(
    [
      { path: "good.yaml", text: good },
      { path: "bad.yaml", text: good.replace("ALLOW", "PERMIT").replace("name: p", "name: q") },
      { path: "worse.yaml", text: "[" },
    ],
    context,
  );
  expect(set).toMatchObject({
    is: "refused",
    problems: [
      { file: "bad.yaml", line: 6, column: 11, message: 'Cannot use action "PERMIT": it is none of ALLOW, DENY' },
      { file: "worse.yaml" },
    ],
  });
});

test("two resources of one kind, namespace and name are refused, across files and documents", () => {
  const good = policy("{ from: [{ services: [web] }] }");
  expect(problems(`${good}---\n${good}`)[0]).toContain("another of this name in policies/a.yaml");
  const set = readPolicySet(
    [
      { path: "a.yaml", text: good },
      { path: "b.yaml", text: good },
    ],
    context,
  );
  expect(set).toMatchObject({ is: "refused", problems: [{ file: "b.yaml", line: 1 }] });
});

test("DENY with paths and ALLOW with notPaths are warned of, naming the safe pattern", () => {
  const warnings = (text: string): string[] => {
    const set = read(text);
    return set.is === "read"
      ? set.warnings.map((one) => `${one.line}:${one.column} ${one.message} | ${one.hint}`)
      : ["refused"];
  };
  expect(warnings(policy("{ to: [{ paths: [/admin] }] }", "DENY"))).toEqual([
    "7:27 Cannot vouch for DENY with paths: a path that the routee reads in another way gets past it | Write ALLOW with paths, or DENY with notPaths",
  ]);
  expect(warnings(policy("{ to: [{ notPaths: [/admin] }] }"))[0]).toContain("ALLOW with notPaths");
  expect(warnings(policy("{ to: [{ notPaths: [/a] }] }", "DENY"))).toEqual([]);
  expect(warnings(policy("{ to: [{ paths: [/a] }] }"))).toEqual([]);
  expect(warnings(policy("{ from: [{ principals: ['spiffe://mesh.locl/ns/a/sa/b'] }] }"))[0]).toContain(
    "not in this mesh's trust domain",
  );
});

const jwk = (type: "ec" | "rsa", bits = 2_048): Record<string, unknown> => {
  const pair =
    type === "ec"
      ? generateKeyPairSync("ec", { namedCurve: "P-256" })
      : generateKeyPairSync("rsa", { modulusLength: bits });
  return pair.publicKey.export({ format: "jwk" }) as Record<string, unknown>;
};
const ec = jwk("ec");
const provider = (keys: string, algorithms = "[ES256]"): string =>
  `apiVersion: hauberk.dev/v1\nkind: JwtProvider\nmetadata: { name: corp }\nspec:\n  issuer: https://corp\n  audiences: [orders]\n  algorithms: ${algorithms}\n  keys: ${keys}\n`;
const inline = (...keys: unknown[]): string => provider(`{ inline: ${JSON.stringify({ keys })} }`);

test("keys in a file are read beside the policy and become inline", () => {
  const asked: string[] = [];
  const readFile = (path: string): string => {
    asked.push(path);
    return JSON.stringify({ keys: [ec] });
  };
  expect(read(provider("{ file: corp.jwks.json }"), { readFile })).toMatchObject({
    is: "read",
    resources: [{ keys: { is: "inline", jwks: { keys: [ec] } } }],
  });
  expect(asked).toEqual(["policies/corp.jwks.json"]);
  expect(read(inline(ec))).toMatchObject({ is: "read", resources: [{ keys: { is: "inline", jwks: { keys: [ec] } } }] });
});

test("a file of keys that cannot be read, or is none, is refused without showing what it holds", () => {
  const failing = (): string => {
    throw new Error("ENOENT: no such file");
  };
  expect(problems(provider("{ file: x }"), { readFile: failing })[0]).toContain(
    '8:17 Cannot read the keys "x": ENOENT',
  );
  const secret = problems(provider("{ file: x }"), { readFile: () => "root:secret:0" });
  expect(secret[0]).toContain("it is no JSON");
  expect(secret.join("")).not.toContain("secret");
  expect(problems(provider("{ file: x }"))[0]).toContain("files cannot be read here");
});

test.each([
  ["no keys", inline(), "no JWK Set"],
  ["a shared secret", inline({ kty: "oct", k: "AAAA" }), "a shared secret"],
  ["a private key", inline({ ...ec, d: "AAAA" }), "it holds a private key"],
  ["a key for encryption", inline({ ...ec, use: "enc" }), "not for signatures"],
  ["two keys with one id", inline({ ...ec, kid: "1" }, { ...ec, kid: "1" }), "key 2 of keys: its kid"],
  ["a key of no use", inline(jwk("rsa")), "of no use for ES256"],
  ["a key with another algorithm", inline({ ...ec, alg: "RS256" }), "of no use for ES256"],
  ["a point off the curve", inline({ ...ec, x: ec["y"] }), "its numbers make no key"],
  [
    "a short modulus",
    provider(`{ inline: ${JSON.stringify({ keys: [jwk("rsa", 1_024)] })} }`, "[RS256]"),
    "less than 2048 bits",
  ],
  ["two ways", provider("{ uri: 'https://a/', file: b }"), "it has uri and file"],
  ["no way", provider("{}"), "it is empty"],
  ["plain HTTP", provider("{ uri: 'http://corp/jwks' }"), "can be replaced on the way"],
  ["a file URL", provider("{ uri: 'file:///etc/passwd' }"), "it is not https"],
  ["a password in the URL", provider("{ uri: 'https://a:b@corp/' }"), "ends up in logs"],
  ["a metadata address", provider("{ uri: 'https://169.254.169.254/' }"), "link-local"],
  ["a metadata address in disguise", provider("{ uri: 'https://[::ffff:a9fe:a9fe]/' }"), "link-local"],
  ["HMAC", provider("{ uri: 'https://a/' }", "[HS256]"), "it is none of ES256"],
  ["no signature", provider("{ uri: 'https://a/' }", "[none]"), "it is none of ES256"],
  [
    "no audience",
    provider("{ uri: 'https://a/' }").replace("audiences: [orders]", "audiences: []"),
    "the list is empty",
  ],
])("a provider with %s is refused", (_, text, because) => {
  expect(problems(text).join("\n")).toContain(because);
});

test("keys over plain HTTP are read from this machine alone", () => {
  for (const host of ["127.0.0.1:8000", "localhost:8000", "[::1]:8000"])
    expect(problems(provider(`{ uri: 'http://${host}/jwks' }`)), host).toEqual([]);
});

test("no text makes the reader throw, and each problem lies in the file and says what cannot be done", () => {
  const pieces = fc.constantFrom(
    "apiVersion: hauberk.dev/v1\n",
    "kind: AuthorizationPolicy\n",
    "kind: JwtProvider\n",
    "spec:\n",
    "  rules:\n",
    "    - from: [{ ",
    "services: [web]",
    " }]\n",
    "---\n",
    "&a ",
    "*a",
    "!!x ",
    "{",
    "]",
    "\t",
    ": ",
    "- ",
    "'",
    "\u0000",
    "%YAML 1.1\n",
    "? ",
    "<<: ",
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.array(pieces, { maxLength: 20 }).map((list) => list.join("")),
      ),
      (text) => {
        const set = read(text);
        if (set.is === "read") return;
        for (const one of set.problems) {
          expect(one.line).toBeGreaterThan(0);
          expect(one.column).toBeGreaterThan(0);
          expect(one.message).toMatch(/^Cannot [^]*[^.]$/);
          expect(one.hint).not.toBe("");
        }
      },
    ),
    { numRuns: 500 },
  );
});
