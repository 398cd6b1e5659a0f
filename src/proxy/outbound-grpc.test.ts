import { expect, test } from "vitest";
import type { FakeClientExchange, FakeServerExchange } from "../../test/support/exchanges.ts";
import { ordersFor, outboundBench, twoEndpoints, type OutboundBench } from "../../test/support/outbound.ts";
import { fieldOf, type Fields } from "../http/message.ts";
import type { Service } from "./snapshot.ts";

/** What is different for a call of gRPC on the caller's side. */
const grpc: Fields = ["content-type", "application/grpc+proto", "te", "trailers"];

const arrived = (bench: OutboundBench): FakeClientExchange[] =>
  bench.opened.flatMap(({ connection }) => connection.requests);

async function ready(endpoints = twoEndpoints): Promise<OutboundBench> {
  const bench = outboundBench();
  bench.publish(ordersFor(endpoints));
  for (const _ of endpoints) {
    bench.ask();
    await bench.settle();
  }
  for (const exchange of arrived(bench)) exchange.respond(200);
  for (const { connection } of bench.opened) connection.requests.length = 0;
  return bench;
}

async function goOn(bench: OutboundBench): Promise<void> {
  for (let i = 0; i < 4; i++) {
    await bench.settle();
    bench.clock.advance(100);
  }
  await bench.settle();
}

function call(bench: OutboundBench, fields: Fields = []): FakeServerExchange {
  const exchange = bench.ask({ method: "POST", protocol: "h2", body: true, fields: [...grpc, ...fields] });
  exchange.send("message");
  exchange.finish();
  return exchange;
}

const ended = (code: number, more: Fields = []): Fields => [
  "content-type",
  "application/grpc",
  "grpc-status",
  String(code),
  ...more,
];
const statusOf = (exchange: FakeServerExchange): string | undefined =>
  fieldOf(exchange.trailers ?? exchange.answer?.fields ?? [], "grpc-status");

function breakers(bench: OutboundBench): string[] {
  const service = bench.snapshot.read().services.get("orders.default") as Service;
  return bench.context.upstreams.of(service).endpoints.map(({ breaker }) => breaker.state);
}

test("a call waits for as long as its caller does: without grpc-timeout for ever, with one until then; HTTP has the sidecar's limit", async () => {
  const bench = await ready();
  const forever = call(bench);
  const minute = call(bench, ["grpc-timeout", "60S"]);
  const http = bench.ask({ method: "GET" });
  bench.clock.advance(bench.context.options.requestTimeoutMs + 1_000);
  expect([statusOf(forever), statusOf(minute), http.answer?.status]).toEqual([undefined, undefined, 504]);
  bench.clock.advance(60_000);
  expect([statusOf(forever), statusOf(minute)]).toEqual([undefined, "4"]);
});

test("what a sidecar says was not processed is sent again; what a routee says in the same status is not", async () => {
  for (const [more, times] of [
    [["x-hauberk-code", "CONNECT_FAILED"], 2],
    [["x-hauberk-code", "LIMIT_REQUESTS"], 2],
    [["x-hauberk-code", "UPSTREAM_LOST"], 1],
    [["x-hauberk-code", "JWT_KEYS_UNAVAILABLE"], 1],
    [[], 1],
  ] as const) {
    const bench = await ready();
    const exchange = call(bench);
    arrived(bench)[0]?.respond(200, ended(14, [...more]));
    await goOn(bench);
    expect([more, arrived(bench).length]).toEqual([more, times]);
    if (times === 1) expect(statusOf(exchange)).toBe("14");
    else {
      expect(arrived(bench)[1]?.text()).toBe("message");
      arrived(bench)[1]?.respond(200, ended(0));
      expect(statusOf(exchange)).toBe("0");
    }
  }
});

test("the same words in the trailers of an answer that has begun are never sent again", async () => {
  const bench = await ready();
  const exchange = call(bench);
  const [sent] = arrived(bench);
  sent?.respond(200, ["content-type", "application/grpc"], false);
  sent?.finish(["grpc-status", "14", "x-hauberk-code", "CONNECT_FAILED"]);
  await goOn(bench);
  expect(arrived(bench)).toHaveLength(1);
  expect(exchange.trailers).toEqual(["grpc-status", "14", "x-hauberk-code", "CONNECT_FAILED"]);
});

const endings: [string, (sent: FakeClientExchange) => void, boolean][] = [
  ["UNAVAILABLE alone", (sent) => sent.respond(200, ended(14)), true],
  ["DEADLINE_EXCEEDED alone", (sent) => sent.respond(200, ended(4)), true],
  [
    "UNAVAILABLE behind messages",
    (sent) => {
      sent.respond(200, ["content-type", "application/grpc"], false);
      sent.data("message");
      sent.finish(["grpc-status", "14"]);
    },
    true,
  ],
  ["INTERNAL", (sent) => sent.respond(200, ended(13)), false],
  ["PERMISSION_DENIED", (sent) => sent.respond(200, ended(7)), false],
  [
    "keys that cannot be had",
    (sent) => sent.respond(200, ended(14, ["x-hauberk-code", "JWT_KEYS_UNAVAILABLE"])),
    false,
  ],
  ["a share of places that is taken", (sent) => sent.respond(200, ended(14, ["x-hauberk-code", "LIMIT_PEER"])), false],
];

test.each(endings)("five answers of %s in a row count as the table of breakers says", async (_name, end, opens) => {
  const bench = await ready(twoEndpoints.slice(0, 1));
  for (let i = 0; i < 5; i++) {
    call(bench);
    end(arrived(bench)[i] as FakeClientExchange);
    await bench.settle();
  }
  expect(breakers(bench)).toEqual([opens ? "open" : "closed"]);
});

test("an answer in between closes the count: failures that are not in a row open nothing at once", async () => {
  const bench = await ready(twoEndpoints.slice(0, 1));
  for (let i = 0; i < 8; i++) {
    call(bench);
    const sent = arrived(bench)[i];
    sent?.respond(200, ["content-type", "application/grpc"], false);
    sent?.finish(["grpc-status", i === 4 ? "0" : "14"]);
  }
  expect(breakers(bench)).toEqual(["closed"]);
});

test("a probe has its answer with the head of a stream, however long the stream lasts", async () => {
  const bench = await ready(twoEndpoints.slice(0, 1));
  for (let i = 0; i < 5; i++) {
    call(bench);
    arrived(bench)[i]?.respond(200, ended(14));
  }
  expect(breakers(bench)).toEqual(["open"]);
  bench.clock.advance(bench.context.resilience.breakerOpenMs);
  call(bench);
  await bench.settle();
  expect(breakers(bench)).toEqual(["probing"]);
  arrived(bench)[5]?.respond(200, ["content-type", "application/grpc"], false);
  expect(breakers(bench)).toEqual(["closed"]);
});

test("a loss in the midst of a stream ends it in trailers; of an answer that is no gRPC, or has a length, in a cut", async () => {
  for (const [head, bodyLength, told] of [
    [["content-type", "application/grpc"], -1, true],
    [["content-type", "text/html"], -1, false],
    [["content-type", "application/grpc"], 20, false],
  ] as const) {
    const bench = await ready();
    const exchange = call(bench);
    const [sent] = arrived(bench);
    sent?.events.head({ status: 200, fields: [...head], bodyLength }, false);
    sent?.data("half");
    sent?.lose("lost");
    expect(exchange.over).toBe(told ? "ended" : "aborted");
    expect(statusOf(exchange)).toBe(told ? "14" : undefined);
    if (told) expect(fieldOf(exchange.trailers ?? [], "x-hauberk-code")).toBe("UPSTREAM_LOST");
  }
});

test("an HTTP/1.1 client of a stream that breaks off sees the cut: nothing there says that trailers are looked at", async () => {
  const bench = await ready();
  const exchange = bench.ask({ method: "POST", fields: [...grpc] });
  const [sent] = arrived(bench);
  sent?.respond(200, ["content-type", "application/grpc"], false);
  sent?.lose("lost");
  expect(exchange.over).toBe("aborted");
});

test("the deadline of a call goes on as what is left of it, and holds for the stream that has begun", async () => {
  const bench = await ready();
  const exchange = call(bench, ["grpc-timeout", "2S"]);
  const [sent] = arrived(bench);
  expect(fieldOf(sent?.head.fields ?? [], "grpc-timeout")).toBe("2S");
  expect(fieldOf(sent?.head.fields ?? [], "x-hauberk-timeout-ms")).toBe("2000");
  sent?.respond(200, ["content-type", "application/grpc"], false);
  bench.clock.advance(1_990);
  expect(exchange.over).toBe("no");
  bench.clock.advance(20);
  expect([exchange.over, statusOf(exchange), sent?.aborted?.kind]).toEqual(["ended", "4", "cancelled"]);
});

test("a second attempt is told less than the first", async () => {
  const bench = await ready();
  call(bench, ["grpc-timeout", "2S"]);
  arrived(bench)[0]?.lose("unprocessed");
  await goOn(bench);
  const second = fieldOf(arrived(bench)[1]?.head.fields ?? [], "grpc-timeout") ?? "";
  expect(second).toMatch(/^1[0-9]{3}m$/);
});

test("without a deadline of its own a stream that has begun has none", async () => {
  const bench = await ready();
  const exchange = call(bench);
  arrived(bench)[0]?.respond(200, ["content-type", "application/grpc"], false);
  bench.clock.advance(3_600_000);
  expect(exchange.over).toBe("no");
});

test("grpc-timeout on a request that is no gRPC says nothing, and one that is malformed goes on as it is", async () => {
  const bench = await ready();
  const plain = bench.ask({ fields: ["grpc-timeout", "0m"] });
  expect(plain.answer).toBeUndefined();
  call(bench, ["grpc-timeout", "soon"]);
  const fields = arrived(bench).map((sent) => fieldOf(sent.head.fields, "grpc-timeout"));
  expect(new Set(fields)).toEqual(new Set(["0m", "soon"]));
});
