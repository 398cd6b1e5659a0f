import { expect, test } from "vitest";
import type { AuthorizationPolicy, JwtProvider, Resource } from "../base/resource.ts";
import { isRefusal } from "../base/errors.ts";
import { parseSpiffeId, type SpiffeId } from "../base/spiffe-id.ts";
import { limits } from "../contract/limits.ts";
import type { Endpoint } from "../contract/watch.ts";
import type { Registry } from "../registry/registry.ts";
import { indexOf, noPolicies } from "./policy-index.ts";
import { differenceOf, tooLarge } from "./policy-set.ts";
import { Views } from "./views.ts";

function id(service: string): SpiffeId {
  const read = parseSpiffeId(`spiffe://mesh.test/ns/default/sa/${service}`);
  if (isRefusal(read)) throw new Error(read.message);
  return read;
}

function allow(name: string, target: string, ...from: string[]): AuthorizationPolicy {
  const rules = [{ from: [{ services: from.map((each) => `${each}.default`) }] }];
  return {
    kind: "AuthorizationPolicy",
    name,
    namespace: "default",
    target: { service: target, namespace: "default" },
    action: "ALLOW",
    mode: "ENFORCE",
    rules,
  };
}

/** A registry that counts how often it is asked. */
function fake(): { registry: Registry; asked: string[]; endpoints: Endpoint[]; loopback: boolean } {
  const state = { asked: [] as string[], endpoints: [] as Endpoint[], loopback: false };
  const registry = {
    endpointsFor: (service: string, machine: string) => {
      state.asked.push(`${service}@${machine}`);
      return state.endpoints;
    },
    hasLoopback: () => state.loopback,
  } as unknown as Registry;
  return Object.assign(state, { registry });
}

function views(resources: Resource[], world = fake()): { views: Views; world: ReturnType<typeof fake> } {
  const made = new Views("mesh.test", world.registry);
  made.setPolicies(indexOf(1, resources, noPolicies));
  return { views: made, world };
}

test("a thousand streams of one identity cost one look at the endpoints and share one text", () => {
  const { views: made, world } = views([allow("p", "orders", "web")]);
  const parts = new Set(Array.from({ length: 1_000 }, () => made.service("orders.default", id("web"), "here")));
  expect(parts.size).toBe(1);
  expect(world.asked).toEqual(["orders.default@"]);
});

test("a policy of another service changes nothing about this one", () => {
  const { views: made } = views([allow("p", "orders", "web")]);
  const before = made.service("orders.default", id("web"), "here");
  made.setPolicies(indexOf(2, [allow("p", "orders", "web"), allow("q", "ledger", "orders")], made.policies));
  expect(made.service("orders.default", id("web"), "here")).toBe(before);
});

test("endpoints are looked up again when they changed, and only then", () => {
  const { views: made, world } = views([allow("p", "orders", "web")]);
  made.service("orders.default", id("web"), "here");
  world.endpoints.push({ instance: "i", address: "10.0.0.1", port: 1, ports: [], healthy: true, stale: false });
  expect(made.service("orders.default", id("web"), "here").text).not.toContain("10.0.0.1");
  made.registrationsChanged("orders.default");
  expect(made.service("orders.default", id("web"), "here").text).toContain("10.0.0.1");
  expect(world.asked).toHaveLength(2);
});

test("what depends on the machine is kept apart by machine", () => {
  const { views: made, world } = views([allow("p", "orders", "web")]);
  world.loopback = true;
  made.service("orders.default", id("web"), "here");
  made.service("orders.default", id("web"), "10.0.0.2");
  expect(world.asked).toEqual(["orders.default@here", "orders.default@10.0.0.2"]);
});

test("an identity that no ALLOW could let in gets the text of a service that does not exist, and no endpoint is looked up", () => {
  const { views: made, world } = views([
    allow("p", "orders", "web"),
    { ...allow("d", "orders", "nosy"), action: "DENY" },
  ]);
  expect(made.service("orders.default", id("nosy"), "here").text).toBe('["service/orders.default",null]');
  expect(made.service("none.default", id("nosy"), "here").text).toBe('["service/none.default",null]');
  expect(world.asked).toEqual([]);
});

test("the own service sees its policies whole, with their providers", () => {
  const needs: AuthorizationPolicy = { ...allow("p", "orders", "web"), rules: [{ jwt: { provider: "corp" } }] };
  const { views: made } = views([needs, allow("q", "orders", "secret")]);
  const own = made.own({ service: "orders", namespace: "default" });
  expect(JSON.parse(own.text)).toEqual(["own", { policies: [needs, allow("q", "orders", "secret")] }]);
  expect(own.providers).toEqual(["default/corp"]);
  expect(made.provider("default/corp")).toBe('["provider/default/corp",null]');
});

test("a difference names what was added, changed and removed, and the order of keys is no change", () => {
  const { kind, name, ...rest } = allow("same", "orders", "web");
  const before = [allow("same", "orders", "web"), allow("old", "orders", "web"), allow("other", "orders", "web")];
  const after = [{ ...rest, name, kind }, allow("other", "orders", "shop"), allow("new", "orders", "web")];
  expect(differenceOf(before, after)).toEqual({
    added: ["AuthorizationPolicy default/new"],
    changed: ["AuthorizationPolicy default/other"],
    removed: ["AuthorizationPolicy default/old"],
  });
});

test("a set of which a sidecar would refuse to read a part is refused", () => {
  const words = Array.from({ length: 1_000 }, (_, index) => `/${index}${"x".repeat(2_000)}`);
  const large = (name: string): AuthorizationPolicy => ({
    ...allow(name, "orders"),
    rules: [{ to: [{ paths: words }] }],
  });
  const fits = [large("a"), large("b"), large("c"), { ...large("d"), target: { service: "x", namespace: "default" } }];
  expect(tooLarge(fits)).toBeUndefined();
  expect(tooLarge([...fits, large("e")])).toMatchObject({
    code: "POLICY_INVALID",
    message: expect.stringContaining('the policies of "orders.default"') as string,
  });
  const provider: JwtProvider = {
    kind: "JwtProvider",
    name: "corp",
    namespace: "default",
    issuer: "https://corp",
    audiences: ["mesh"],
    algorithms: ["ES256"],
    keys: { is: "inline", jwks: { keys: [{ x: "y".repeat(limits.policyBytesMax) }] } },
    forward: true,
  };
  expect(tooLarge([provider])).toMatchObject({ message: expect.stringContaining("default/corp") as string });
});

test("nothing is kept for identities that no longer ask, once policies or endpoints are others", () => {
  const { views: made, world } = views([allow("p", "orders", "web")]);
  const [before] = [made.service("orders.default", id("web"), "here")];
  made.setPolicies(indexOf(2, [allow("p", "orders", "web", "shop")], made.policies));
  expect(made.service("orders.default", id("web"), "here")).not.toBe(before);
  expect(world.asked).toHaveLength(2);
  expect(made.own({ service: "none", namespace: "default" }).text).toBe('["own",{"policies":[]}]');
});
