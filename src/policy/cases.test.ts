import { expect, test } from "vitest";
import { runCases, toCall, type CaseResult } from "./cases.ts";
import { explain } from "./explain.ts";
import { readCases } from "./read-cases.ts";
import { readPolicySet } from "./read-yaml.ts";

const set = readPolicySet(
  [
    {
      path: "a.yaml",
      text: `apiVersion: hauberk.dev/v1
kind: AuthorizationPolicy
metadata: { name: web-reads }
spec:
  target: { service: orders }
  action: ALLOW
  rules:
    - from: [{ services: [web], addresses: [10.0.0.0/8] }]
      to: [{ methods: [GET], paths: ["/orders/*"] }]
`,
    },
  ],
  { trustDomain: "mesh.local" },
);
const resources = set.is === "read" ? set.resources : [];
const context = { trustDomain: "mesh.local" };
const cases = (text: string): string => `apiVersion: hauberk.dev/v1\nkind: PolicyCases\ncases:\n${text}`;

function run(text: string): CaseResult[] {
  const found = readCases([{ path: "cases/a.yaml", text: cases(text) }]);
  if (found.is === "refused") throw new Error(found.problems.map((one) => one.message).join("; "));
  return runCases(resources, found.cases, context);
}

test("a case passes where verdict, code and policy are as expected, and fails where one is not", () => {
  const call = "call: { from: web, to: orders, method: GET, path: /orders/7, address: 10.1.1.1 }";
  const results = run(`  - { name: a, ${call}, expect: allow, by: default/web-reads }
  - { name: b, ${call}, expect: deny }
  - { name: c, ${call}, expect: allow, by: default deny }
  - { name: d, ${call}, expect: allow, code: DENIED }
`);
  expect(results.map((one) => one.passed)).toEqual([true, false, false, false]);
  expect(results[1]).toMatchObject({
    got: { verdict: "allow", code: undefined, by: "default/web-reads" },
    case: { file: "cases/a.yaml", line: 5 },
  });
});

test("the caller's side sees no address, and a path is normalized or refused first", () => {
  const results =
    run(`  - { name: a, call: { from: web, to: orders, method: GET, path: /orders/7, address: unseen }, expect: unknown }
  - { name: b, call: { from: web, to: orders, method: GET, path: "/x/../orders//7?q", address: 10.0.0.1 }, expect: allow }
  - { name: c, call: { from: web, to: orders, method: GET, path: "/orders/%2f", address: 10.0.0.1 }, expect: deny, code: REQUEST_INVALID }
  - { name: d, call: { from: shop, to: orders, method: GET, path: /orders/7 }, expect: deny, code: SERVICE_UNKNOWN }
`);
  expect(results.map((one) => one.passed)).toEqual([true, true, true, true]);
});

test("a TCP connection is a case without a path; every other call needs one", () => {
  const results =
    run(`  - { name: a, call: { from: web, to: orders, method: CONNECT, port: 6379, address: 10.0.0.1 }, expect: deny, code: DENIED }
`);
  expect(results.map((one) => one.passed)).toEqual([true]);
  expect(() => run("  - { name: a, call: { from: web, to: orders, method: GET }, expect: deny }\n")).toThrow(
    'Cannot read the call: "path" is missing',
  );
});

test("a case whose call cannot be made fails and says why", () => {
  expect(run("  - { name: a, call: { from: Web, to: orders, method: GET, path: / }, expect: deny }\n")).toMatchObject([
    { passed: false, lines: [expect.stringMatching(/^Cannot read the service name "Web"/)] },
  ]);
});

test("cases are read strictly", () => {
  const wrong = (text: string): string => {
    const found = readCases([{ path: "a.yaml", text: cases(text) }]);
    return found.is === "refused"
      ? found.problems.map((one) => `${one.line}:${one.column} ${one.message} ${one.hint}`).join("\n")
      : "";
  };
  expect(wrong("  - { name: a, call: { to: b, method: GET, paht: / }, expect: allow }\n")).toContain(
    '4:44 Cannot use the key "paht": it is not known in call Did you mean path?',
  );
  expect(wrong("  - { name: a, call: { to: b, method: GET, path: / }, expect: alow }\n")).toContain(
    "Did you mean allow?",
  );
  expect(wrong("  - { name: a, call: { to: b, method: GET, path: / }, expect: deny, code: DENYED }\n")).toContain(
    "Did you mean DENIED?",
  );
  const twin = "  - { name: a, call: { to: b, method: GET, path: / }, expect: deny }\n";
  expect(wrong(twin + twin)).toContain("another has this name");
  expect(
    wrong("  - { name: a, call: { to: b, method: GET, path: /, tokens: { corp: maybe } }, expect: deny }\n"),
  ).toContain("invalid");
  expect(readCases([{ path: "a.yaml", text: "kind: X" }]).is).toBe("refused");
});

test("an explanation tells each rule with what the call has in the place of what was wanted", () => {
  const lines = (from: string, path: string, address?: string): string[] => {
    const asked = toCall(
      { from, to: "orders", method: "GET", path, ...(address === undefined ? {} : { address }) },
      context,
    );
    return typeof asked === "string" ? [asked] : [...explain(resources, asked).lines];
  };
  expect(lines("web", "/x")).toEqual([
    "spiffe://mesh.local/ns/default/sa/web calls orders.default: GET /x",
    '  ALLOW default/web-reads, rule 1: no; paths "/orders/*": the path is "/x"; addresses "10.0.0.0/8": the address is 192.0.2.1',
    "deny with DENIED, by default deny",
  ]);
  expect(lines("web", "/orders/7", "unseen").slice(1)).toEqual([
    '  ALLOW default/web-reads, rule 1: unknown; addresses "10.0.0.0/8": only the callee sees the address',
    "unknown, by default/web-reads",
  ]);
  expect(lines("web", "/orders/7", "10.0.0.1").slice(1)).toEqual([
    "  ALLOW default/web-reads, rule 1: yes; every condition holds",
    "allow, by default/web-reads",
  ]);
  expect(lines("shop", "/orders/7").slice(1)).toEqual([
    '  ALLOW default/web-reads, rule 1: no; services "web.default": the caller is spiffe://mesh.local/ns/default/sa/shop',
    "deny with SERVICE_UNKNOWN, by default deny",
    "  no ALLOW policy could let this identity in, so for it the service does not exist",
  ]);
});

test("an explanation never shows a claim's or a header's value", () => {
  const asked = toCall(
    {
      from: "web",
      to: "orders",
      method: "GET",
      path: "/",
      headers: { "x-key": ["s3cret"] },
      tokens: { corp: { scope: "s3cret" } },
    },
    context,
  );
  if (typeof asked === "string") throw new Error(asked);
  const policy = {
    kind: "AuthorizationPolicy",
    name: "p",
    namespace: "default",
    target: { service: "orders", namespace: "default" },
    action: "ALLOW",
    mode: "ENFORCE",
  } as const;
  const rules = [
    { to: [{ headers: { "x-key": ["other"] } }] },
    { jwt: { provider: "default/corp", claims: { scope: ["other"] } } },
  ];
  const { lines } = explain([{ ...policy, rules }], asked);
  expect(lines.join("\n")).toContain("it lacks claim scope:");
  expect(lines.join("\n")).toContain("headers x-key:");
  expect(lines.join("\n")).not.toContain("s3cret");
});
