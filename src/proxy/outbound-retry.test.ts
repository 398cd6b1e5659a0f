import * as fc from "fast-check";
import { expect, test } from "vitest";
import type { FakeClientExchange, FakeServerExchange } from "../../test/support/exchanges.ts";
import { endpoint, ordersFor, outboundBench, twoEndpoints, type OutboundBench } from "../../test/support/outbound.ts";
import { fieldOf } from "../http/message.ts";
import type { Loss } from "../transport/exchange.ts";
import { connectFailed } from "./hop.ts";
import type { Service } from "./snapshot.ts";

const codeOf = (exchange: FakeServerExchange): string | undefined =>
  fieldOf(exchange.answer?.fields ?? [], "x-hauberk-code");

/** Every request that reached any endpoint, in order. */
const arrived = (bench: OutboundBench): FakeClientExchange[] =>
  bench.opened.flatMap(({ connection }) => connection.requests);

/** Long enough for every backoff, not for a deadline. */
async function goOn(bench: OutboundBench): Promise<void> {
  for (let i = 0; i < 4; i++) {
    await bench.settle();
    bench.clock.advance(100);
  }
  await bench.settle();
}

async function ready(use: Parameters<typeof outboundBench>[0] = {}, endpoints = twoEndpoints): Promise<OutboundBench> {
  const bench = outboundBench(use);
  bench.publish(ordersFor(endpoints));
  for (const _ of endpoints) {
    bench.ask();
    await bench.settle();
  }
  for (const exchange of arrived(bench)) exchange.respond(200);
  for (const { connection } of bench.opened) connection.requests.length = 0;
  return bench;
}

// DESIGN, section 8, as a table: what happened first, and whether the request is sent again.
const always = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST", "PATCH"];
const idempotent = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"];
const cases: [string, (sent: FakeClientExchange) => void, string[], string][] = [
  ["a stream that was refused whole", (sent) => sent.lose("unprocessed"), always, ""],
  ["a loss after it was written", (sent) => sent.lose("lost"), idempotent, "UPSTREAM_LOST"],
  ["an answer that breaks the protocol", (sent) => sent.lose("invalid"), idempotent, "UPSTREAM_INVALID"],
  ["a 502", (sent) => sent.respond(502), idempotent, "502"],
  ["a 503", (sent) => sent.respond(503), idempotent, "503"],
  ["a 504", (sent) => sent.respond(504), idempotent, "504"],
  [
    "a 503 of the callee's sidecar whose routee did not accept",
    (sent) => sent.respond(503, ["x-hauberk-code", "CONNECT_FAILED"]),
    always,
    "",
  ],
  [
    "a 503 for lack of a provider's keys",
    (sent) => sent.respond(503, ["x-hauberk-code", "JWT_KEYS_UNAVAILABLE"]),
    [],
    "JWT_KEYS_UNAVAILABLE",
  ],
  ["a 500", (sent) => sent.respond(500), [], "500"],
  ["a 429", (sent) => sent.respond(429), [], "429"],
  ["a 404", (sent) => sent.respond(404), [], "404"],
];
const matrix = cases.flatMap(([what, act, again, otherwise]) =>
  always.map((method) => ({ name: `${what}: ${method}`, act, again: again.includes(method), otherwise, method })),
);

test.each(matrix)("$name is sent again: $again", async ({ act, again, otherwise, method }) => {
  const bench = await ready();
  const body = method === "POST" || method === "PUT" || method === "PATCH";
  const exchange = bench.ask({ method, body });
  if (body) {
    exchange.send("body");
    exchange.finish();
  }
  act(arrived(bench)[0] as FakeClientExchange);
  await goOn(bench);
  const sent = arrived(bench);
  expect(sent).toHaveLength(again ? 2 : 1);
  if (again) {
    expect(sent[1]?.text()).toBe(body ? "body" : "");
    expect(exchange.answer).toBeUndefined();
    sent.at(-1)?.respond(200);
    expect(exchange.answer?.status).toBe(200);
  } else {
    expect(codeOf(exchange) ?? String(exchange.answer?.status)).toBe(otherwise);
  }
});

test.each([
  ["for this caller's identity", "LIMIT_PEER"],
  ["for tunnels", "LIMIT_CONNECTIONS"],
])("an endpoint that has no place left %s, and says so, is as good as before", async (_, code) => {
  const bench = await ready({ resilience: { retriesMax: 0 } }, [endpoint("a")]);
  for (let i = 0; i < 10; i++) {
    const exchange = bench.ask();
    arrived(bench)[i]?.respond(503, ["x-hauberk-code", code]);
    expect(codeOf(exchange)).toBe(code);
  }
  const exchange = bench.ask();
  arrived(bench).at(-1)?.respond(200);
  expect(exchange.answer?.status).toBe(200);
});

test.each<[string, (bench: OutboundBench) => void]>([
  [
    "nobody listens any more",
    (bench) => {
      bench.dialling = () => connectFailed("ECONNREFUSED");
      for (const { connection } of bench.opened) connection.close();
    },
  ],
  ["its service has no endpoint any more", (bench) => bench.publish(ordersFor([]))],
])("a request that may have been processed is lost where it cannot be sent again: %s", async (_, then) => {
  const bench = await ready({}, [endpoint("a")]);
  const exchange = bench.ask({ method: "DELETE" });
  arrived(bench)[0]?.lose("lost");
  then(bench);
  await goOn(bench);
  expect([exchange.answer?.status, codeOf(exchange)]).toEqual([502, "UPSTREAM_LOST"]);
  expect(exchange.text()).toContain("Find out whether it took effect");
});

test.each([
  ["lost", "CONNECT_FAILED", 502, "UPSTREAM_LOST"],
  ["lost", "JWT_KEYS_UNAVAILABLE", 502, "UPSTREAM_LOST"],
  ["unprocessed", "CONNECT_FAILED", 503, "CONNECT_FAILED"],
] as const)(
  "after an attempt that was %s, a sidecar that says %s speaks of its own attempt alone",
  async (kind, said, status, code) => {
    const bench = await ready();
    const exchange = bench.ask({ method: "DELETE" });
    arrived(bench)[0]?.lose(kind);
    for (let i = 0; i < 5 && exchange.answer === undefined; i++) {
      await goOn(bench);
      for (const { connection } of bench.opened) {
        for (const one of connection.under) one.respond(503, ["x-hauberk-code", said]);
      }
    }
    expect([exchange.answer?.status, codeOf(exchange)]).toEqual([status, code]);
    expect(bench.context.openRequests.value).toBe(0);
  },
);

test.each(["LIMIT_PEER", "LIMIT_CONNECTIONS"])(
  "an endpoint that answers %s to all is left for one that takes them, also where it is being probed",
  async (code) => {
    for (const brokeBefore of [false, true]) {
      const bench = await ready();
      let broken = brokeBefore;
      const [full] = bench.opened.map(({ target }) => target.address);
      const ask = async (): Promise<number | undefined> => {
        const exchange = bench.ask();
        for (let i = 0; i < 20 && exchange.answer === undefined; i++) {
          for (const { connection, target } of bench.opened) {
            for (const one of connection.under) {
              if (target.address !== full) one.respond(200);
              else one.respond(503, broken ? [] : ["x-hauberk-code", code]);
            }
          }
          await bench.settle();
          // Time that only waits use up: a budget for retries fills with it.
          if (exchange.answer === undefined) bench.clock.advance(50);
        }
        return exchange.answer?.status;
      };
      for (let i = 0; i < 60; i++) await ask();
      broken = false;
      bench.clock.advance(60_000);
      const statuses: (number | undefined)[] = [];
      for (let i = 0; i < 300; i++) statuses.push(await ask());
      expect(statuses.filter((status) => status !== 200).length).toBeLessThan(15);
    }
  },
);

test("whoever takes an endpoint's tunnels does not shut others out of it, also after an outage", async () => {
  const bench = await ready({}, [endpoint("a")]);
  let broken = true;
  const ask = async (tunnel: boolean): Promise<number | undefined> => {
    const exchange = bench.ask(tunnel ? { upgrade: "websocket", body: true } : {});
    for (let i = 0; i < 20 && exchange.answer === undefined; i++) {
      for (const { connection } of bench.opened) {
        for (const one of connection.under) {
          if (broken) one.respond(503);
          else if (one.head.upgrade === undefined) one.respond(200);
          else one.respond(503, ["x-hauberk-code", "LIMIT_CONNECTIONS"]);
        }
      }
      await bench.settle();
      if (exchange.answer === undefined) bench.clock.advance(50);
    }
    return exchange.answer?.status;
  };
  for (let i = 0; i < 10; i++) await ask(false);
  broken = false;
  const statuses: (number | undefined)[] = [];
  // Each second somebody connects a WebSocket again, and then comes a plain request.
  for (let second = 0; second < 200; second++) {
    bench.clock.advance(1_000);
    await ask(true);
    statuses.push(await ask(false));
  }
  expect(statuses.filter((status) => status !== 200).length).toBeLessThan(15);
});

test("the next try goes to another endpoint", async () => {
  const bench = await ready();
  for (let i = 0; i < 5; i++) {
    const before = arrived(bench).length;
    bench.ask();
    const first = bench.opened.find(({ connection }) => connection.under.size === 1);
    first?.connection.last.lose("lost");
    await goOn(bench);
    expect(arrived(bench)).toHaveLength(before + 2);
    const second = bench.opened.find(({ connection }) => connection.under.size === 1);
    expect(second).not.toBe(first);
    second?.connection.last.respond(200);
  }
});

test("after the answer's head nothing is sent again", async () => {
  const bench = await ready();
  const exchange = bench.ask();
  const [sent] = arrived(bench);
  sent?.respond(200, [], false);
  sent?.lose("unprocessed");
  await goOn(bench);
  expect(arrived(bench)).toHaveLength(1);
  expect(exchange.over).toBe("aborted");
});

test("a body over the replay buffer is sent once, one of just its size twice", async () => {
  const bench = await ready({ options: { replayMaxBytes: 10 } });
  for (const [text, times] of [
    ["0123456789", 2],
    ["0123456789a", 1],
  ] as const) {
    const before = arrived(bench).length;
    const exchange = bench.ask({ method: "PUT", body: true });
    exchange.send(text.slice(0, 6));
    exchange.send(text.slice(6));
    exchange.finish();
    bench.opened.find(({ connection }) => connection.under.size === 1)?.connection.last.lose("lost");
    await goOn(bench);
    expect(arrived(bench)).toHaveLength(before + times);
    if (times === 1) expect(codeOf(exchange)).toBe("UPSTREAM_LOST");
    else bench.opened.find(({ connection }) => connection.under.size === 1)?.connection.last.respond(200);
  }
});

test("a body over the replay buffer that waited for the connection is sent once too", async () => {
  const bench = outboundBench({ options: { replayMaxBytes: 10 } });
  bench.publish(ordersFor(twoEndpoints));
  const exchange = bench.ask({ method: "PUT", body: true });
  exchange.send("0123456789a");
  exchange.finish();
  await bench.settle();
  expect(arrived(bench)[0]?.text()).toBe("0123456789a");
  arrived(bench)[0]?.lose("lost");
  await goOn(bench);
  expect(arrived(bench)).toHaveLength(1);
  expect(codeOf(exchange)).toBe("UPSTREAM_LOST");
});

test("a retry waits up to 25 ms, and not at all where the deadline would pass meanwhile", async () => {
  const bench = await ready();
  const exchange = bench.ask({ fields: ["x-hauberk-timeout-ms", "1"] });
  arrived(bench)[0]?.lose("lost");
  expect(codeOf(exchange)).toBe("UPSTREAM_LOST");
  const patient = bench.ask();
  bench.opened.find(({ connection }) => connection.under.size === 1)?.connection.last.lose("lost");
  expect(arrived(bench)).toHaveLength(2);
  bench.clock.advance(25);
  expect(arrived(bench)).toHaveLength(3);
  expect(patient.over).toBe("no");
});

test("the budget bounds retries in an outage, and is said to be spent", async () => {
  const bench = await ready({
    resilience: { retryReserveMax: 10, retryBudgetRatio: 0.2, breakerFailuresMax: 1_000, breakerSuccessRatio: 0 },
  });
  const before = arrived(bench).length;
  for (const { connection } of bench.opened) connection.onRequest = (sent) => queueMicrotask(() => sent.respond(503));
  for (let i = 0; i < 100; i++) {
    bench.ask();
    await bench.settle();
    bench.clock.advance(30);
    await bench.settle();
  }
  const retries = arrived(bench).length - before - 100;
  expect(retries).toBeGreaterThanOrEqual(28);
  expect(retries).toBeLessThanOrEqual(31);
  const text = bench.metrics.renderPrometheus();
  expect(text).toMatch(new RegExp(`hauberk_retries_total\\{service="orders.default",because="503"\\} ${retries}`));
  expect(text).toMatch(/hauberk_retries_refused_total\{service="orders.default"\} \d+/);
});

// The breaker.

test("five failures open the breaker, everybody is told at once, a good probe closes it", async () => {
  const bench = await ready({ resilience: { retriesMax: 0 } }, [endpoint("a")]);
  for (let i = 0; i < 5; i++) {
    const exchange = bench.ask();
    bench.connectionTo("a").last.respond(503);
    expect(exchange.answer?.status).toBe(503);
  }
  expect(codeOf(bench.ask())).toBe("BREAKER_OPEN");
  bench.clock.advance(4_999);
  expect(codeOf(bench.ask())).toBe("BREAKER_OPEN");
  bench.clock.advance(1);
  const probe = bench.ask();
  expect(codeOf(bench.ask())).toBe("BREAKER_OPEN");
  bench.connectionTo("a").last.respond(500);
  expect(probe.answer?.status).toBe(500);
  bench.ask();
  expect(bench.connectionTo("a").under.size).toBe(1);
  const text = bench.metrics.renderPrometheus();
  for (const to of ["open", "probing", "closed"]) expect(text).toContain(`instance="a",to="${to}"} 1`);
});

test("one connection that breaks is one failure, however many requests it carried; so many of them open the breaker", async () => {
  const bench = await ready({ resilience: { retriesMax: 0, breakerFailuresMax: 3, breakerSuccessRatio: 0 } }, [
    endpoint("a"),
  ]);
  for (let broken = 1; broken <= 3; broken++) {
    const under = Array.from({ length: 8 }, () => bench.ask());
    await bench.settle();
    bench.connectionTo("a").close();
    expect(under.map(codeOf)).toEqual(under.map(() => "UPSTREAM_LOST"));
    const next = bench.ask({ method: "POST" });
    await bench.settle();
    expect(codeOf(next)).toBe(broken < 3 ? undefined : "BREAKER_OPEN");
    next.leave();
  }
});

test("a failed probe keeps it open twice as long; one that went away gives its place back", async () => {
  const bench = await ready({ resilience: { retriesMax: 0 } }, [endpoint("a")]);
  for (let i = 0; i < 5; i++) {
    bench.ask();
    bench.connectionTo("a").last.lose("lost");
  }
  bench.clock.advance(5_000);
  bench.ask().leave();
  bench.ask();
  bench.connectionTo("a").last.lose("lost");
  bench.clock.advance(9_999);
  expect(codeOf(bench.ask())).toBe("BREAKER_OPEN");
  bench.clock.advance(1);
  bench.ask();
  expect(bench.connectionTo("a").under.size).toBe(1);
});

test("an endpoint with an open breaker is left out, and gets its probe when its time has come", async () => {
  const bench = await ready({ resilience: { retriesMax: 0 } });
  const bad = bench.connectionTo("a");
  bad.onRequest = (sent) => queueMicrotask(() => sent.respond(503));
  const good = bench.connectionTo("b");
  good.onRequest = (sent) => queueMicrotask(() => sent.respond(200));
  const statuses: (number | undefined)[] = [];
  for (let i = 0; i < 40; i++) {
    const exchange = bench.ask();
    await bench.settle();
    statuses.push(exchange.answer?.status);
  }
  expect(statuses.filter((status) => status === 503)).toHaveLength(5);
  bad.onRequest = (sent) => queueMicrotask(() => sent.respond(200));
  bench.clock.advance(5_000);
  const before = bad.requests.length;
  for (let i = 0; i < 4; i++) {
    expect(
      (
        await (async () => {
          const exchange = bench.ask();
          await bench.settle();
          return exchange;
        })()
      ).answer?.status,
    ).toBe(200);
  }
  expect(bad.requests.length).toBeGreaterThan(before);
});

test("failed dials and timeouts count against the endpoint; a drained stream and a deniable token do not", async () => {
  const bench = await ready({ resilience: { retriesMax: 0, breakerFailuresMax: 3 } }, [endpoint("a")]);
  for (let i = 0; i < 10; i++) {
    bench.ask();
    bench.connectionTo("a").last.lose("unprocessed");
    bench.ask();
    bench.connectionTo("a").last.respond(503, ["x-hauberk-code", "JWT_KEYS_UNAVAILABLE"]);
  }
  expect(
    bench.context.upstreams.of(bench.snapshot.read().services.get("orders.default") as Service).endpoints[0]?.breaker
      .state,
  ).toBe("closed");
  expect(codeOf(bench.ask({ fields: ["x-hauberk-timeout-ms", "0"] }))).toBe("DEADLINE_EXCEEDED");
  for (let i = 0; i < 3; i++) bench.ask({ fields: ["x-hauberk-timeout-ms", "50"] });
  bench.clock.advance(100);
  expect(codeOf(bench.ask())).toBe("BREAKER_OPEN");

  const dead = outboundBench({ resilience: { retriesMax: 0, breakerFailuresMax: 3 } });
  dead.dialling = () => connectFailed("ECONNREFUSED");
  dead.publish(ordersFor([endpoint("a")]));
  for (let i = 0; i < 3; i++) {
    dead.ask();
    await dead.settle();
  }
  expect(codeOf(dead.ask())).toBe("BREAKER_OPEN");
});

test("a connection that says goodbye loses nothing: what it did not take goes over the next one", async () => {
  const bench = await ready({}, [endpoint("a")]);
  const exchanges = [bench.ask({ method: "POST" }), bench.ask({ method: "POST" })];
  const [old] = bench.opened;
  const [first, second] = arrived(bench);
  if (old === undefined) throw new Error("no connection");
  old.connection.open = false;
  old.events.goaway();
  second?.lose("unprocessed");
  await goOn(bench);
  first?.respond(200);
  bench.connectionTo("a").last.respond(201);
  expect(exchanges.map(({ answer }) => answer?.status)).toEqual([200, 201]);
  expect(bench.opened).toHaveLength(2);
});

test("a dial that meets a process as it ends is made again at once, and costs no request its only other try", async () => {
  const bench = await ready({}, [endpoint("a")]);
  const exchange = bench.ask();
  const refusals = [connectFailed("ECONNRESET")];
  bench.dialling = () => refusals.shift();
  bench.connectionTo("a").close();
  await goOn(bench);
  expect([exchange.answer, refusals]).toEqual([undefined, []]);
  bench.connectionTo("a").last.respond(200);
  expect(exchange.answer?.status).toBe(200);
});

test("once for each connection that broke, where nobody listens any more", async () => {
  const bench = await ready({}, [endpoint("a")]);
  const exchange = bench.ask();
  bench.dialling = () => connectFailed("ECONNREFUSED");
  bench.touched.length = 0;
  bench.connectionTo("a").close();
  await goOn(bench);
  expect([codeOf(exchange), bench.touched.length]).toEqual(["UPSTREAM_LOST", 2]);
});

test("long after a connection broke, or after one that ended in order, a dial that fails is made no second time", async () => {
  const late = await ready({ resilience: { retriesMax: 0 } }, [endpoint("a")]);
  late.connectionTo("a").close();
  late.clock.advance(1_000);
  const drained = await ready({ resilience: { retriesMax: 0 } }, [endpoint("a")]);
  drained.context.upstreams.rejudge();
  for (const bench of [late, drained]) {
    bench.dialling = () => connectFailed("ECONNREFUSED");
    bench.touched.length = 0;
    const exchange = bench.ask();
    await goOn(bench);
    expect([codeOf(exchange), bench.touched.length]).toEqual(["CONNECT_FAILED", 1]);
  }
});

// Promise 6, with random points of loss.

type Step =
  | { do: "chunk"; size: number }
  | { do: "finish" }
  | { do: "wait" }
  | { do: "lose"; kind: Loss["kind"] }
  | { do: "answer"; status: number; code: string | undefined }
  | { do: "head" }
  | { do: "leave" }
  | { do: "goaway" }
  | { do: "dials"; fail: boolean };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant("chunk" as const), size: fc.integer({ min: 1, max: 40 }) }),
  fc.constant({ do: "finish" as const }),
  fc.constant({ do: "wait" as const }),
  fc.constant({ do: "wait" as const }),
  fc.record({
    do: fc.constant("lose" as const),
    kind: fc.constantFrom<Loss["kind"]>("unprocessed", "lost", "invalid", "cancelled"),
  }),
  fc.record({
    do: fc.constant("answer" as const),
    status: fc.constantFrom(200, 404, 500, 502, 503, 504),
    code: fc.constantFrom(undefined, "CONNECT_FAILED", "DENIED", "nonsense"),
  }),
  fc.constant({ do: "head" as const }),
  fc.constant({ do: "leave" as const }),
  fc.constant({ do: "goaway" as const }),
  fc.record({ do: fc.constant("dials" as const), fail: fc.boolean() }),
);

test("however attempts are lost, a body that may have been processed is not delivered again unless that is safe", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom("GET", "POST", "PUT", "PATCH", "DELETE"),
      fc.array(step, { maxLength: 30 }),
      fc.integer(),
      async (method, steps, seed) => {
        const bench = outboundBench({ seed, options: { replayMaxBytes: 64 } });
        bench.publish(ordersFor(twoEndpoints));
        const outcome = new Map<FakeClientExchange, string>();
        const exchange = bench.ask({ method, body: true });
        let body = "";
        let finished = false;
        const live = () => arrived(bench).findLast((sent) => !sent.over && sent.aborted === undefined);
        for (const step of steps) {
          const sent = live();
          if (step.do === "chunk" && !finished) {
            const text = String.fromCharCode(97 + (body.length % 26)).repeat(step.size);
            body += text;
            exchange.send(text);
          } else if (step.do === "finish" && !finished) {
            finished = true;
            exchange.finish();
          } else if (step.do === "wait") {
            await bench.settle();
            bench.clock.advance(30);
            await bench.settle();
          } else if (step.do === "leave" && exchange.over === "no") {
            exchange.leave();
          } else if (step.do === "dials") {
            bench.dialling = () => (step.fail ? connectFailed("in the test") : undefined);
          } else if (sent === undefined) {
            continue;
          } else if (step.do === "lose") {
            outcome.set(sent, step.kind);
            sent.lose(step.kind);
          } else if (step.do === "answer") {
            outcome.set(sent, step.code === "CONNECT_FAILED" && step.status >= 502 ? "unprocessed" : "answered");
            sent.respond(step.status, step.code === undefined ? [] : ["x-hauberk-code", step.code]);
          } else if (step.do === "head") {
            outcome.set(sent, "answered");
            sent.respond(200, [], false);
            sent.finish();
          } else if (step.do === "goaway") {
            sent.connection.open = false;
            bench.opened.find(({ connection }) => connection === sent.connection)?.events.goaway();
          }
        }
        bench.dialling = () => undefined;
        for (let i = 0; i < 12 && exchange.over === "no"; i++) {
          if (!finished) exchange.finish();
          finished = true;
          await goOn(bench);
          live()?.respond(200);
        }
        expect(exchange.over).not.toBe("no");
        const sent = arrived(bench);
        const processed = sent.filter((one) => outcome.get(one) !== "unprocessed");
        if (method === "POST" || method === "PATCH") expect(processed.length).toBeLessThanOrEqual(1);
        expect(processed.length).toBeLessThanOrEqual(2);
        for (const one of sent) {
          expect(body.startsWith(one.text())).toBe(true);
          if (one.ended) expect(one.text()).toBe(body);
        }
        // Nothing is left of it.
        expect(bench.context.openRequests.value).toBe(0);
        expect(bench.context.alarms.count).toBe(0);
        expect(exchange.consumed).toBe(body.length);
        const upstream = [...bench.context.upstreams.all][0];
        expect(upstream?.endpoints.map(({ open, hop }) => [open, hop.waiting]) ?? []).toEqual(
          upstream === undefined
            ? []
            : [
                [0, 0],
                [0, 0],
              ],
        );
      },
    ),
    { numRuns: 300 },
  );
});
