import { expect, test } from "vitest";
import type { FakeServerExchange } from "../../test/support/exchanges.ts";
import { ordersFor, outboundBench, twoEndpoints, type OutboundBench } from "../../test/support/outbound.ts";
import { fieldOf } from "../http/message.ts";
import { connectFailed } from "./hop.ts";

/** A bug of ours, thrown at each place from which a request is called: it costs that request alone. */

const bug = (): never => {
  throw new Error("a bug");
};

const codeOf = (exchange: FakeServerExchange): string | undefined =>
  fieldOf(exchange.answer?.fields ?? [], "x-hauberk-code");

/** Two endpoints with a connection to each, and what was told of bugs. */
async function ready(use: Parameters<typeof outboundBench>[0] = {}): Promise<OutboundBench & { faults: unknown[] }> {
  const faults: unknown[] = [];
  const bench = outboundBench({ onFault: (thrown) => faults.push(thrown), ...use });
  bench.publish(ordersFor(twoEndpoints));
  for (const _ of twoEndpoints) {
    bench.ask();
    await bench.settle();
  }
  for (const { connection } of bench.opened) {
    connection.requests.at(-1)?.respond(200);
    connection.requests.length = 0;
  }
  return Object.assign(bench, { faults });
}

const open = (bench: OutboundBench): number => bench.context.openRequests.value;

test("a bug in what hears of an answer costs that request; the others on its connection go on", async () => {
  const bench = await ready();
  const [broken, other] = [bench.ask(), bench.ask(), bench.ask(), bench.ask()];
  const sent = bench.opened.flatMap(({ connection }) => connection.requests);
  // Nothing can be said to this client any more: its exchange is cut.
  broken.respond = bug;
  for (const one of sent) one.respond(200, [], false);
  expect([broken?.over, broken?.loss?.kind]).toEqual(["aborted", "lost"]);
  expect(other?.answer?.status).toBe(200);
  for (const one of sent) one.finish();
  expect([other?.over, open(bench)]).toEqual(["ended", 0]);
  expect(bench.faults).toMatchObject([{ message: "a bug" }]);
  expect(bench.opened.map(({ connection }) => connection.destroyed)).toEqual([undefined, undefined]);
});

test.each([
  ["a chunk of the answer", (one: Moved) => one.sent.data("x"), "write"],
  ["the end of the answer", (one: Moved) => one.sent.finish(), "end"],
  ["an interim answer", (one: Moved) => one.sent.inform(103), "inform"],
  ["room at the client", (one: Moved) => one.exchange.drain(), "consume up"],
  ["a chunk of the request", (one: Moved) => one.exchange.send("x"), "write up"],
  ["room at the callee", (one: Moved) => one.sent.drain(), "consume"],
] as const)("a bug as %s is told costs one request, and its place is given back", async (_, move, where) => {
  const bench = await ready();
  const exchange = bench.ask({ method: "POST", body: true });
  const sent = bench.opened.flatMap(({ connection }) => connection.requests)[0] as Moved["sent"];
  if (where === "write" || where === "end" || where === "consume up") sent.respond(200, [], false);
  if (where === "consume up") {
    exchange.roomBytes = 0;
    sent.data("held");
  }
  if (where === "consume") {
    sent.roomBytes = 0;
    exchange.send("held");
  }
  const [name, up] = where.split(" ") as ["write" | "end" | "inform" | "consume", string | undefined];
  Object.assign(up === undefined ? exchange : sent, { [name]: bug });
  move({ exchange, sent });
  expect(bench.faults[0]).toMatchObject({ message: "a bug" });
  expect(exchange.over).not.toBe("no");
  expect(open(bench)).toBe(0);
  const next = bench.ask();
  bench.opened
    .flatMap(({ connection }) => connection.requests)
    .at(-1)
    ?.respond(200);
  expect(next.answer?.status).toBe(200);
});

interface Moved {
  readonly exchange: FakeServerExchange;
  readonly sent: OutboundBench["opened"][number]["connection"]["last"];
}

test("a bug in a back-off's timer is answered as BUG, and the timers behind it run", async () => {
  const bench = await ready();
  const exchanges = [bench.ask(), bench.ask()];
  for (const { connection } of bench.opened) connection.last.lose("unprocessed");
  const [first] = bench.opened;
  if (first === undefined) throw new Error("no connection");
  first.connection.request = bug;
  bench.clock.advance(1_000);
  const other = bench.opened[1]?.connection.last;
  other?.respond(200);
  expect(new Set(exchanges.map((exchange) => codeOf(exchange) ?? exchange.answer?.status))).toEqual(
    new Set([200, "BUG"]),
  );
  expect(exchanges.find((exchange) => codeOf(exchange) === "BUG")?.answer?.status).toBe(500);
  expect(open(bench)).toBe(0);
  expect(bench.faults).toHaveLength(1);
});

test("a bug in one of many who wait for a connection keeps none of the others from it", async () => {
  const bench = await ready();
  bench.publish([]);
  bench.publish(ordersFor(twoEndpoints.slice(0, 1)));
  let connected: () => void = () => undefined;
  bench.dialling = () => new Promise((resolve) => (connected = () => resolve(undefined)));
  const [broken, ...others] = [bench.ask(), bench.ask(), bench.ask()];
  // Its head is made as it is sent.
  Object.defineProperty(broken?.head, "bodyLength", { get: bug });
  connected();
  await bench.settle();
  const { connection } = bench.opened.at(-1) as OutboundBench["opened"][number];
  for (const one of connection.requests) one.respond(200);
  expect(codeOf(broken)).toBe("BUG");
  expect(others.map((exchange) => exchange.answer?.status)).toEqual([200, 200]);
  expect(bench.faults).toHaveLength(1);
});

test("a bug in one of many who wait for a dial that fails keeps none of the others from hearing of it", async () => {
  const bench = await ready({ resilience: { retriesMax: 0 } });
  bench.publish([]);
  bench.publish(ordersFor(twoEndpoints.slice(0, 1)));
  let failed: () => void = () => undefined;
  bench.dialling = () => new Promise((resolve) => (failed = () => resolve(connectFailed("in the test"))));
  const [broken, other] = [bench.ask(), bench.ask()];
  broken.respond = bug;
  failed();
  await bench.settle();
  expect(broken?.over).toBe("aborted");
  expect(codeOf(other)).toBe("CONNECT_FAILED");
});

test("a bug in the microtask that gives a freed place to who waits costs nobody else's answer", async () => {
  const bench = await ready();
  for (const { connection } of bench.opened) connection.exchangesMax = 1;
  const options = bench.context.options as { hopConnectionsMax: number };
  options.hopConnectionsMax = 1;
  const first = [bench.ask(), bench.ask()];
  const waits = [bench.ask(), bench.ask()];
  const [hop] = [...bench.context.upstreams.all].flatMap(({ endpoints }) => endpoints.map((one) => one.hop));
  if (hop === undefined) throw new Error("no hop");
  const whole = hop.ready.bind(hop);
  hop.ready = bug;
  for (const { connection } of bench.opened) connection.last.respond(200);
  await bench.settle();
  expect(bench.faults).toHaveLength(1);
  expect(first.map((exchange) => exchange.answer?.status)).toEqual([200, 200]);
  hop.ready = whole;
  hop.freed();
  for (const { connection } of bench.opened) connection.last.respond(200);
  expect(waits.map((exchange) => exchange.answer?.status)).toEqual([200, 200]);
});

test("a bug in one of many who asked for a service keeps none of the others from the answer", async () => {
  const bench = await ready();
  let answer: (view: null) => void = () => undefined;
  bench.asking = () => new Promise((resolve) => (answer = resolve));
  const [broken, other] = [bench.ask({ authority: "unheard" }), bench.ask({ authority: "unheard" })];
  broken.respond = bug;
  answer(null);
  await bench.settle();
  expect(broken?.over).toBe("aborted");
  expect(codeOf(other)).toBe("SERVICE_UNKNOWN");
});

test("a bug in whoever waits for the control plane's answer keeps no other from it", async () => {
  const bench = await ready();
  const heard: unknown[] = [];
  bench.context.discovery.find("unheard.default", bug);
  bench.context.discovery.find("unheard.default", (answer) => heard.push(answer));
  await bench.settle();
  expect(heard).toEqual([null]);
  expect(bench.faults).toHaveLength(1);
});

test("a bug as a deadline passes costs that request, and the deadlines of the others pass all the same", async () => {
  const bench = await ready({ options: { requestTimeoutMs: 1_000 } });
  const [broken, other] = [bench.ask(), bench.ask()];
  broken.respond = bug;
  bench.clock.advance(2_000);
  expect([broken?.over, codeOf(other)]).toEqual(["aborted", "DEADLINE_EXCEEDED"]);
  expect(open(bench)).toBe(0);
});

test("a bug in the housekeeping of one endpoint keeps no other from its own", async () => {
  const bench = await ready();
  const hops = [...bench.context.upstreams.all].flatMap(({ endpoints }) => endpoints.map((one) => one.hop));
  const [first, second] = hops;
  if (first === undefined || second === undefined) throw new Error("no hops");
  first.closeIdle = bug;
  bench.context.upstreams.tick(bench.clock.monotonicMs() + 86_400_000);
  expect([first.connections, second.connections]).toEqual([1, 0]);
  first.rejudge = bug;
  bench.context.upstreams.rejudge();
  expect(bench.faults).toHaveLength(2);
});

test.each([
  ["its client leaves", (exchange: FakeServerExchange) => exchange.leave()],
  ["its deadline passes", (_: FakeServerExchange, bench: OutboundBench) => bench.clock.advance(60_000)],
  [
    "it is sent again",
    (_: FakeServerExchange, bench: OutboundBench) =>
      sentOf(bench)?.respond(503, ["x-hauberk-code", "LIMIT_REQUESTS"], false),
  ],
] as const)("a bug as an attempt is given up, because %s, leaves no request open at its endpoint", async (_, move) => {
  const bench = await ready();
  const exchange = bench.ask();
  Object.assign(sentOf(bench) as object, { abort: bug });
  move(exchange, bench);
  expect(bench.faults[0]).toMatchObject({ message: "a bug" });
  expect(open(bench)).toBe(0);
  const endpoints = [...bench.context.upstreams.all].flatMap((one) => one.endpoints);
  expect(endpoints.map((one) => one.open)).toEqual([0, 0]);
});

test.each([
  ["its fields are completed", (bench: OutboundBench) => Object.assign(bench.context.labels, { traceparent: bug })],
  [
    "a connection is looked for",
    (bench: OutboundBench) => {
      const endpoints = [...bench.context.upstreams.all].flatMap((one) => one.endpoints);
      for (const { hop } of endpoints) hop.ready = bug;
    },
  ],
] as const)(
  "a bug as a request is about to be sent, where %s, leaves no place of its endpoint taken",
  async (_, plant) => {
    const bench = await ready();
    plant(bench);
    expect(codeOf(bench.ask())).toBe("BUG");
    const endpoints = [...bench.context.upstreams.all].flatMap((one) => one.endpoints);
    expect([endpoints.map((one) => one.open), open(bench)]).toEqual([[0, 0], 0]);
  },
);

function sentOf(bench: OutboundBench): Moved["sent"] | undefined {
  return bench.opened.flatMap(({ connection }) => connection.requests)[0];
}
