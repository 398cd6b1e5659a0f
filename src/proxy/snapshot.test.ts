import { expect, test } from "vitest";
import { allow, endpoint, idOf, view } from "../../test/support/outbound.ts";
import type { StateEntry } from "../contract/watch.ts";
import { buildSnapshot, emptySnapshot } from "./snapshot.ts";

const rules = [{ from: [{ services: ["web.default"] }] }];
const provider = {
  kind: "JwtProvider",
  name: "corp",
  namespace: "default",
  issuer: "i",
  audiences: ["a"],
  algorithms: ["ES256"],
  keys: { is: "uri", uri: "https://x.example" },
  forward: true,
} as const;
const copy = <T>(value: T): T => JSON.parse(JSON.stringify(value)) as T;
const entries = (): StateEntry[] => [
  ["bundle", { trustDomain: "mesh.local", sequence: 3, roots: [] }],
  ["own", { policies: [allow("web", rules)] }],
  ["provider/default/corp", provider],
  ["service/orders.default", view("orders", [allow("orders", rules)], [endpoint("a")])],
  ["service/ledger.default", view("ledger", [allow("ledger", rules)], [endpoint("l")])],
  ["service/nobody.default", null],
];

test("the state becomes one frozen value", () => {
  const snapshot = buildSnapshot(entries());
  expect(Object.isFrozen(snapshot)).toBe(true);
  expect(snapshot.bundle?.sequence).toBe(3);
  expect(snapshot.services.get("orders.default")).toMatchObject({ id: idOf("orders").text, defaultPorts: [8080] });
  expect(snapshot.services.get("nobody.default")).toBeNull();
  expect(snapshot.services.get("else.default")).toBeUndefined();
  expect(snapshot.providers.get("default/corp")?.issuer).toBe("i");
});

test("what is sent again unchanged keeps its compiled objects, in a copy too", () => {
  const before = buildSnapshot(entries());
  const after = buildSnapshot(copy(entries()), before);
  expect(after.own).toBe(before.own);
  expect(after.services.get("orders.default")).toBe(before.services.get("orders.default"));
  expect(after.providers.get("default/corp")).toBe(before.providers.get("default/corp"));
});

test("changed endpoints keep compiled policies; changed policies are compiled, and only theirs", () => {
  const before = buildSnapshot(entries());
  const moved = entries();
  moved[3] = ["service/orders.default", view("orders", [allow("orders", rules)], [endpoint("b")])];
  const after = buildSnapshot(copy(moved), before);
  const service = after.services.get("orders.default");
  expect(service).not.toBe(before.services.get("orders.default"));
  expect(service?.policies).toBe(before.services.get("orders.default")?.policies);
  expect(service?.endpoints[0]?.instance).toBe("b");
  moved[3] = ["service/orders.default", view("orders", [allow("orders", [])], [endpoint("b")])];
  const third = buildSnapshot(moved, after);
  expect(third.services.get("orders.default")?.policies).not.toBe(service?.policies);
  expect(third.services.get("ledger.default")).toBe(before.services.get("ledger.default"));
});

test("what leaves the state leaves the snapshot, and nothing is the empty one's deny", () => {
  const after = buildSnapshot([], buildSnapshot(entries()));
  expect([after.services.size, after.providers.size, after.bundle]).toEqual([0, 0, undefined]);
  expect(after.own).toBe(emptySnapshot.own);
  expect(after.own.couldAllow(idOf("web"))).toBe(false);
});

test("a policy that cannot be compiled throws, and the snapshot before stays what it was", () => {
  const before = buildSnapshot(entries());
  const bad = entries();
  bad[1] = ["own", { policies: [allow("web", [{ from: [{ addresses: ["no address"] }] }])] }];
  expect(() => buildSnapshot(bad, before)).toThrow();
  expect(before.own.couldAllow(idOf("web"))).toBe(true);
});
