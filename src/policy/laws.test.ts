import * as fc from "fast-check";
import { expect, test } from "vitest";
import { isRefusal } from "../base/errors.ts";
import { contains, parseAddress, parseBlock } from "../base/ip-address.ts";
import { parseSpiffeId, serviceKey, serviceOf, type SpiffeId } from "../base/spiffe-id.ts";
import { compilePolicies } from "./compile.ts";
import { decide, type Call, type TokenState, type TraceStep } from "./decide.ts";
import { couldAllow, reduceFor } from "./reduce.ts";
import type { AuthorizationPolicy, Operation, Rule, Source } from "./resource.ts";

const ids = [
  "spiffe://mesh.local/ns/default/sa/web",
  "spiffe://mesh.local/ns/shop/sa/web",
  "spiffe://mesh.local/ns/default/sa/orders",
  "spiffe://other.mesh/ns/default/sa/web",
  "spiffe://mesh.local/admin/eve",
].map((text): SpiffeId => {
  const id = parseSpiffeId(text);
  if (isRefusal(id)) throw new Error(id.message);
  return id;
});

const some = <T>(...values: T[]): fc.Arbitrary<T[]> =>
  fc.uniqueArray(fc.constantFrom(...values), { minLength: 1, maxLength: 2 });
const partly = { requiredKeys: [] as [] };
const services = some("web.default", "web.shop", "orders.default");
const principals = some("*", "spiffe://mesh.local/ns/default/sa/web", "spiffe://mesh.local/ns/*", "*/sa/web");
const namespaces = some("default", "shop");
const addresses = some("10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32", "192.0.2.1");
const source = fc.record(
  {
    services,
    notServices: services,
    principals,
    notPrincipals: principals,
    namespaces,
    notNamespaces: namespaces,
    addresses,
    notAddresses: addresses,
  },
  partly,
);
const methods = some("GET", "POST", "CONNECT");
const paths = some("*", "/", "/a", "/a/*", "/a*", "/ab", "*/z", "/a/{id}", "/a/{**}/z", "/a/b/c", "/b/*");
const hosts = some("orders", "*.mesh", "orders.*");
const ports = some(80, 8080);
const values = some("x", "y", "*", "x*");
const headers = fc.dictionary(fc.constantFrom("x-a", "x-b"), values, { minKeys: 1 });
const operation = fc.record(
  {
    methods,
    notMethods: methods,
    paths,
    notPaths: paths,
    hosts,
    notHosts: hosts,
    ports,
    notPorts: ports,
    headers,
    notHeaders: headers,
  },
  partly,
);
const claims = fc.dictionary(fc.constantFrom("scope", "group"), some("r", "w", "*"), { minKeys: 1 });
const jwt = fc.oneof(
  fc.record({ provider: fc.constantFrom("default/a", "default/b"), claims }),
  fc.record({ provider: fc.constant("default/a") }),
);
const rule = fc.record(
  { from: fc.array(source, { maxLength: 2 }), to: fc.array(operation, { maxLength: 2 }), jwt },
  partly,
);
const policies: fc.Arbitrary<AuthorizationPolicy[]> = fc
  .array(
    fc.record({
      action: fc.constantFrom("ALLOW" as const, "ALLOW" as const, "DENY" as const),
      mode: fc.constantFrom("ENFORCE" as const, "ENFORCE" as const, "ENFORCE" as const, "AUDIT" as const),
      rules: fc.array(rule, { maxLength: 3 }),
    }),
    { maxLength: 5 },
  )
  .map((list) =>
    list.map((one, index) => ({
      kind: "AuthorizationPolicy",
      name: `p${index}`,
      namespace: "default",
      trustDomain: "mesh.local",
      target: { service: "orders", namespace: "default" },
      ...one,
    })),
  );

const state: fc.Arbitrary<TokenState> = fc.oneof(
  fc.constant<TokenState>({ is: "absent" }),
  fc.constant<TokenState>({ is: "invalid", because: "x" }),
  fc.constant<TokenState>({ is: "unavailable", because: "x" }),
  fc
    .dictionary(fc.constantFrom("scope", "group"), fc.constantFrom<unknown>("r", "r w", ["w"], 3, null, {}, [{}]))
    .map((found): TokenState => ({ is: "valid", claims: found })),
);
const calls: fc.Arbitrary<Call> = fc
  .record({
    principal: fc.constantFrom(...ids),
    method: fc.constantFrom("GET", "POST", "PUT", "get", "CONNECT"),
    path: fc.constantFrom("/", "/a", "/a/", "/ab", "/a/b", "/a/b/c", "/a/b/z", "/z", "/b/z", "", "*"),
    host: fc.constantFrom("orders", "Orders.Shop.Mesh.:80", "", "x"),
    port: fc.constantFrom(80, 8080, 9),
    fields: fc
      .array(fc.tuple(fc.constantFrom("x-a", "X-A", "x-b"), fc.constantFrom("x", "y", "xx", "y, x", "\u00ff")), {
        maxLength: 3,
      })
      .map((pairs) => pairs.flat()),
    sourceAddress: fc.constantFrom("10.1.2.3", "10.2.0.1", "192.0.2.1", "2001:db8::1", "::ffff:10.1.0.1", "bad"),
    a: state,
    b: state,
  })
  .map(({ a, b, ...call }) => ({
    ...call,
    path: call.method === "CONNECT" ? "" : call.path,
    token: (provider) => (provider === "default/a" ? a : b),
  }));

const ask = (set: readonly AuthorizationPolicy[], call: Call): ReturnType<typeof decide> =>
  decide(compilePolicies(set), call);
const runs = { numRuns: 1_500 };

test("decide says what a plain reading of the policies says", () => {
  fc.assert(
    fc.property(policies, calls, (set, call) => {
      expect(ask(set, call).verdict).toBe(plain(set, call));
    }),
    { numRuns: 4_000 },
  );
});

/** Section 7 once more, as slowly and plainly as it reads: what `decide` is held against. No index, no view, no order. */
function plain(set: readonly AuthorizationPolicy[], call: Call): "allow" | "deny" {
  const any = (action: "ALLOW" | "DENY"): boolean =>
    set.some(
      (policy) =>
        policy.action === action &&
        policy.mode === "ENFORCE" &&
        policy.rules.some((one) => plainRule(one, action, call)),
    );
  return !any("DENY") && any("ALLOW") ? "allow" : "deny";
}

function plainRule(one: Rule, action: "ALLOW" | "DENY", call: Call): boolean {
  if (one.from !== undefined && !one.from.some((each) => plainSource(each, action, call))) return false;
  if (one.to !== undefined && !one.to.some((each) => plainOperation(each, action, call))) return false;
  if (one.jwt === undefined) return true;
  if (call.method === "CONNECT") return action === "DENY";
  const token = call.token(one.jwt.provider);
  if (token.is !== "valid") return action === "DENY" && token.is !== "absent";
  return Object.entries(one.jwt.claims ?? {}).every(([name, wanted]) => {
    const value = token.claims[name];
    if (value === undefined || value === null) return false;
    const members = Array.isArray(value)
      ? (value as unknown[])
      : name === "scope" && typeof value === "string"
        ? value.split(" ")
        : [value];
    if (members.some((member) => typeof member === "object")) return action === "DENY";
    return members.some((member) => wanted.some((pattern) => glob(pattern, String(member))));
  });
}

function plainSource(one: Source, action: "ALLOW" | "DENY", call: Call): boolean {
  const id = call.principal as SpiffeId;
  const name = id.trustDomain === "mesh.local" ? serviceOf(id) : undefined;
  const closed = action === "DENY";
  const words = parseAddress(call.sourceAddress ?? "");
  const inside = (list: readonly string[]): boolean =>
    list.some((text) => {
      const block = parseBlock(text);
      return typeof block !== "string" && words !== undefined && contains(block, words);
    });
  const {
    services: s,
    notServices: ns,
    principals: p,
    notPrincipals: np,
    namespaces: n,
    notNamespaces: nn,
    addresses: a,
    notAddresses: na,
  } = one;
  return (
    (s === undefined || (name !== undefined && s.includes(serviceKey(name)))) &&
    (ns === undefined || (name === undefined ? closed : !ns.includes(serviceKey(name)))) &&
    (p === undefined || p.some((pattern) => glob(pattern, id.text))) &&
    (np === undefined || !np.some((pattern) => glob(pattern, id.text))) &&
    (n === undefined || (name !== undefined && n.includes(name.namespace))) &&
    (nn === undefined || (name === undefined ? closed : !nn.includes(name.namespace))) &&
    (a === undefined || (words === undefined ? closed : inside(a))) &&
    (na === undefined || (words === undefined ? closed : !inside(na)))
  );
}

/** Of a TCP connection only the port is seen; what names CONNECT was made for it. */
function plainTunnel(one: Operation, closed: boolean, call: Call): boolean {
  const {
    ports: p,
    notPorts: np,
    methods: m,
    notMethods: nm,
    paths,
    notPaths,
    hosts,
    notHosts,
    headers,
    notHeaders,
  } = one;
  const unseen = [paths, notPaths, hosts, notHosts, headers, notHeaders].some((each) => each !== undefined);
  return (
    (p === undefined || p.includes(call.port)) &&
    (np === undefined || !np.includes(call.port)) &&
    (m === undefined || m.includes("CONNECT") || closed) &&
    (nm === undefined || (!nm.includes("CONNECT") && closed)) &&
    (!unseen || closed)
  );
}

function plainOperation(one: Operation, action: "ALLOW" | "DENY", call: Call): boolean {
  const closed = action === "DENY";
  if (call.method === "CONNECT") return plainTunnel(one, closed, call);
  const host = call.host.toLowerCase().replace(/:\d+$/, "").replace(/\.$/, "");
  const odd = call.method !== call.method.toUpperCase();
  const path = (list: readonly string[]): boolean => list.some((pattern) => pathGlob(pattern, call.path));
  const hostIn = (list: readonly string[]): boolean => list.some((pattern) => glob(pattern, host));
  const { methods: m, notMethods: nm, paths: p, notPaths: np, hosts: h, notHosts: nh, ports: o, notPorts: no } = one;
  return (
    (m === undefined || m.includes(call.method) || (odd && closed)) &&
    (nm === undefined || (!nm.includes(call.method) && !(odd && !closed))) &&
    (p === undefined || (call.path === "" ? closed : path(p))) &&
    (np === undefined || (call.path === "" ? closed : !path(np))) &&
    (h === undefined || (host === "" ? closed : hostIn(h))) &&
    (nh === undefined || (host === "" ? closed : !hostIn(nh))) &&
    (o === undefined || o.includes(call.port)) &&
    (no === undefined || !no.includes(call.port)) &&
    Object.entries(one.headers ?? {}).every(([name, wanted]) =>
      plainHeader(name, wanted, { action, not: false, call }),
    ) &&
    Object.entries(one.notHeaders ?? {}).every(([name, wanted]) =>
      plainHeader(name, wanted, { action, not: true, call }),
    )
  );
}

function plainHeader(
  name: string,
  wanted: readonly string[],
  how: { action: "ALLOW" | "DENY"; not: boolean; call: Call },
): boolean {
  const found = how.call.fields.filter(
    (_, index) => index % 2 === 1 && how.call.fields[index - 1]?.toLowerCase() === name,
  );
  if (found.length === 0) return how.not;
  const matches = (value: string): boolean => wanted.some((pattern) => glob(pattern, value));
  const member = (value: string): boolean => matches(value) || value.split(", ").some(matches);
  const deny = how.action === "DENY";
  // Values are met in order, and the first that settles the matter does.
  for (const value of found) {
    if (value === "\u00ff") return deny;
    const holds = (deny === how.not ? matches(value) : member(value)) !== how.not;
    if (deny && holds) return true;
    if (!deny && !holds) return false;
  }
  return !deny;
}

function glob(pattern: string, value: string): boolean {
  return new RegExp(`^${pattern.split("*").map(escaped).join("[^]*")}$`).test(value);
}

function pathGlob(pattern: string, value: string): boolean {
  if (!pattern.includes("{")) return glob(pattern, value);
  const body = pattern
    .split("/")
    .map((part) => (part === "{**}" ? "[^]*" : part.startsWith("{") ? "[^/]+" : escaped(part)));
  return new RegExp(`^${body.join("/")}$`).test(value);
}

function escaped(text: string): string {
  return text.replaceAll(/[$()*+.?[\\\]^{|}]/g, String.raw`\$&`);
}

test("the caller, which sees no address and only its own rules, never denies what the callee allows", () => {
  fc.assert(
    fc.property(policies, calls, (set, call) => {
      const reduced = reduceFor(set, call.principal as SpiffeId);
      const caller = ask(reduced, { ...call, sourceAddress: undefined });
      const callee = ask(set, call);
      if (callee.verdict === "allow") expect(caller.verdict).not.toBe("deny");
      if (caller.verdict !== "unknown") expect(callee.verdict).toBe(caller.verdict);
    }),
    runs,
  );
});

test("a caller that cannot judge tokens never denies what the callee allows", () => {
  fc.assert(
    fc.property(policies, calls, (set, call) => {
      const caller = ask(set, { ...call, sourceAddress: undefined, token: () => ({ is: "unknown" }) });
      if (caller.verdict !== "unknown") expect(ask(set, call).verdict).toBe(caller.verdict);
    }),
    runs,
  );
});

test("policies reduced for an identity decide its calls alike, in verdict, code, policy and audits", () => {
  fc.assert(
    fc.property(policies, calls, fc.boolean(), (set, call, seen) => {
      const asked = seen ? call : { ...call, sourceAddress: undefined };
      expect(ask(reduceFor(set, call.principal as SpiffeId), asked)).toEqual(ask(set, asked));
    }),
    runs,
  );
});

test("reduced policies name nobody but the identity they were reduced for", () => {
  fc.assert(
    fc.property(policies, fc.constantFrom(...ids), (set, id) => {
      for (const policy of reduceFor(set, id)) {
        for (const one of policy.rules.flatMap((each) => each.from ?? [])) {
          expect(one.principals).toEqual([id.text]);
          expect(Object.keys(one).filter((key) => !["principals", "addresses", "notAddresses"].includes(key))).toEqual(
            [],
          );
        }
      }
    }),
    runs,
  );
});

test("an identity that no ALLOW could let in is never allowed, whatever it calls", () => {
  fc.assert(
    fc.property(policies, calls, (set, call) => {
      if (!couldAllow(set, call.principal as SpiffeId)) expect(ask(set, call).verdict).toBe("deny");
    }),
    runs,
  );
});

test("an identity that some ALLOW could let in is let in by it once the address, operation and token fit", () => {
  fc.assert(
    fc.property(policies, fc.constantFrom(...ids), calls, (set, id, call) => {
      // What may change from call to call is taken away; what is left of the ALLOW rules is the identity.
      const bare = set
        .filter((policy) => policy.action === "ALLOW")
        .map((policy) => ({
          ...policy,
          rules: policy.rules.map((one): Rule =>
            one.from === undefined ? {} : { from: one.from.map(withoutAddress) },
          ),
        }));
      expect(ask(bare, { ...call, principal: id }).verdict === "allow").toBe(couldAllow(set, id));
    }),
    runs,
  );
});

function withoutAddress(one: Source): Source {
  return Object.fromEntries(Object.entries(one).filter(([key]) => key !== "addresses" && key !== "notAddresses"));
}

test("with a trace the decision is the same, and the last step told is the one that decided", () => {
  fc.assert(
    fc.property(policies, calls, (set, call) => {
      const steps: TraceStep[] = [];
      const decision = decide(compilePolicies(set), call, { step: (step) => void steps.push(step) });
      expect(decision).toEqual(ask(set, call));
      const deciding = steps.filter((step) => step.mode === "ENFORCE" && step.holds === "yes");
      expect(deciding.map((step) => step.policy)).toEqual(
        decision.verdict === "allow" || deciding.length > 0 ? [decision.by] : [],
      );
      for (const step of steps) expect(step.because).not.toBe("");
    }),
    runs,
  );
});

test("the order of the policies changes nothing", () => {
  fc.assert(
    fc.property(policies, calls, (set, call) => {
      expect(ask(set.toReversed(), call)).toEqual(ask(set, call));
    }),
    runs,
  );
});
