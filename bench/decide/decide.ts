import { hrtime, memoryUsage, stdout } from "node:process";
import { isRefusal } from "../../src/base/errors.ts";
import { parseSpiffeId } from "../../src/base/spiffe-id.ts";
import { compilePolicies } from "../../src/policy/compile.ts";
import { decide, type Call, type TokenState } from "../../src/policy/decide.ts";
import type { AuthorizationPolicy, Rule } from "../../src/policy/resource.ts";

/** One decision with 50 policies of 10 rules, the ALLOW last: `node bench/decide/decide.ts`. */
const services = ["web.default"];
type Shape = (policy: number, rule: number) => Rule;
const shapes: Readonly<Record<string, Shape>> = {
  "the caller's rules, other paths": (p, r) => ({
    from: [{ services }],
    to: [{ methods: ["GET"], paths: [`/orders/x${p}/${r}/*`] }],
  }),
  "other callers' rules": (p, r) => ({
    from: [{ services: [`s${p}-${r}.default`] }],
    to: [{ methods: ["GET"], paths: ["/orders/*"] }],
  }),
  "the caller's rules, other methods": () => ({ from: [{ services }], to: [{ methods: ["POST", "PUT"] }] }),
  "the caller's rules, templates": (p, r) => ({
    from: [{ services }],
    to: [{ methods: ["GET"], paths: [`/x${p}/{id}/r${r}`] }],
  }),
  "no index helps: suffixes": (p, r) => ({ from: [{ services }], to: [{ paths: [`*.x${p}${r}`] }] }),
  "no index helps: headers": (p, r) => ({ from: [{ services }], to: [{ headers: { "x-a": [`v${p}-${r}`] } }] }),
};

const principal = parseSpiffeId("spiffe://mesh.local/ns/default/sa/web");
if (isRefusal(principal)) throw new Error(principal.message);
const token: TokenState = { is: "valid", claims: { scope: "openid orders:read" } };
const call: Call = {
  principal,
  method: "GET",
  path: "/orders/4711/lines",
  host: "orders:80",
  port: 8080,
  fields: ["accept", "*/*", "user-agent", "x", "x-a", "zzz"],
  sourceAddress: "10.0.0.1",
  token: () => token,
};

function policies(shape: Shape, jwt: boolean): AuthorizationPolicy[] {
  const wanted: Rule = { from: [{ services }], to: [{ methods: ["GET"], paths: ["/orders/*"] }] };
  const last: Rule = jwt
    ? { ...wanted, jwt: { provider: "default/corp", claims: { scope: ["orders:read"] } } }
    : wanted;
  return Array.from({ length: 50 }, (_, p) => ({
    kind: "AuthorizationPolicy",
    name: `p${String(p).padStart(2, "0")}`,
    namespace: "default",
    trustDomain: "mesh.local",
    target: { service: "orders", namespace: "default" },
    action: p % 2 === 1 ? "ALLOW" : "DENY",
    mode: "ENFORCE",
    rules: Array.from({ length: 10 }, (_unused, r) => (p === 49 && r === 9 ? last : shape(p, r))),
  }));
}

const times = 200_000;
for (const [name, shape] of Object.entries(shapes)) {
  for (const jwt of [false, true]) {
    const compiled = compilePolicies(policies(shape, jwt));
    let best = Infinity;
    let bytes = Infinity;
    for (let round = 0; round < 4; round++) {
      const heap = memoryUsage().heapUsed;
      const from = hrtime.bigint();
      for (let i = 0; i < times; i++) if (decide(compiled, call).verdict !== "allow") throw new Error("not allowed");
      best = Math.min(best, Number(hrtime.bigint() - from) / times);
      bytes = Math.min(bytes, Math.max(0, memoryUsage().heapUsed - heap) / times);
    }
    stdout.write(`${name}, JWT ${jwt ? "on" : "off"}: ${Math.round(best)} ns, ${bytes.toFixed(1)} bytes of garbage\n`);
  }
}
