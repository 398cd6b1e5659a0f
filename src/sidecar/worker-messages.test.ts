import * as fc from "fast-check";
import { beforeAll, expect, test } from "vitest";
import { makeTestPki, type TestPki } from "../../test/support/pki.ts";
import { isRefusal } from "../base/errors.ts";
import { Metrics } from "../telemetry/metrics.ts";
import {
  failureOf,
  fromWorkerBytesMax,
  identityOf,
  readFromWorker,
  wireFamilies,
  wireIdentity,
  type FromWorker,
} from "./worker-messages.ts";

let pki: TestPki;
beforeAll(async () => {
  pki = await makeTestPki();
});

const endpoint = { instance: "a", address: "10.0.0.1:1", healthy: true, stale: false, breaker: "open", open: 1 };
const family = { name: "r_total", help: "R.", kind: "counter", over: "sum", labels: ["to"], bounds: [], sets: [] };

const good: FromWorker[] = [
  { type: "listening", inboundPort: 0, outboundPort: 65_535 },
  { type: "failed", code: "PORT_TAKEN", message: "Cannot listen", hint: "Wait" },
  { type: "ask", number: 1, service: "orders.default" },
  { type: "pong" },
  { type: "drained" },
];

test.each(good)("what a worker says is read as it is: $type", (message) => {
  expect(readFromWorker(JSON.stringify(message))).toEqual(message);
});

const bad: [string, unknown][] = [
  ["no object", 7],
  ["no type", { number: 1 }],
  ["a type of the sidecar's", { type: "stop" }],
  ["a key too many", { type: "pong", extra: 1 }],
  ["a port that is none", { type: "listening", inboundPort: 65_536, outboundPort: 1 }],
  ["a service with a path in it", { type: "ask", number: 1, service: "../orders.default" }],
  ["a service that is no text", { type: "ask", number: 1, service: { toString: "x" } }],
  ["a number that is none", { type: "ask", number: "1", service: "orders.default" }],
  ["a metric's name with a line feed", { type: "measured", number: 1, families: [{ ...family, name: "a\nb 1" }] }],
  ["a label's name with a quote", { type: "measured", number: 1, families: [{ ...family, labels: ['a"'] }] }],
  [
    "a value that is no number",
    { type: "measured", number: 1, families: [{ ...family, sets: [{ labels: [], values: [null] }] }] },
  ],
  [
    "more label sets than a family may have",
    {
      type: "measured",
      number: 1,
      families: [{ ...family, sets: Array.from({ length: 1_002 }, () => ({ labels: [], values: [] })) }],
    },
  ],
  ["too many families", { type: "measured", number: 1, families: Array.from({ length: 257 }, () => family) }],
  [
    "a breaker in no state",
    {
      type: "described",
      number: 1,
      description: {
        inboundPort: 1,
        outboundPort: 1,
        healthy: true,
        services: [{ service: "orders.default", endpoints: [{ ...endpoint, connections: 1, breaker: "ajar" }] }],
      },
    },
  ],
];

test.each(bad)("a worker that says %s is refused", (_what, message) => {
  expect(readFromWorker(JSON.stringify(message))).toMatchObject({ refused: true, code: "MESSAGE_INVALID" });
});

test("a line over the limit is refused, and no text at all makes the reader throw", () => {
  expect(readFromWorker(`"${"x".repeat(fromWorkerBytesMax)}"`)).toMatchObject({ code: "MESSAGE_INVALID" });
  const types = fc.constantFrom("listening", "failed", "ask", "measured", "described", "pong", "drained");
  fc.assert(
    fc.property(types, fc.dictionary(fc.string(), fc.jsonValue()), fc.string(), (type, rest, text) => {
      readFromWorker(JSON.stringify({ ...rest, type }));
      readFromWorker(text);
    }),
  );
});

test("metrics come over whole, but for values that JSON has no word for", () => {
  const metrics = new Metrics();
  metrics
    .counter({ name: "r_total", help: "R.", labels: ["to"] })
    .with("orders")
    .add(3);
  metrics.histogram({ name: "s", help: "S." }, [1, 2]).with().observe(1.5);
  const odd = metrics.gauge({ name: "g", help: "G.", labels: ["l"] });
  odd.with("fine").set(1);
  odd.with("odd").set(Number.NaN);
  const line = JSON.stringify({ type: "measured", number: 1, families: wireFamilies(metrics.view()) });
  const read = readFromWorker(line);
  const view = metrics.view();
  expect(isRefusal(read) || read.type !== "measured" ? read : read.families.slice(0, 2)).toEqual(view.slice(0, 2));
  expect(line).toContain("fine");
  expect(line).not.toContain("odd");
});

test("an identity arrives as it was sent, and signs with the same key", () => {
  const identity = pki.issue("spiffe://mesh.local/ns/default/sa/orders");
  const arrived = identityOf(JSON.parse(JSON.stringify(wireIdentity(identity))) as ReturnType<typeof wireIdentity>);
  expect(arrived).toMatchObject({
    id: identity.id,
    bundleSequence: identity.bundleSequence,
    issuedAtMs: identity.issuedAtMs,
    notAfterMs: identity.notAfterMs,
    generation: identity.generation,
  });
  expect(arrived?.key.equals(identity.key)).toBe(true);
  expect(arrived?.chain.map(({ der }) => der)).toEqual(identity.chain.map(({ der }) => der));
  expect(arrived?.roots.map(({ der }) => der)).toEqual(identity.roots.map(({ der }) => der));
  expect(identityOf(wireIdentity(undefined))).toBeUndefined();
});

test("a failure keeps its code, and one that this release does not know is a bug's", () => {
  const failed = { code: "PORT_TAKEN", message: "Cannot listen", hint: "Wait" };
  expect(failureOf(failed)).toMatchObject(failed);
  expect(failureOf({ ...failed, code: "__proto__" }).code).toBe("BUG");
  expect(isRefusal(readFromWorker(JSON.stringify({ type: "failed", ...failed })))).toBe(false);
});
