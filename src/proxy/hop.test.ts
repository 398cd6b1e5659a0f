import { expect, test } from "vitest";
import { FakeConnection } from "../../test/support/exchanges.ts";
import { allow, endpoint, outboundBench, view, type OutboundBench } from "../../test/support/outbound.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import type { HopTenure } from "./hop.ts";

const hourMs = 3_600_000;

/** A tenure that writes down what it is asked, and whose certificates the test moves. */
class FakeTenure {
  readonly asked: string[] = [];
  readonly connection: FakeConnection;
  own: { issuedAtMs: number; notAfterMs: number };
  peer: { leaf: { notBeforeMs: number; notAfterMs: number } };

  constructor(connection: FakeConnection, life: { fromMs: number; toMs: number }) {
    this.connection = connection;
    this.own = { issuedAtMs: life.fromMs, notAfterMs: life.toMs };
    this.peer = { leaf: { notBeforeMs: life.fromMs, notAfterMs: life.toMs } };
  }

  renewed(): void {
    this.asked.push("renewed");
  }
  retire(): void {
    this.asked.push("retire");
    this.connection.drain();
  }
  rejudge(withinMs: number): void {
    this.asked.push(`rejudge ${withinMs}`);
    this.connection.drain();
  }
  drain(withinMs: number): void {
    this.asked.push(`drain ${withinMs}`);
    this.connection.drain();
  }
}

/** A caller with one endpoint, each of whose connections has a tenure of an hour. */
function scene(): { bench: OutboundBench; tenures: FakeTenure[] } {
  const bench = outboundBench();
  const tenures: FakeTenure[] = [];
  bench.tenureOf = (connection) => {
    const fromMs = bench.clock.wallMs();
    const tenure = new FakeTenure(connection, { fromMs, toMs: fromMs + hourMs });
    tenures.push(tenure);
    return tenure as unknown as HopTenure;
  };
  bench.publish([
    [
      "service/orders.default",
      view("orders", [allow("orders", [{ from: [{ services: ["web.default"] }] }])], [endpoint("a")]),
    ],
  ]);
  return { bench, tenures };
}

function next(bench: OutboundBench, change: Partial<TlsIdentity> = {}): void {
  const now = bench.identity.read() as TlsIdentity;
  bench.identity.publish({ ...now, generation: now.generation + 1, ...change });
}

test("after a renewal the old connection is retired when the new one stands, and is still told of renewals until it closes", async () => {
  const { bench, tenures } = scene();
  bench.ask();
  await bench.settle();
  const old = bench.connectionTo("a");
  next(bench);
  bench.context.upstreams.renewed();
  await bench.settle();
  bench.ask();
  await bench.settle();
  expect(tenures.map(({ asked }) => asked)).toEqual([["renewed", "retire"], []]);
  bench.context.upstreams.renewed();
  await bench.settle();
  expect(tenures.map(({ asked }) => asked.at(-1))).toEqual(["renewed", "renewed"]);
  old.close();
  bench.context.upstreams.renewed();
  await bench.settle();
  expect(tenures[0]?.asked).toEqual(["renewed", "retire", "renewed"]);
});

test("a connection that is proven anew is not retired when its first certificate would have ended", async () => {
  const { bench, tenures } = scene();
  bench.ask();
  await bench.settle();
  bench.clock.advance(hourMs / 2);
  const tenure = tenures[0] as FakeTenure;
  const life = { fromMs: bench.clock.wallMs(), toMs: bench.clock.wallMs() + hourMs };
  tenure.own = { issuedAtMs: life.fromMs, notAfterMs: life.toMs };
  tenure.peer = { leaf: { notBeforeMs: life.fromMs, notAfterMs: life.toMs } };
  bench.clock.advance(hourMs - 31_000);
  expect(tenure.asked).toEqual([]);
  bench.clock.advance(2_000);
  expect(tenure.asked).toEqual(["retire"]);
});

test("one end's proof alone moves nothing: the first certificate to end decides", async () => {
  const { bench, tenures } = scene();
  bench.ask();
  await bench.settle();
  const tenure = tenures[0] as FakeTenure;
  tenure.own = { issuedAtMs: bench.clock.wallMs(), notAfterMs: bench.clock.wallMs() + 5 * hourMs };
  bench.clock.advance(hourMs - 29_000);
  expect(tenure.asked).toEqual(["retire"]);
});

test("other roots: every connection is judged again, those that were retired before too, and none takes a new request", async () => {
  const { bench, tenures } = scene();
  bench.ask();
  await bench.settle();
  next(bench);
  bench.ask();
  await bench.settle();
  bench.ask();
  bench.context.upstreams.rejudge();
  expect(tenures.map(({ asked }) => asked)).toEqual([["retire", "rejudge 30000"], ["rejudge 30000"]]);
  next(bench, { bundleSequence: 2 });
  bench.ask();
  await bench.settle();
  expect(bench.opened).toHaveLength(3);
});

test("an endpoint that leaves takes its retired connections along, whatever is proven on them", async () => {
  const { bench, tenures } = scene();
  bench.ask();
  await bench.settle();
  next(bench);
  bench.ask();
  await bench.settle();
  bench.ask();
  bench.publish([["service/orders.default", view("orders", [], [])]]);
  expect(tenures.map(({ asked }) => asked)).toEqual([["retire", "drain 30000"], ["drain 30000"]]);
});

test("a connection whose server said goodbye is retired, and its streams are proven on", async () => {
  const { bench, tenures } = scene();
  bench.ask();
  await bench.settle();
  bench.opened[0]?.events.goaway();
  bench.context.upstreams.renewed();
  await bench.settle();
  expect(tenures[0]?.asked).toEqual(["retire", "renewed"]);
});
