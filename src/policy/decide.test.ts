import { expect, test } from "vitest";
import { isRefusal } from "../base/errors.ts";
import { parseSpiffeId, type SpiffeId } from "../base/spiffe-id.ts";
import { compilePolicies } from "./compile.ts";
import { decide, type Call, type Decision, type TokenState } from "./decide.ts";
import type { AuthorizationPolicy, Operation, Rule, Source } from "./resource.ts";

function id(text: string): SpiffeId {
  const parsed = parseSpiffeId(text);
  if (isRefusal(parsed)) throw new Error(parsed.message);
  return parsed;
}

const web = id("spiffe://mesh.local/ns/default/sa/web");

function policy(action: "ALLOW" | "DENY", rules: Rule[], more: Partial<AuthorizationPolicy> = {}): AuthorizationPolicy {
  const target = { service: "orders", namespace: "default" };
  const name = more.name ?? action.toLowerCase();
  return {
    kind: "AuthorizationPolicy",
    namespace: "default",
    trustDomain: "mesh.local",
    target,
    action,
    mode: "ENFORCE",
    rules,
    ...more,
    name,
  };
}

function call(more: Partial<Call> = {}): Call {
  return {
    principal: web,
    method: "GET",
    path: "/orders/7",
    host: "orders",
    port: 8080,
    fields: [],
    sourceAddress: "10.1.2.3",
    token: () => ({ is: "absent" }),
    ...more,
  };
}

const judge = (policies: AuthorizationPolicy[], of: Partial<Call> = {}): Decision =>
  decide(compilePolicies(policies), call(of));
const verdict = (policies: AuthorizationPolicy[], of: Partial<Call> = {}): string => judge(policies, of).verdict;
/** Whether one condition lets a call in as an ALLOW, and stops it as a DENY beside an ALLOW for everything. */
const allows = (rule: Rule, of: Partial<Call> = {}): boolean => verdict([policy("ALLOW", [rule])], of) === "allow";
const denies = (rule: Rule, of: Partial<Call> = {}): boolean =>
  verdict([policy("ALLOW", [{}]), policy("DENY", [rule])], of) === "deny";
const to = (operation: Operation): Rule => ({ to: [operation] });
const from = (source: Source): Rule => ({ from: [source] });

test("without a policy nothing is allowed", () => {
  expect(judge([])).toEqual({ verdict: "deny", code: "DENIED", by: "default deny", audits: [] });
});

test("a matching DENY goes before any ALLOW, and the deciding policy is named", () => {
  expect(judge([policy("ALLOW", [{}])])).toMatchObject({ verdict: "allow", by: "default/allow", code: undefined });
  expect(judge([policy("ALLOW", [{}]), policy("DENY", [to({ methods: ["GET"] })])])).toMatchObject({
    verdict: "deny",
    by: "default/deny",
    code: "DENIED",
  });
});

test("of several that match the first by name is named, whatever the order they came in", () => {
  const two = [
    policy("ALLOW", [to({ paths: ["/orders/7"] })], { name: "b" }),
    policy("ALLOW", [to({ paths: ["/*"] })], { name: "a" }),
  ];
  expect(judge(two).by).toBe("default/a");
  expect(judge(two.toReversed()).by).toBe("default/a");
  const other = [
    policy("ALLOW", [to({ paths: ["/orders/7"] })], { name: "a" }),
    policy("ALLOW", [to({ paths: ["/*"] })], { name: "b" }),
  ];
  expect(judge(other).by).toBe("default/a");
});

test("which policy is named for unknown, or for a missing token, is the first by name as well", () => {
  const perhaps = from({ addresses: ["10.0.0.0/8"] });
  const two = (rule: Rule): AuthorizationPolicy[] => [
    policy("ALLOW", [{ ...rule, ...to({ paths: ["/*"] }) }], { name: "b" }),
    policy("ALLOW", [{ ...rule, ...to({ paths: ["/orders/*"] }) }], { name: "a" }),
  ];
  const swapped = (rule: Rule): AuthorizationPolicy[] =>
    two(rule).map((one) => ({ ...one, name: one.name === "a" ? "b" : "a" }));
  expect(judge(two(perhaps), { sourceAddress: undefined })).toMatchObject({ verdict: "unknown", by: "default/a" });
  expect(judge(swapped(perhaps), { sourceAddress: undefined })).toMatchObject({ verdict: "unknown", by: "default/a" });
  expect(judge(swapped({ jwt: { provider: "default/corp" } }))).toMatchObject({ code: "JWT_MISSING", by: "default/a" });
  expect(judge(two({ jwt: { provider: "default/corp" } }))).toMatchObject({ code: "JWT_MISSING", by: "default/a" });
});

test("one compiled set decides for every identity by itself", () => {
  const compiled = compilePolicies([policy("ALLOW", [from({ services: ["web.default"] })])]);
  const others = ["spiffe://other.mesh/ns/default/sa/web", "spiffe://mesh.local/ns/shop/sa/web"].map(id);
  for (const round of [1, 2]) {
    expect(decide(compiled, call()).verdict, `round ${round}`).toBe("allow");
    for (const principal of [...others, undefined]) expect(decide(compiled, call({ principal })).verdict).toBe("deny");
  }
});

test("a rule with several paths is met by each, also where one starts with another", () => {
  const rule = to({ paths: ["/a/b/*", "/a*", "/c", "/c/d"] });
  for (const path of ["/a", "/ab", "/a/b/c", "/c", "/c/d"]) expect(allows(rule, { path }), path).toBe(true);
  for (const path of ["/", "/c/", "/c/de"]) expect(allows(rule, { path }), path).toBe(false);
});

test("a policy that names a method in lower case opens no way past another's DENY", () => {
  const set = [
    policy("ALLOW", [{}]),
    policy("DENY", [to({ methods: ["POST"] }), to({ methods: ["get"], paths: ["/x"] })]),
  ];
  expect(verdict(set, { method: "get" })).toBe("deny");
});

test("a policy without rules, and a rule with an empty list, match nothing", () => {
  expect(verdict([policy("ALLOW", [])])).toBe("deny");
  expect(allows({ from: [] })).toBe(false);
  expect(allows({ to: [] })).toBe(false);
  expect(allows(to({ methods: [] }))).toBe(false);
});

test("AUDIT policies are told and change nothing", () => {
  const audits = [
    policy("DENY", [{}], { name: "x", mode: "AUDIT" }),
    policy("ALLOW", [{}, {}], { name: "y", mode: "AUDIT" }),
  ];
  expect(judge(audits)).toMatchObject({ verdict: "deny", by: "default deny", audits: ["default/x", "default/y"] });
  expect(judge([...audits, policy("ALLOW", [{}])])).toMatchObject({
    verdict: "allow",
    audits: ["default/x", "default/y"],
  });
  expect(judge([policy("ALLOW", [to({ methods: ["PUT"] })], { mode: "AUDIT" })]).audits).toEqual([]);
});

test("a principal is compared literally: no character of it is a regular expression", () => {
  const dotted = from({ principals: ["spiffe://mesh.local/ns/default/sa/a.b"] });
  expect(allows(dotted, { principal: id("spiffe://mesh.local/ns/default/sa/a.b") })).toBe(true);
  expect(allows(dotted, { principal: id("spiffe://mesh.local/ns/default/sa/aXb") })).toBe(false);
  expect(allows(dotted, { principal: id("spiffe://mesh-local/ns/default/sa/a.b") })).toBe(false);
});

test("a service or namespace means the policy's own trust domain", () => {
  const foreign = { principal: id("spiffe://other.mesh/ns/default/sa/web") };
  expect(allows(from({ services: ["web.default"] }))).toBe(true);
  expect(allows(from({ services: ["web.default"] }), foreign)).toBe(false);
  expect(allows(from({ namespaces: ["default"] }), foreign)).toBe(false);
  expect(allows(from({ services: ["web.shop"] }))).toBe(false);
});

test.each([
  ["services", { services: ["web.default"] }],
  ["notServices", { notServices: ["orders.default"] }],
  ["principals", { principals: ["*"] }],
  ["notPrincipals", { notPrincipals: ["spiffe://mesh.local/x"] }],
  ["namespaces", { namespaces: ["default"] }],
  ["notNamespaces", { notNamespaces: ["shop"] }],
] as const)("%s is false where no identity was proven, and true for web", (_, source) => {
  expect(allows(from(source))).toBe(true);
  expect(denies(from(source))).toBe(true);
  expect(allows(from(source), { principal: undefined })).toBe(false);
  expect(denies(from(source), { principal: undefined })).toBe(false);
});

test.each([{ notServices: ["web.default"] }, { notNamespaces: ["default"] }])(
  "an identity that names no service of the mesh is stopped by a negative form: %j",
  (source) => {
    for (const text of ["spiffe://mesh.local/admin/eve", "spiffe://other.mesh/ns/default/sa/web"]) {
      expect(allows(from(source), { principal: id(text) })).toBe(false);
      expect(denies(from(source), { principal: id(text) })).toBe(true);
    }
  },
);

test.each([
  ["/a/*", ["/a/", "/a/b", "/a/b/c"], ["/a", "/ab", "/b/a/", "/A/"]],
  ["/a", ["/a"], ["/a/", "/ab", "/A"]],
  ["/a*", ["/a", "/ab", "/a/b"], ["/b", "/"]],
  ["*/items", ["/items", "/a/items"], ["/items/", "/items2"]],
  ["*", ["/", "/a", "*"], []],
  ["/a/{id}", ["/a/7"], ["/a/", "/a", "/a/7/", "/a/7/b", "/b/7"]],
  ["/a/{id}/x", ["/a/7/x"], ["/a//x", "/a/x", "/a/7/8/x"]],
  ["/a/{**}", ["/a/", "/a/b", "/a/b/c"], ["/a", "/ab"]],
  ["/a/{**}/z", ["/a/b/z", "/a/b/c/z"], ["/a/z", "/a/b/z/", "/a/b/zz"]],
  ["/{a}/{**}/{z}", ["/1/2/3", "/1/2/3/4"], ["/1/2", "/1"]],
  ["/a.b", ["/a.b"], ["/aXb"]],
])("the path %s", (pattern, matching, others) => {
  for (const path of matching) {
    expect(allows(to({ paths: [pattern] }), { path }), path).toBe(true);
    expect(allows(to({ notPaths: [pattern] }), { path }), path).toBe(false);
    expect(denies(to({ paths: [pattern] }), { path }), path).toBe(true);
  }
  for (const path of others) {
    expect(allows(to({ paths: [pattern] }), { path }), path).toBe(false);
    expect(denies(to({ paths: [pattern] }), { path }), path).toBe(false);
    expect(denies(to({ notPaths: [pattern] }), { path }), path).toBe(true);
  }
});

test("a call without a path is stopped by every condition on the path", () => {
  for (const operation of [{ paths: ["/a"] }, { notPaths: ["/a"] }]) {
    expect(allows(to(operation), { method: "CONNECT", path: "" })).toBe(false);
    expect(denies(to(operation), { method: "CONNECT", path: "" })).toBe(true);
  }
});

test.each(["orders.shop", "Orders.Shop", "ORDERS.SHOP.", "orders.shop:8080", "orders.shop.:80"])(
  "the host %s is orders.shop",
  (host) => {
    expect(allows(to({ hosts: ["orders.shop"] }), { host })).toBe(true);
    expect(denies(to({ hosts: ["orders.shop"] }), { host })).toBe(true);
    expect(allows(to({ notHosts: ["*.shop"] }), { host })).toBe(false);
  },
);

test.each(["orders", "orders.shop", "orders.shop.mesh", "*.mesh", "orders.*"])(
  "a condition on the host %s holds for the service, whichever of its names was written",
  (pattern) => {
    const host = "orders.shop.mesh";
    expect(allows(to({ hosts: [pattern] }), { host })).toBe(true);
    expect(denies(to({ hosts: [pattern] }), { host })).toBe(true);
    expect(allows(to({ notHosts: [pattern] }), { host })).toBe(false);
    expect(denies(to({ notHosts: [pattern] }), { host })).toBe(false);
    expect(allows(to({ hosts: [pattern] }), { host: "bills.other.mesh" })).toBe(pattern === "*.mesh");
    expect(allows(to({ hosts: [pattern] }), { host: "orders.shop.mesh.example.com" })).toBe(pattern === "orders.*");
  },
);

test("a call without a host is stopped by every condition on the host", () => {
  for (const operation of [{ hosts: ["a"] }, { notHosts: ["a"] }]) {
    expect(allows(to(operation), { host: "" })).toBe(false);
    expect(denies(to(operation), { host: "" })).toBe(true);
  }
});

test("a method in another case gets neither past a DENY nor into an ALLOW", () => {
  for (const operation of [{ methods: ["GET"] }, { notMethods: ["GET"] }]) {
    expect(allows(to(operation), { method: "get" })).toBe(false);
    expect(denies(to(operation), { method: "gET" })).toBe(true);
  }
  expect(denies(to({ methods: ["DELETE"] }), { method: "GET" })).toBe(false);
  expect(allows(to({ notMethods: ["DELETE"] }))).toBe(true);
});

test("ports are compared as numbers", () => {
  expect(allows(to({ ports: [8080] }))).toBe(true);
  expect(allows(to({ ports: [80] }))).toBe(false);
  expect(denies(to({ notPorts: [80] }))).toBe(true);
});

const role = (values: string[]): Rule => to({ headers: { "x-role": values } });
const notRole = (values: string[]): Rule => to({ notHeaders: { "x-role": values } });

test("of a header's many values one is enough for a DENY, and an ALLOW wants all", () => {
  const both = { fields: ["x-role", "user", "X-Role", "admin"] };
  expect(denies(role(["admin"]), both)).toBe(true);
  expect(denies(role(["user"]), both)).toBe(true);
  expect(allows(role(["admin"]), both)).toBe(false);
  expect(allows(role(["admin", "user"]), both)).toBe(true);
  expect(denies(notRole(["user"]), both)).toBe(true);
  expect(allows(notRole(["admin"]), both)).toBe(false);
});

test("a comma-separated value is no way around a DENY, and none into an ALLOW", () => {
  const joined = { fields: ["x-role", "user, admin"] };
  expect(denies(role(["admin"]), joined)).toBe(true);
  expect(allows(notRole(["admin"]), joined)).toBe(false);
  expect(allows(role(["admin"]), joined)).toBe(false);
});

test("an absent header has no value: headers is false, notHeaders is true", () => {
  expect([allows(role(["*"])), denies(role(["*"]))]).toEqual([false, false]);
  expect([allows(notRole(["admin"])), denies(notRole(["admin"]))]).toEqual([true, true]);
});

test.each(["admin\u00ff", "\u0000", "a\u007f", "é"])(
  "a header value that is not printable ASCII fails closed: %j",
  (value) => {
    for (const rule of [role(["*"]), notRole(["admin"]), role(["admin"])]) {
      expect(allows(rule, { fields: ["x-role", value] })).toBe(false);
      expect(denies(rule, { fields: ["x-role", value] })).toBe(true);
    }
  },
);

test("an address that cannot be seen is unknown, and the callee sees it", () => {
  const inside = policy("ALLOW", [from({ addresses: ["10.0.0.0/8"] })]);
  expect(judge([inside], { sourceAddress: undefined })).toEqual({
    verdict: "unknown",
    code: undefined,
    by: "default/allow",
    audits: [],
  });
  expect(verdict([inside])).toBe("allow");
  expect(verdict([inside], { sourceAddress: "11.0.0.1" })).toBe("deny");
  expect(verdict([inside], { sourceAddress: "::ffff:10.0.0.1" })).toBe("allow");
});

test("unknown propagates as Kleene has it", () => {
  const unseen = { sourceAddress: undefined };
  const perhaps = policy("DENY", [from({ addresses: ["10.0.0.0/8"] })]);
  expect(judge([perhaps, policy("ALLOW", [{}])], unseen)).toMatchObject({ verdict: "unknown", by: "default/deny" });
  expect(verdict([perhaps], unseen)).toBe("deny");
  expect(verdict([perhaps, policy("DENY", [{}], { name: "x" }), policy("ALLOW", [{}])], unseen)).toBe("deny");
  expect(verdict([policy("ALLOW", [from({ addresses: ["10.0.0.0/8"] }), {}])], unseen)).toBe("allow");
  expect(
    verdict([policy("ALLOW", [{ ...from({ addresses: ["10.0.0.0/8"] }), ...to({ methods: ["PUT"] }) }])], unseen),
  ).toBe("deny");
});

test("an address that cannot be read fails closed", () => {
  for (const source of [{ addresses: ["10.0.0.0/8"] }, { notAddresses: ["10.0.0.0/8"] }]) {
    expect(allows(from(source), { sourceAddress: "what" })).toBe(false);
    expect(denies(from(source), { sourceAddress: "what" })).toBe(true);
  }
});

const corp: Rule = { jwt: { provider: "default/corp", claims: { scope: ["orders:read"] } } };
const holding = (state: TokenState): Partial<Call> => ({
  token: (provider) => (provider === "default/corp" ? state : { is: "absent" }),
});
const claims = (value: Record<string, unknown>): Partial<Call> => holding({ is: "valid", claims: value });

test.each([
  [{ is: "absent" }, "deny", "JWT_MISSING", "allow", undefined],
  [{ is: "invalid", because: "x" }, "deny", "JWT_INVALID", "deny", "JWT_INVALID"],
  [{ is: "unavailable", because: "x" }, "deny", "JWT_KEYS_UNAVAILABLE", "deny", "JWT_KEYS_UNAVAILABLE"],
  [{ is: "valid", claims: {} }, "deny", "DENIED", "allow", undefined],
  [{ is: "valid", claims: { scope: null } }, "deny", "DENIED", "allow", undefined],
  [{ is: "valid", claims: { scope: "other" } }, "deny", "DENIED", "allow", undefined],
  [{ is: "valid", claims: { scope: { a: 1 } } }, "deny", "DENIED", "deny", "DENIED"],
  [{ is: "valid", claims: { scope: "a orders:read" } }, "allow", undefined, "deny", "DENIED"],
  [{ is: "unknown" }, "unknown", undefined, "unknown", undefined],
] as const)(
  "a rule that wants a token meets %j: %s %s as an ALLOW, %s %s as a DENY",
  (state, asAllow, allowCode, asDeny, denyCode) => {
    expect(judge([policy("ALLOW", [corp])], holding(state))).toMatchObject({ verdict: asAllow, code: allowCode });
    expect(judge([policy("ALLOW", [{}]), policy("DENY", [corp])], holding(state))).toMatchObject({
      verdict: asDeny,
      code: denyCode,
    });
  },
);

test("a missing token is told only where it is all that a rule lacks", () => {
  expect(judge([policy("ALLOW", [{ ...corp, ...to({ methods: ["PUT"] }) }])]).code).toBe("DENIED");
  expect(judge([policy("ALLOW", [{ ...corp, ...from({ services: ["shop.default"] }) }])]).code).toBe("DENIED");
  expect(judge([policy("ALLOW", [corp]), policy("DENY", [{}])]).code).toBe("DENIED");
});

test("what is known of a token that was sent is told before one that was not", () => {
  const other: Rule = { jwt: { provider: "default/aaa" } };
  const told = (state: TokenState): unknown => judge([policy("ALLOW", [other, corp])], holding(state)).code;
  expect(told({ is: "valid", claims: {} })).toBe("DENIED");
  expect(told({ is: "invalid", because: "" })).toBe("JWT_INVALID");
  expect(told({ is: "unavailable", because: "" })).toBe("JWT_KEYS_UNAVAILABLE");
});

test("a token counts for its own provider alone", () => {
  const other: Rule = { jwt: { provider: "default/other", claims: { scope: ["orders:read"] } } };
  expect(judge([policy("ALLOW", [other])], claims({ scope: "orders:read" })).code).toBe("JWT_MISSING");
});

test.each([
  [{ scope: "orders:read" }, true],
  [{ scope: "orders:reading" }, false],
  [{ scope: "xorders:read" }, false],
  [{ scope: ["orders:read"] }, true],
  [{ scope: ["a", "orders:read"] }, true],
  [{ scope: ["a orders:read"] }, false],
  [{ scope: [["orders:read"]] }, false],
])("scope wants a whole member: %j is %s", (value, expected) => {
  expect(allows(corp, claims(value))).toBe(expected);
});

test("a claim other than scope is one value, however many words it has", () => {
  const group: Rule = { jwt: { provider: "default/corp", claims: { group: ["ops"] } } };
  expect(allows(group, claims({ group: "ops" }))).toBe(true);
  expect(allows(group, claims({ group: "ops dev" }))).toBe(false);
  expect(allows(group, claims({ group: ["dev", "ops"] }))).toBe(true);
  const level: Rule = { jwt: { provider: "default/corp", claims: { level: ["3"], active: ["true"] } } };
  expect(allows(level, claims({ level: 3, active: true }))).toBe(true);
});

test("what every object inherits is no claim", () => {
  for (const name of ["constructor", "toString", "__proto__"]) {
    const rule: Rule = { jwt: { provider: "default/corp", claims: { [name]: ["*"] } } };
    expect([allows(rule, claims({})), denies(rule, claims({}))], name).toEqual([false, false]);
  }
});

test("a condition that throws matches in a DENY and not in an ALLOW", () => {
  const broken: Partial<Call> = {
    token: () => {
      throw new Error("broken");
    },
  };
  expect(allows(corp, broken)).toBe(false);
  expect(denies(corp, broken)).toBe(true);
});

test("the compiled policies name the providers that they want, and whether they see the address", () => {
  const compiled = compilePolicies([
    policy("ALLOW", [corp, { jwt: { provider: "shop/b" } }]),
    policy("DENY", [{ jwt: { provider: "aaa" } }], { mode: "AUDIT" }),
  ]);
  expect(compiled.providers).toEqual(["default/aaa", "default/corp", "shop/b"]);
  expect(compiled.seesAddress).toBe(false);
  expect(compilePolicies([policy("ALLOW", [from({ notAddresses: ["10.0.0.1"] })])]).seesAddress).toBe(true);
  expect(() => compilePolicies([policy("ALLOW", [from({ addresses: ["10.0.0.300"] })])])).toThrow(
    /^Cannot compile the address/,
  );
});

const tcp = { method: "CONNECT", path: "", port: 6379 } as const;
/** Every condition of which a TCP connection shows nothing. */
const overHttp: [string, Rule][] = [
  ["methods", to({ methods: ["GET"] })],
  ["notMethods", to({ notMethods: ["GET"] })],
  ["paths", to({ paths: ["/a"] })],
  ["notPaths", to({ notPaths: ["/a"] })],
  ["hosts", to({ hosts: ["orders"] })],
  ["notHosts", to({ notHosts: ["orders"] })],
  ["headers", to({ headers: { "x-a": ["1"] } })],
  ["notHeaders", to({ notHeaders: { "x-a": ["1"] } })],
  ["jwt", { jwt: { provider: "corp" } }],
];

test.each(overHttp)(
  "%s cannot be judged on a TCP connection: it lets nothing in, and stops everything",
  (_name, rule) => {
    expect(allows(rule, tcp)).toBe(false);
    expect(denies(rule, tcp)).toBe(true);
    expect(judge([policy("ALLOW", [rule])], tcp).code).toBe("DENIED");
  },
);

test("identity and ports are judged on a TCP connection, also beside what cannot be", () => {
  expect(allows(from({ services: ["web.default"] }), tcp)).toBe(true);
  expect(allows(to({ ports: [6379] }), tcp)).toBe(true);
  expect(allows(to({ ports: [5432] }), tcp)).toBe(false);
  expect(denies(to({ ports: [8080], methods: ["GET"] }), tcp)).toBe(false);
  expect(denies(to({ ports: [6379], methods: ["GET"] }), tcp)).toBe(true);
  expect(denies({ from: [{ services: ["batch.default"] }], to: [{ paths: ["/a"] }] }, tcp)).toBe(false);
});

test("a condition on methods that names CONNECT was made for TCP, and is judged", () => {
  expect(allows(to({ methods: ["CONNECT", "GET"] }), tcp)).toBe(true);
  expect(allows(to({ methods: ["CONNECT"], paths: ["/a"] }), tcp)).toBe(false);
  expect(denies(to({ methods: ["CONNECT"] }), tcp)).toBe(true);
  expect(denies(to({ notMethods: ["CONNECT"] }), tcp)).toBe(false);
  expect(allows(to({ notMethods: ["CONNECT"] }), tcp)).toBe(false);
});

test("the explanation says why a DENY on HTTP stops a TCP connection", () => {
  const steps: string[] = [];
  const policies = [
    policy("ALLOW", [{}]),
    policy("DENY", [{ from: [{ services: ["web.default"] }], to: [{ paths: ["/admin"], ports: [6379] }] }]),
  ];
  decide(compilePolicies(policies), call(tcp), { step: (step) => void steps.push(`${step.holds} ${step.because}`) });
  expect(steps[0]).toBe(
    'yes paths "/admin": on a TCP connection nobody can judge this, and in a DENY it then counts as met',
  );
  steps.length = 0;
  const only = [policy("ALLOW", [to({ methods: ["GET"] }), { jwt: { provider: "corp" } }])];
  decide(compilePolicies(only), call(tcp), { step: (step) => void steps.push(`${step.holds} ${step.because}`) });
  expect(steps).toEqual([
    'no methods "GET": a TCP connection shows no such thing',
    "no a token of default/corp: a TCP connection shows none",
  ]);
});
