import * as fc from "fast-check";
import { expect, test } from "vitest";
import {
  allow,
  endpoint,
  idOf,
  ordersFor,
  outboundBench,
  twoEndpoints,
  view,
  type OutboundBench,
} from "../../test/support/outbound.ts";
import type { FakeServerExchange } from "../../test/support/exchanges.ts";
import { HauberkError } from "../base/errors.ts";
import type { StateEntry } from "../contract/watch.ts";
import { fieldOf, type Fields } from "../http/message.ts";
import { connectFailed } from "./hop.ts";
import { Routes } from "./routes.ts";

const codeOf = (exchange: FakeServerExchange): string | undefined =>
  fieldOf(exchange.answer?.fields ?? [], "x-hauberk-code");
const toWeb = [{ from: [{ services: ["web.default"] }] }];

/** A bench with open connections to every endpoint. */
async function warm(bench: OutboundBench, times = 2): Promise<void> {
  for (let i = 0; i < times; i++) {
    const exchange = bench.ask();
    await bench.settle();
    expect(exchange.events).toBeDefined();
    bench.opened.at(-1)?.connection.last.respond(200);
  }
}

test("a call that everything is known of is on its connection when the handler returns", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  await warm(bench, 1);
  const exchange = bench.ask({ path: "/orders/7?x=1" });
  const sent = bench.connectionTo("a").last;
  expect(sent.head).toMatchObject({ method: "GET", scheme: "https", authority: "orders", path: "/orders/7?x=1" });
  sent.respond(200, ["content-type", "text/plain"], false);
  sent.data("hello");
  sent.finish();
  expect([exchange.answer?.status, exchange.text(), exchange.over]).toEqual([200, "hello", "ended"]);
});

// The order of section 6.

test.each([
  ["a service that does not exist", [], "SERVICE_UNKNOWN", ["ask orders.default"]],
  ["a service that the control plane hides", [["service/orders.default", null]], "SERVICE_UNKNOWN", []],
  [
    "a service whose policies could never match",
    [
      [
        "service/orders.default",
        view("orders", [allow("orders", [{ from: [{ services: ["ledger.default"] }] }])], twoEndpoints),
      ],
    ],
    "SERVICE_UNKNOWN",
    [],
  ],
  [
    "a method that no policy allows",
    [
      [
        "service/orders.default",
        view("orders", [allow("orders", [{ ...toWeb[0], to: [{ methods: ["POST"] }] }])], twoEndpoints),
      ],
    ],
    "DENIED",
    [],
  ],
  [
    "a token that is missing",
    [
      [
        "service/orders.default",
        view("orders", [allow("orders", [{ ...toWeb[0], jwt: { provider: "corp" } }])], twoEndpoints),
      ],
    ],
    "JWT_MISSING",
    [],
  ],
] as [string, StateEntry[], string, string[]][])(
  "%s opens nothing and asks for nothing more",
  async (_, entries, code, touched) => {
    const bench = outboundBench();
    bench.publish(entries);
    const exchange = bench.ask();
    await bench.settle();
    expect(codeOf(exchange)).toBe(code);
    bench.clock.advance(60_000);
    await bench.settle();
    expect(bench.touched).toEqual(touched);
  },
);

test("what does not exist and what may not be seen are answered in the same bytes", async () => {
  const hidden = outboundBench();
  hidden.publish([
    [
      "service/orders.default",
      view("orders", [allow("orders", [{ from: [{ services: ["x.default"] }] }])], twoEndpoints),
    ],
  ]);
  const missing = outboundBench();
  const exchanges = [hidden.ask({ fields: ["x-request-id", "i"] }), missing.ask({ fields: ["x-request-id", "i"] })];
  await missing.settle();
  expect(exchanges.map((exchange) => exchange.answer)).toEqual([exchanges[0]?.answer, exchanges[0]?.answer]);
  expect(exchanges[0]?.text()).toBe(exchanges[1]?.text());
  expect(exchanges[0]?.answer?.status).toBe(404);
});

test("what only the callee can see goes on to it", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")], [{ from: [{ services: ["web.default"], addresses: ["10.9.0.0/16"] }] }]));
  bench.ask();
  await bench.settle();
  expect(bench.opened).toHaveLength(1);
});

test("keys that the caller cannot have are the callee's to judge", async () => {
  const bench = outboundBench();
  const corp = {
    kind: "JwtProvider",
    name: "corp",
    namespace: "default",
    issuer: "https://corp.example",
    audiences: ["m"],
    algorithms: ["ES256"],
    keys: { is: "uri", uri: "https://corp.example/k" },
    forward: true,
  } as const;
  const b64 = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const token = `${b64({ alg: "ES256" })}.${b64({ iss: corp.issuer, aud: "m", exp: 9e9 })}.AAAA`;
  bench.publish(ordersFor([endpoint("a")], [{ ...toWeb[0], jwt: { provider: "corp" } }], [corp]));
  const exchange = bench.ask({ fields: ["authorization", `Bearer ${token}`] });
  // The library that reads tokens is loaded on first use: how many turns that takes is the machine's affair.
  const touched = async (): Promise<readonly string[]> => {
    await bench.settle();
    return bench.touched;
  };
  await expect.poll(touched, { timeout: 10_000 }).toEqual(["fetch https://corp.example/k", "dial 10.0.0.1:15443"]);
  await bench.settle();
  expect(exchange.answer).toBeUndefined();
  expect(fieldOf(bench.connectionTo("a").last.head.fields, "authorization")).toBe(`Bearer ${token}`);
});

test("no endpoint, none healthy, an authority outside, a path that leads out: each has its code", async () => {
  const bench = outboundBench();
  bench.publish([
    ...ordersFor([]),
    ["service/ill.default", view("ill", [allow("ill", toWeb)], [endpoint("i", { healthy: false })])],
  ]);
  expect(codeOf(bench.ask())).toBe("NO_ENDPOINT");
  expect(codeOf(bench.ask({ authority: "ill" }))).toBe("NO_HEALTHY_ENDPOINT");
  expect(codeOf(bench.ask({ authority: "api.example.com" }))).toBe("NOT_IN_MESH");
  expect(codeOf(bench.ask({ authority: "127.0.0.1:22" }))).toBe("NOT_IN_MESH");
  expect(codeOf(bench.ask({ path: "/a/../../b" }))).toBe("REQUEST_INVALID");
  expect(codeOf(bench.ask({ path: "" }))).toBe("REQUEST_INVALID");
  expect(codeOf(bench.ask({ path: "*" }))).toBe("REQUEST_INVALID");
  expect(codeOf(bench.ask({ method: "CONNECT", path: "" }))).toBe("METHOD_UNSUPPORTED");
  bench.identity.publish(undefined);
  expect(codeOf(bench.ask())).toBe("NO_IDENTITY");
  expect(bench.touched).toEqual([]);
});

test("a port that no instance offers is NO_ENDPOINT, and one that is offered reaches those that offer it", async () => {
  const bench = outboundBench();
  const other = endpoint("b", { address: "10.0.0.2", ports: [{ name: "http", port: 9090, protocol: "http" }] });
  bench.publish(ordersFor([endpoint("a"), other]));
  expect(codeOf(bench.ask({ authority: "orders:7070" }))).toBe("NO_ENDPOINT");
  for (let i = 0; i < 4; i++) bench.ask({ authority: "Orders.Default.Mesh.:9090" });
  await bench.settle();
  expect(bench.opened.map(({ target }) => target.address)).toEqual(["10.0.0.2"]);
  expect(bench.connectionTo("b").requests).toHaveLength(4);
  expect(bench.connectionTo("b").last.head.authority).toBe("orders.default.mesh:9090");
});

// Discovery.

test("many first calls ask one question, and all of them go on", async () => {
  const bench = outboundBench();
  const answer = Promise.withResolvers<ReturnType<typeof view>>();
  bench.asking = () => answer.promise;
  const exchanges = Array.from({ length: 20 }, () => bench.ask());
  answer.resolve(view("orders", [allow("orders", toWeb)], [endpoint("a")]));
  await bench.settle();
  expect(bench.touched).toEqual(["ask orders.default", "dial 10.0.0.1:15443"]);
  expect(bench.connectionTo("a").requests).toHaveLength(20);
  expect(exchanges.every((exchange) => exchange.answer === undefined)).toBe(true);
});

test("an unknown name is not asked for again at once, and only so many names are remembered", async () => {
  const bench = outboundBench({ options: { unknownServicesMax: 3 } });
  bench.ask();
  await bench.settle();
  expect(codeOf(bench.ask())).toBe("SERVICE_UNKNOWN");
  expect(bench.touched).toEqual(["ask orders.default"]);
  bench.clock.advance(bench.context.options.unknownServiceMs);
  bench.ask();
  expect(bench.touched).toHaveLength(2);
  for (let i = 0; i < 50; i++) {
    bench.ask({ authority: `s${i}` });
    await bench.settle();
  }
  expect(bench.context.discovery.remembered).toBe(3);
});

test("a control plane that says nothing, or fails, is CONTROL_UNREACHABLE; waiting is bounded", async () => {
  const bench = outboundBench({ options: { waitingMax: 2, requestTimeoutMs: 60_000 } });
  bench.asking = () => new Promise(() => undefined);
  const waiting = [bench.ask(), bench.ask()];
  expect(codeOf(bench.ask())).toBe("LIMIT_REQUESTS");
  bench.clock.advance(bench.context.options.discoveryMs);
  expect(waiting.map(codeOf)).toEqual(["CONTROL_UNREACHABLE", "CONTROL_UNREACHABLE"]);
  bench.asking = () => Promise.reject(new HauberkError("CONTROL_UNREACHABLE", "Cannot ask: no", "Wait"));
  const failed = bench.ask();
  await bench.settle();
  expect(codeOf(failed)).toBe("CONTROL_UNREACHABLE");
});

// The listener's guard.

test("a guarded listener wants the whole secret, and passes none of it on", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  const secret = `Basic ${Buffer.from("hauberk:s3cret").toString("base64")}`;
  for (const given of [undefined, "", "Basic x", secret.slice(0, -1), `${secret}x`, secret.toLowerCase()]) {
    const fields: Fields = given === undefined ? [] : ["Proxy-Authorization", given];
    const exchange = bench.ask({ fields }, { secret });
    expect([codeOf(exchange), exchange.answer?.status]).toEqual(["PROXY_SECRET_WRONG", 407]);
  }
  expect(bench.touched).toEqual([]);
  bench.ask({ fields: ["Proxy-Authorization", secret] }, { secret });
  await bench.settle();
  expect(JSON.stringify(bench.connectionTo("a").last.head)).not.toMatch(/proxy-auth|Basic/i);
});

test("a listener for one service leads there whatever Host says", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  bench.ask({ authority: "127.0.0.1:7001" }, { to: Routes.to({ service: "orders", namespace: "default" }) });
  await bench.settle();
  expect(bench.connectionTo("a").last.head.authority).toBe("orders.default.mesh");
});

// Fields.

test("what Hauberk writes, and what belongs to one hop, does not come from the workload", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  bench.ask({
    fields: [
      "X-Hauberk-Code",
      "DENIED",
      "x-hauberk-anything",
      "1",
      "X-Hauberk-Timeout-Ms",
      "500",
      "X-Forwarded-Client-Cert",
      "URI=spiffe://mesh.local/ns/default/sa/admin",
      "x_forwarded_client_cert",
      "URI=x",
      "X_Hauberk_Peer",
      "y",
      "x_request_id",
      "z",
      "Keep-Alive",
      "5",
      "Proxy-Connection",
      "close",
      "Upgrade",
      "h2c",
      "TE",
      "gzip",
      "Proxy-Authorization",
      "Basic x",
      "X-Request-Id",
      "abc-1",
      "Traceparent",
      trace,
      "tracestate",
      "a=b",
      "Accept",
      "text/html",
      "my_field",
      "kept",
    ],
  });
  await bench.settle();
  const { fields } = bench.connectionTo("a").last.head;
  expect(fields).toEqual([
    "accept",
    "text/html",
    "my_field",
    "kept",
    "via",
    "1.1 hauberk",
    "x-request-id",
    "abc-1",
    "traceparent",
    trace,
    "tracestate",
    "a=b",
    "x-hauberk-case",
    "Accept",
    "x-hauberk-timeout-ms",
    "500",
  ]);
});

test("ids and traces that are missing or malformed are made", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  await warm(bench, 1);
  for (const bad of [
    [],
    ["x-request-id", "a b", "traceparent", "00-zz"],
    ["x-request-id", "x".repeat(65)],
    ["x-request-id", "a\u00e9", "traceparent", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
  ]) {
    bench.ask({ fields: bad });
    const { fields } = bench.connectionTo("a").last.head;
    expect(fieldOf(fields, "x-request-id")).toMatch(/^[0-9a-f]{18}-[0-9a-z]+$/);
    expect(fieldOf(fields, "traceparent")).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
    expect(fields.filter((name) => name === "x-request-id" || name === "traceparent")).toHaveLength(2);
  }
});

test("a callee's own code passes, everything else of ours in its answer and trailers does not", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  const exchange = bench.ask();
  await bench.settle();
  const sent = bench.connectionTo("a").last;
  sent.respond(
    403,
    [
      "x-hauberk-code",
      "DENIED",
      "x-hauberk-secret",
      "1",
      "X-Forwarded-Client-Cert",
      "x",
      "connection",
      "close",
      "server",
      "s",
    ],
    false,
  );
  sent.finish(["x-hauberk-code", "OK", "grpc-status", "0", "transfer-encoding", "chunked"]);
  expect(exchange.answer?.fields).toEqual(["x-hauberk-code", "DENIED", "server", "s"]);
  expect(exchange.trailers).toEqual(["grpc-status", "0"]);
});

// Balancing and connections.

test("two endpoints get every other call, over one connection each", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor(twoEndpoints));
  for (let i = 0; i < 10; i++) {
    bench.ask();
    await bench.settle();
  }
  expect(bench.opened).toHaveLength(2);
  expect(bench.opened.map(({ connection }) => connection.requests.length)).toEqual([5, 5]);
  expect(bench.metrics.renderPrometheus()).toMatch(
    /hauberk_endpoint_requests_total\{service="orders.default",instance="a"\} 5/,
  );
});

test("more connections are dialled only when every stream is in use, and no more than allowed", async () => {
  const bench = outboundBench({ options: { hopConnectionsMax: 2 } });
  bench.publish(ordersFor([endpoint("a")]));
  bench.ask();
  await bench.settle();
  const [first] = bench.opened;
  if (first === undefined) throw new Error("nothing was dialled");
  first.connection.exchangesMax = 2;
  for (let i = 0; i < 3; i++) bench.ask();
  await bench.settle();
  expect(bench.opened).toHaveLength(2);
  const second = bench.opened[1]?.connection;
  if (second === undefined) throw new Error("no second connection");
  second.exchangesMax = 2;
  const late = bench.ask();
  await bench.settle();
  expect(bench.opened).toHaveLength(2);
  const before = first.connection.requests.length;
  first.connection.requests[0]?.respond(200);
  await bench.settle();
  expect(first.connection.requests).toHaveLength(before + 1);
  expect(late.answer).toBeUndefined();
  first.connection.last.respond(204);
  expect(late.answer?.status).toBe(204);
});

test("the server's identity is named exactly for every dial, and a wrong peer gets not a byte", async () => {
  const bench = outboundBench();
  bench.dialling = () => ({
    refused: true,
    code: "PEER_NOT_THE_SERVICE",
    message: "Cannot talk to it: it is another",
    hint: "Look",
  });
  bench.publish(ordersFor([endpoint("a")]));
  const exchange = bench.ask();
  for (let i = 0; i < 3; i++) {
    await bench.settle();
    bench.clock.advance(100);
  }
  expect(codeOf(exchange)).toBe("PEER_NOT_THE_SERVICE");
  expect(bench.opened).toHaveLength(0);
});

test("an endpoint whose certificate has ended is one that cannot be connected to: nobody is told that they were denied", async () => {
  const bench = outboundBench();
  const message = "Cannot accept the peer: its certificate has ended";
  bench.dialling = () => ({ refused: true, code: "PEER_EXPIRED", message, hint: "Compare the clocks" });
  bench.publish(ordersFor([endpoint("a")]));
  const exchange = bench.ask();
  for (let i = 0; i < 3; i++) {
    await bench.settle();
    bench.clock.advance(100);
  }
  expect([exchange.answer?.status, codeOf(exchange)]).toEqual([503, "CONNECT_FAILED"]);
  const { message: said, hint } = JSON.parse(exchange.text()) as { message: string; hint: string };
  expect([said, hint]).toEqual([`Cannot connect to the endpoint, PEER_EXPIRED: ${message}`, "Compare the clocks"]);
});

test("an endpoint that leaves is drained, and everything that was kept of it goes", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor(twoEndpoints));
  await warm(bench);
  const gone = bench.connectionTo("a");
  bench.ask();
  bench.ask();
  const sent = [...gone.under][0];
  bench.publish(ordersFor([twoEndpoints[1] as never]));
  expect([gone.drained, gone.destroyed]).toEqual([true, undefined]);
  sent?.respond(200);
  expect(gone.destroyed).toBe("drained");

  expect(bench.metrics.renderPrometheus()).not.toMatch(/hauberk_breaker_state\{[^}]*instance="a"/);
  bench.publish([]);
  expect([...bench.context.upstreams.all]).toHaveLength(0);
});

test("after a renewal the next call sets off a new connection, and only then the old one drains", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  await warm(bench, 1);
  const old = bench.connectionTo("a");
  const now = bench.identity.read();
  if (now === undefined) throw new Error("no identity");
  bench.identity.publish({ ...now, generation: 2, chain: [{ serial: "02" }] as never });
  const during = bench.ask();
  expect(old.under.size).toBe(1);
  await bench.settle();
  expect(bench.opened).toHaveLength(2);
  expect([old.drained, old.destroyed]).toEqual([true, undefined]);
  old.last.respond(200);
  expect([during.answer?.status, old.destroyed]).toEqual([200, "drained"]);
  bench.ask();
  expect(bench.connectionTo("a").under.size).toBe(1);
  const text = bench.metrics.renderPrometheus();
  expect(text).toMatch(/hauberk_connections_drained_total\{side="outbound",serial="01"\} 1/);
  expect(text).toMatch(/hauberk_connections_opened_total\{side="outbound",serial="02"\} 1/);
});

test("a connection drains before its certificate ends, and is cut when it has", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  await warm(bench, 1);
  bench.ask();
  const connection = bench.connectionTo("a");
  bench.clock.advance(86_400_000 - 31_000);
  expect(connection.drained).toBe(false);
  bench.clock.advance(2_000);
  expect(connection.drained).toBe(true);
});

// Deadlines.

test("no answer in time is DEADLINE_EXCEEDED, and the stream is given up", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  const exchange = bench.ask();
  await bench.settle();
  expect(fieldOf(bench.connectionTo("a").last.head.fields, "x-hauberk-timeout-ms")).toBe("15000");
  bench.clock.advance(15_016);
  expect([codeOf(exchange), exchange.answer?.status]).toEqual(["DEADLINE_EXCEEDED", 504]);
  expect(bench.connectionTo("a").last.aborted?.kind).toBe("cancelled");
});

test("the workload can shorten the deadline and never lengthen it; 0 is over at once", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  await warm(bench, 1);
  const short = bench.ask({ fields: ["x-hauberk-timeout-ms", "100"] });
  const long = bench.ask({ fields: ["x-hauberk-timeout-ms", "999999"] });
  expect(codeOf(bench.ask({ fields: ["x-hauberk-timeout-ms", "0"] }))).toBe("DEADLINE_EXCEEDED");
  bench.clock.advance(120);
  expect(codeOf(short)).toBe("DEADLINE_EXCEEDED");
  bench.clock.advance(15_000);
  expect(codeOf(long)).toBe("DEADLINE_EXCEEDED");
});

test("an answer that has begun, and a request that is still being sent, are not cut", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  await warm(bench, 1);
  const stream = bench.ask();
  const answering = bench.connectionTo("a").last;
  answering.respond(200, [], false);
  const upload = bench.ask({ method: "POST", body: true });
  upload.send("x");
  const receiving = bench.connectionTo("a").last;
  expect(fieldOf(receiving.head.fields, "x-hauberk-timeout-ms")).toBeUndefined();
  bench.clock.advance(100_000);
  expect([stream.over, upload.over]).toEqual(["no", "no"]);
  upload.finish();
  bench.clock.advance(14_000);
  expect(upload.over).toBe("no");
  bench.clock.advance(2_000);
  expect(codeOf(upload)).toBe("DEADLINE_EXCEEDED");
});

// Bodies.

test("backpressure crosses in both directions", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  await warm(bench, 1);
  const exchange = bench.ask({ method: "POST", body: true });
  const sent = bench.connectionTo("a").last;
  sent.roomBytes = 10;
  exchange.send("12345");
  expect(exchange.consumed).toBe(5);
  exchange.send("67890");
  exchange.send("more");
  expect(exchange.consumed).toBe(5);
  sent.drain();
  expect(exchange.consumed).toBe(14);
  exchange.finish();
  exchange.roomBytes = 3;
  sent.respond(200, [], false);
  sent.data("abc");
  sent.data("d");
  expect(sent.consumed).toBe(0);
  exchange.drain();
  expect(sent.consumed).toBe(4);
  sent.finish();
  expect([sent.text(), exchange.text(), exchange.over]).toEqual(["1234567890more", "abcd", "ended"]);
});

test("a body that comes before the connection is held unconsumed, and then sent whole", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  const exchange = bench.ask({ method: "POST", body: true });
  exchange.send("one ");
  exchange.send("two");
  exchange.finish(["x-sum", "1", "content-length", "9"]);
  expect(exchange.consumed).toBe(0);
  await bench.settle();
  const sent = bench.connectionTo("a").last;
  expect([sent.text(), sent.ended, sent.trailers, exchange.consumed]).toEqual(["one two", true, ["x-sum", "1"], 7]);
});

test("a workload that goes away frees the stream, and teaches the breaker nothing", async () => {
  const bench = outboundBench({ resilience: { breakerFailuresMax: 1 } });
  bench.publish(ordersFor([endpoint("a")]));
  await warm(bench, 1);
  for (let i = 0; i < 3; i++) {
    const exchange = bench.ask();
    exchange.leave();
    expect(bench.connectionTo("a").last.aborted?.kind).toBe("cancelled");
  }
  expect(bench.context.openRequests.value).toBe(0);
  expect(codeOf(bench.ask())).toBeUndefined();
});

test("a workload that goes away while it waits leaves nothing behind", async () => {
  const bench = outboundBench();
  const dialled = Promise.withResolvers<undefined>();
  bench.dialling = () => dialled.promise;
  bench.publish(ordersFor([endpoint("a")]));
  const exchange = bench.ask();
  exchange.leave();
  dialled.resolve(undefined);
  await bench.settle();
  expect(bench.opened[0]?.connection.requests).toHaveLength(0);
  const upstream = [...bench.context.upstreams.all][0];
  expect([upstream?.endpoints[0]?.open, upstream?.endpoints[0]?.hop.waiting]).toEqual([0, 0]);
  expect(bench.context.alarms.count).toBe(0);
});

test("an answer that is whole before its request ends the upstream's side too", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  await warm(bench, 1);
  const exchange = bench.ask({ method: "POST", body: true });
  exchange.send("x");
  const sent = bench.connectionTo("a").last;
  sent.respond(413);
  expect([exchange.answer?.status, exchange.over]).toEqual([413, "ended"]);
  exchange.send("late");
  expect(exchange.consumed).toBe(5);
});

test("an answer that breaks off is cut, and says so to nobody as whole", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  await warm(bench, 1);
  const exchange = bench.ask();
  const sent = bench.connectionTo("a").last;
  sent.respond(200, [], false);
  sent.data("half");
  sent.lose("lost");
  expect([exchange.over, exchange.loss?.kind]).toEqual(["aborted", "lost"]);
  expect(bench.metrics.renderPrometheus()).toMatch(
    /hauberk_requests_total\{[^}]*status="200",reason="UPSTREAM_LOST"\} 1/,
  );
});

test("too many open requests are refused at once", async () => {
  const bench = outboundBench({ options: { outboundRequestsMax: 3 } });
  bench.publish(ordersFor([endpoint("a")]));
  const exchanges = Array.from({ length: 5 }, () => bench.ask());
  expect(exchanges.map(codeOf)).toEqual([undefined, undefined, undefined, "LIMIT_REQUESTS", "LIMIT_REQUESTS"]);
});

test("each request leaves one line of the access log with its reason", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor([endpoint("a")]));
  bench.ask({ authority: "api.example.com", path: "/x?token=1" });
  const exchange = bench.ask({ fields: ["x-request-id", "r1"] });
  await bench.settle();
  bench.connectionTo("a").last.respond(201);
  expect(exchange.over).toBe("ended");
  bench.context.access?.flush();
  const lines = bench.lines
    .join("")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(lines[0]).toMatchObject({ status: 421, code: "NOT_IN_MESH", path: "/x", service: "" });
  expect(lines[1]).toMatchObject({
    status: 201,
    service: "orders.default",
    endpoint: "10.0.0.1:15443",
    requestId: "r1",
    attempts: 1,
    policy: "default/allow",
    principal: idOf("web").text,
  });
});

test("a dial that fails is CONNECT_FAILED when every try was used", async () => {
  const bench = outboundBench();
  bench.dialling = () => connectFailed("ECONNREFUSED");
  bench.publish(ordersFor(twoEndpoints));
  const exchange = bench.ask({ method: "POST", body: true });
  exchange.send("x");
  for (let i = 0; i < 3; i++) {
    await bench.settle();
    bench.clock.advance(50);
  }
  expect(codeOf(exchange)).toBe("CONNECT_FAILED");
  expect(new Set(bench.touched)).toEqual(new Set(["dial 10.0.0.1:15443", "dial 10.0.0.2:15443"]));
});

const oddText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 40 }),
  fc.constantFrom("", "*", "/", "//", "orders", "a:b:c", "[::1]", "/%", "/..", "\0", "Bearer a.b.c", "%2f", "x.y.z.w"),
);
const oddName = fc.oneof(
  oddText,
  fc.constantFrom("Authorization", "traceparent", "x-hauberk-timeout-ms", "te", "Proxy-Authorization", "x-request-id"),
);

test("random requests of the workload never throw, and always end", () => {
  fc.assert(
    fc.property(
      fc.record({
        method: oddText,
        authority: oddText,
        path: oddText,
        fields: fc.array(fc.tuple(oddName, oddText), { maxLength: 6 }),
        body: fc.boolean(),
        secret: fc.option(oddText, { nil: undefined }),
      }),
      ({ fields, secret, ...asked }) => {
        const bench = outboundBench();
        bench.publish(ordersFor([endpoint("a")]));
        const exchange = bench.ask({ ...asked, fields: fields.flat() }, { secret });
        if (asked.body) {
          exchange.send("x");
          exchange.finish(fields.flat());
        }
        if (exchange.over === "no") exchange.leave();
        expect(bench.context.openRequests.value).toBe(0);
        expect(bench.context.alarms.count).toBe(0);
      },
    ),
    { numRuns: 500 },
  );
});

test.each(["orders", "orders.default", "Orders.Default.Mesh"])(
  "at the caller too, a DENY for one name of a service holds when it is called %s",
  (authority) => {
    const deny = { ...allow("orders", [{ to: [{ hosts: ["orders"] }] }], "deny"), action: "DENY" as const };
    const bench = outboundBench();
    bench.publish([["service/orders.default", view("orders", [allow("orders", toWeb), deny], twoEndpoints)]]);
    expect(codeOf(bench.ask({ authority }))).toBe("DENIED");
    expect(bench.touched).toEqual([]);
  },
);

test("TRACE is refused, and nobody is asked about the service", () => {
  const bench = outboundBench();
  const exchange = bench.ask({ method: "TRACE" });
  expect([exchange.answer?.status, codeOf(exchange)]).toEqual([501, "METHOD_UNSUPPORTED"]);
  expect(bench.touched).toEqual([]);
});
