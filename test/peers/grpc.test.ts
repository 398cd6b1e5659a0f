import { credentials, Metadata, status } from "@grpc/grpc-js";
import { request } from "node:http";
import { connect as connectHttp2, constants, createServer as createHttp2, type IncomingHttpHeaders } from "node:http2";
import type { AddressInfo } from "node:net";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import type { ServiceView } from "../../src/contract/watch.ts";
import { readGrpcTimeoutMs } from "../../src/http/grpc.ts";
import { buildSnapshot } from "../../src/proxy/snapshot.ts";
import {
  InteropClient,
  methods,
  payloadOf,
  serveInterop,
  sleeps,
  unimplemented,
  type InteropServer,
} from "../support/grpc-interop.ts";
import { makeTestPki, type TestPki } from "../support/pki.ts";
import { tokenIssuer } from "../support/token-issuer.ts";
import { twoProxies, webMay, type RunningProxy, type TwoProxies } from "../support/two-proxies.ts";

/** @grpc/grpc-js, client and server, through two sidecars: h2c at both ends, HTTP/2 over mutual TLS between them. */
let pki: TestPki;
let routee: InteropServer;
let mesh: TwoProxies;
let client: InteropClient;
const ends: (() => void | Promise<void>)[] = [];

beforeAll(async () => {
  pki = await makeTestPki({ wallMs: Date.now() });
  routee = await serveInterop();
  mesh = await twoProxies(pki, { routee: routee.port, protocol: "h2" });
  client = clientOf(mesh.web.proxy.outboundPort);
});

afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
  routee.calls.splice(0);
  mesh.publish(webMay);
  // Whatever a test left undone would be found in the next one.
  await until(() => open(mesh.web) + open(mesh.orders) === 0);
});

afterAll(async () => {
  client.close();
  await mesh.end();
  routee.end();
});

function clientOf(port: number, authority = "orders"): InteropClient {
  return new InteropClient(`127.0.0.1:${port}`, credentials.createInsecure(), {
    "grpc.default_authority": authority,
    "grpc.enable_http_proxy": 0,
  });
}

async function until(holds: () => boolean, withinMs = 10_000): Promise<void> {
  const endMs = performance.now() + withinMs;
  while (!holds()) {
    if (performance.now() > endMs) throw new Error(`not seen within ${withinMs} ms: ${holds.toString()}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

function open(of: RunningProxy): number {
  return sum(of, "hauberk_requests_open");
}

function sum(of: RunningProxy, name: string, ...labels: string[]): number {
  const lines = of.metrics.renderPrometheus().split("\n");
  const values = lines.filter((line) => line.startsWith(`${name}{`) && labels.every((label) => line.includes(label)));
  return values.reduce((total, line) => total + Number(line.slice(line.lastIndexOf(" "))), 0);
}

const bodyOf = (message: unknown): number =>
  ((message as { payload?: { body?: Buffer } } | undefined)?.payload?.body ?? Buffer.alloc(0)).length;

// The standard cases of grpc/grpc, doc/interop-test-descriptions.md.

test("empty_unary", async () => {
  const got = await client.unary(methods.emptyCall);
  expect([got.code, got.message]).toEqual([status.OK, {}]);
});

test("large_unary", async () => {
  const got = await client.unary(methods.unaryCall, { responseSize: 314_159, payload: payloadOf(271_828) });
  expect([got.code, bodyOf(got.message)]).toEqual([status.OK, 314_159]);
});

test("client_streaming", async () => {
  const { call, ended } = client.input();
  for (const size of [27_182, 8, 1_828, 45_904]) call.write({ payload: payloadOf(size) });
  call.end();
  expect(await ended).toMatchObject({ code: status.OK, message: { aggregatedPayloadSize: 74_922 } });
});

test("server_streaming", async () => {
  const wanted = [31_415, 9, 2_653, 58_979];
  const { sizes, ended } = client.output({ responseParameters: wanted.map((size) => ({ size })) });
  expect((await ended).code).toBe(status.OK);
  expect(sizes).toEqual(wanted);
});

test("ping_pong", async () => {
  const { call, next, sizes, ended } = client.duplex();
  for (const [wanted, sent] of [
    [31_415, 27_182],
    [9, 8],
    [2_653, 1_828],
    [58_979, 45_904],
  ] as const) {
    const came = next();
    call.write({ responseParameters: [{ size: wanted }], payload: payloadOf(sent) });
    expect(await came).toBe(wanted);
  }
  call.end();
  expect((await ended).code).toBe(status.OK);
  expect(sizes.length).toBe(4);
});

test("empty_stream", async () => {
  const { call, sizes, ended } = client.duplex();
  call.end();
  expect((await ended).code).toBe(status.OK);
  expect(sizes).toEqual([]);
});

test("cancel_after_begin, which the routee hears of", async () => {
  const { call, ended } = client.input();
  await until(() => routee.calls.length === 1);
  call.cancel();
  expect((await ended).code).toBe(status.CANCELLED);
  await until(() => routee.calls[0]?.cancelled === true);
});

test("cancel_after_first_response, which the routee hears of", async () => {
  const { call, next, ended } = client.duplex();
  const came = next();
  call.write({ responseParameters: [{ size: 31_415 }], payload: payloadOf(27_182) });
  expect(await came).toBe(31_415);
  call.cancel();
  expect((await ended).code).toBe(status.CANCELLED);
  await until(() => routee.calls[0]?.cancelled === true);
});

test("timeout_on_sleeping_server", async () => {
  const { call, ended } = client.duplex({ timeoutMs: 1 });
  call.write({ payload: payloadOf(27_182) });
  expect((await ended).code).toBe(status.DEADLINE_EXCEEDED);
});

test("status_code_and_message", async () => {
  const wanted = { code: 2, message: "test status message" };
  const unary = await client.unary(methods.unaryCall, { responseStatus: wanted });
  expect([unary.code, unary.details]).toEqual([2, wanted.message]);
  const { call, ended } = client.duplex();
  call.write({ responseStatus: wanted });
  call.end();
  expect(await ended).toMatchObject({ code: 2, details: wanted.message });
});

test("special_status_message", async () => {
  const message = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
  const got = await client.unary(methods.unaryCall, { responseStatus: { code: 2, message } });
  expect([got.code, got.details]).toEqual([2, message]);
});

test("unimplemented_method and unimplemented_service", async () => {
  expect((await client.unary(unimplemented.method)).code).toBe(status.UNIMPLEMENTED);
  expect((await client.unary(unimplemented.service)).code).toBe(status.UNIMPLEMENTED);
});

test("custom_metadata", async () => {
  const metadata = {
    "x-grpc-test-echo-initial": "test_initial_metadata_value",
    "x-grpc-test-echo-trailing-bin": Buffer.from("ababab", "hex"),
  };
  const check = (got: { head: Metadata | undefined; trailer: Metadata; code: number }): void => {
    expect(got.code).toBe(status.OK);
    expect(got.head?.get("x-grpc-test-echo-initial")).toEqual(["test_initial_metadata_value"]);
    expect(got.trailer.get("x-grpc-test-echo-trailing-bin")).toEqual([Buffer.from("ababab", "hex")]);
  };
  check(await client.unary(methods.unaryCall, { responseSize: 314_159, payload: payloadOf(271_828) }, { metadata }));
  const { call, ended } = client.duplex({ metadata });
  call.write({ responseParameters: [{ size: 314_159 }], payload: payloadOf(271_828) });
  call.end();
  check(await ended);
});

// Deadlines.

interface SeenByCareless {
  readonly fields: IncomingHttpHeaders;
  readonly timeout: unknown;
  reset: boolean;
}

/** A routee that looks at no deadline: it sends one message where a stream was asked for, and then nothing. */
async function careless(): Promise<{ caller: number; seen: SeenByCareless[]; other: TwoProxies }> {
  const seen: SeenByCareless[] = [];
  const server = createHttp2((incoming, outgoing) => {
    const call = { fields: incoming.headers, timeout: incoming.headers["grpc-timeout"], reset: false };
    seen.push(call);
    incoming.on("error", () => undefined);
    outgoing.stream.once("close", () => (call.reset = outgoing.stream.rstCode === constants.NGHTTP2_CANCEL));
    if (incoming.url === "/warm") outgoing.end();
    if (incoming.url !== methods.streamingOutputCall.path) return;
    outgoing.writeHead(200, { "content-type": "application/grpc" });
    outgoing.write(Buffer.alloc(5));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  ends.push(() => void server.close());
  const routeePort = (server.address() as AddressInfo).port;
  const other = await twoProxies(pki, { routee: routeePort, protocol: "h2" });
  ends.push(() => other.end());
  const caller = other.web.proxy.outboundPort;
  // The first call pays for the connections, and the deadlines here are short.
  await new Promise((resolve, reject) => {
    const headers = { host: "orders" };
    request({ host: "127.0.0.1", port: caller, path: "/warm", agent: false, headers }, resolve)
      .once("error", reject)
      .end();
  });
  seen.splice(0);
  return { caller, seen, other };
}

test("a deadline that has passed is answered with status 4, unary and in the midst of a stream, and the routee hears of it", async () => {
  const { caller, seen } = await careless();
  const unary = await raw({ "grpc-timeout": "150m" }, "UnaryCall", {}, caller);
  expect(unary).toMatchObject({
    head: { ":status": 200, "grpc-status": "4", "x-hauberk-code": "DEADLINE_EXCEEDED" },
    messages: 0,
  });
  const stream = await raw({ "grpc-timeout": "200m" }, "StreamingOutputCall", {}, caller);
  expect(stream).toMatchObject({
    head: { ":status": 200, "content-type": "application/grpc" },
    trailers: { "grpc-status": "4", "x-hauberk-code": "DEADLINE_EXCEEDED" },
    messages: 1,
  });
  await until(() => seen.length === 2 && seen.every(({ reset }) => reset));
});

test("the routee gets what is left of the deadline; a routee that looks at it answers by itself", async () => {
  const { caller, seen } = await careless();
  await raw({ "grpc-timeout": "300m" }, "UnaryCall", {}, caller);
  await raw({ "grpc-timeout": "250000u" }, "UnaryCall", {}, caller);
  const left = seen.map(({ timeout }) => readGrpcTimeoutMs(String(timeout)) ?? Number.NaN);
  for (const ms of left) expect(ms).toBeGreaterThan(0);
  expect(left[0]).toBeLessThanOrEqual(300);
  expect(left[1]).toBeLessThanOrEqual(250);
  const got = await client.unary(methods.unaryCall, { responseSize: sleeps }, { timeoutMs: 300 });
  expect(got.code).toBe(status.DEADLINE_EXCEEDED);
  await until(() => routee.calls[0]?.cancelled === true);
});

test("the shortest deadline wins, whoever set it", async () => {
  const { caller, seen } = await careless();
  const short = await raw({ "grpc-timeout": "20S", "x-hauberk-timeout-ms": "150" }, "UnaryCall", {}, caller);
  expect(short.head).toMatchObject({ "grpc-status": "4", "x-hauberk-code": "DEADLINE_EXCEEDED" });
  const none = await raw({ "grpc-timeout": "0m" }, "UnaryCall", {}, caller);
  expect(none.head).toMatchObject({ "grpc-status": "4", "x-hauberk-code": "DEADLINE_EXCEEDED" });
  const several = await raw({ "grpc-timeout": ["20S", "120m", "1H"] }, "UnaryCall", {}, caller);
  expect(several.head).toMatchObject({ "grpc-status": "4", "x-hauberk-code": "DEADLINE_EXCEEDED" });
  expect(seen.length).toBe(2);
});

/** One call with node:http2, which knows nothing of gRPC: what came is what was on the wire. */
async function raw(
  headers: Record<string, string | string[]>,
  name: "UnaryCall" | "StreamingOutputCall",
  message: Record<string, unknown>,
  port = mesh.web.proxy.outboundPort,
): Promise<{ head: Record<string, unknown>; trailers: Record<string, unknown> | undefined; messages: number }> {
  const session = connectHttp2(`http://127.0.0.1:${port}`);
  session.on("error", () => undefined);
  ends.push(() => session.destroy());
  const of = name === "UnaryCall" ? methods.unaryCall : methods.streamingOutputCall;
  const body = of.requestSerialize(message);
  const frame = Buffer.alloc(5);
  frame.writeUInt32BE(body.length, 1);
  return new Promise((resolve, reject) => {
    const stream = session.request({
      ":method": "POST",
      ":path": of.path,
      ":authority": "orders",
      "content-type": "application/grpc",
      te: "trailers",
      ...headers,
    });
    let head: Record<string, unknown> = {};
    let trailers: Record<string, unknown> | undefined;
    const chunks: Buffer[] = [];
    stream.on("response", (fields) => (head = fields));
    stream.on("trailers", (fields) => (trailers = fields));
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.once("error", reject);
    stream.once("close", () => {
      const bytes = Buffer.concat(chunks);
      let messages = 0;
      for (let at = 0; at < bytes.length; at += 5 + bytes.readUInt32BE(at + 1)) messages++;
      resolve({ head, trailers, messages });
    });
    stream.end(Buffer.concat([frame, body]));
  });
}

// What Hauberk answers itself: every row of the table, unary and streaming.

async function refusalOf(of: InteropClient, wish = {}): Promise<[number, string][]> {
  const unary = await of.unary(methods.emptyCall, {}, wish);
  const { call, ended } = of.duplex(wish);
  call.write({ responseParameters: [{ size: 1 }] });
  const stream = await ended;
  return [unary, stream].map(({ code, trailer }) => [code, String(trailer.get("x-hauberk-code")[0])]);
}

const twice = (code: number, name: string): [number, string][] => [
  [code, name],
  [code, name],
];

test("no such service, or none that may be seen, is 12", async () => {
  const other = clientOf(mesh.web.proxy.outboundPort, "nobody");
  ends.push(() => other.close());
  expect(await refusalOf(other)).toEqual(twice(status.UNIMPLEMENTED, "SERVICE_UNKNOWN"));
  mesh.publish([{ from: [{ services: ["billing.default"] }] }]);
  expect(await refusalOf(client)).toEqual(twice(status.UNIMPLEMENTED, "SERVICE_UNKNOWN"));
});

test("an authority that is no mesh name is 12", async () => {
  const other = clientOf(mesh.web.proxy.outboundPort, "www.example.com");
  ends.push(() => other.close());
  expect(await refusalOf(other)).toEqual(twice(status.UNIMPLEMENTED, "NOT_IN_MESH"));
});

test("a call that is decided and denied is 7, and a path that is allowed passes", async () => {
  mesh.publish([{ from: [{ services: ["web.default"] }], to: [{ paths: ["/grpc.testing.TestService/UnaryCall"] }] }]);
  expect(await refusalOf(client)).toEqual(twice(status.PERMISSION_DENIED, "DENIED"));
  expect((await client.unary(methods.unaryCall, { responseSize: 3 })).code).toBe(status.OK);
});

const wantsToken = [{ ...webMay[0], jwt: { provider: "corp" } }];

test("a token that is missing or invalid is 16, and one that is valid passes", async () => {
  const { entry, bearer } = tokenIssuer();
  const authorization = bearer();
  mesh.publish(wantsToken, [entry]);
  expect(await refusalOf(client)).toEqual(twice(status.UNAUTHENTICATED, "JWT_MISSING"));
  const wrong = { metadata: { authorization: `${authorization}x` } };
  expect(await refusalOf(client, wrong)).toEqual(twice(status.UNAUTHENTICATED, "JWT_INVALID"));
  const right = { metadata: { authorization }, timeoutMs: 5_000 };
  expect((await client.unary(methods.emptyCall, {}, right)).code).toBe(status.OK);
});

test("a token that goes no further takes nothing with it: the deadline arrives", async () => {
  const { entry, bearer } = tokenIssuer({ forward: false });
  const authorization = bearer();
  const { caller, seen, other } = await careless();
  other.publish(wantsToken, [entry]);
  await raw({ authorization, "grpc-timeout": "150m", "x-after": "1" }, "UnaryCall", {}, caller);
  expect(seen[0]?.fields).toMatchObject({ "x-after": "1", "content-type": "application/grpc" });
  expect(seen[0]?.fields["authorization"]).toBeUndefined();
  expect(readGrpcTimeoutMs(String(seen[0]?.timeout))).toBeLessThanOrEqual(150);
});

test("a token whose keys cannot be had is 14, and opens no breaker", async () => {
  const { entry, bearer } = tokenIssuer({ keys: { is: "uri", uri: "https://127.0.0.1:9/jwks" } });
  const authorization = bearer();
  mesh.publish(wantsToken, [entry]);
  const wish = { metadata: { authorization } };
  for (let i = 0; i < 5; i++) {
    expect(await refusalOf(client, wish)).toEqual(twice(status.UNAVAILABLE, "JWT_KEYS_UNAVAILABLE"));
  }
});

test("fields that are too large, or named as no field should be, are refused in the words of gRPC", async () => {
  const large = await raw({ "x-large": "y".repeat(20_000) }, "UnaryCall", {});
  expect(large.head).toMatchObject({ ":status": 200, "grpc-status": "8", "x-hauberk-code": "HEADERS_TOO_LARGE" });
  const underscore = await raw({ x_user: "1" }, "UnaryCall", {});
  expect(underscore.head).toMatchObject({ ":status": 200, "grpc-status": "3", "x-hauberk-code": "REQUEST_INVALID" });
});

test("a service without an instance is 14", async () => {
  const { web } = mesh;
  const view = web.snapshot.read().services.get("orders.default")?.view as ServiceView;
  web.snapshot.publish(buildSnapshot([["service/orders.default", { ...view, endpoints: [] }]]));
  expect(await refusalOf(client)).toEqual(twice(status.UNAVAILABLE, "NO_ENDPOINT"));
  const ill = view.endpoints.map((endpoint) => ({ ...endpoint, healthy: false }));
  web.snapshot.publish(buildSnapshot([["service/orders.default", { ...view, endpoints: ill }]]));
  expect(await refusalOf(client)).toEqual(twice(status.UNAVAILABLE, "NO_HEALTHY_ENDPOINT"));
});

test("a call whose routee has gone is 14, and counts against its endpoint's breaker", async () => {
  const gone = await serveInterop();
  const other = await twoProxies(pki, { routee: gone.port, protocol: "h2" });
  ends.push(() => other.end());
  const caller = clientOf(other.web.proxy.outboundPort);
  ends.push(() => caller.close());
  expect((await caller.unary(methods.emptyCall)).code).toBe(status.OK);
  gone.end();
  expect(await refusalOf(caller)).toEqual(twice(status.UNAVAILABLE, "CONNECT_FAILED"));
  for (let i = 0; i < 4; i++) await caller.unary(methods.emptyCall);
  expect(await refusalOf(caller)).toEqual(twice(status.UNAVAILABLE, "BREAKER_OPEN"));
});

test("a routee that dies in the midst of a stream, or before its answer, is 14, and never a whole answer", async () => {
  const mortal = await serveInterop();
  const other = await twoProxies(pki, { routee: mortal.port, protocol: "h2" });
  ends.push(() => other.end());
  const caller = clientOf(other.web.proxy.outboundPort);
  ends.push(() => caller.close());
  const { call, next, sizes, ended } = caller.duplex();
  const came = next();
  call.write({ responseParameters: [{ size: 5 }] });
  expect(await came).toBe(5);
  const unary = caller.unary(methods.unaryCall, { responseSize: sleeps });
  await until(() => mortal.calls.length === 2);
  mortal.end();
  const [stream, lost] = await Promise.all([ended, unary]);
  expect([stream.code, String(stream.trailer.get("x-hauberk-code")[0])]).toEqual([status.UNAVAILABLE, "UPSTREAM_LOST"]);
  expect([lost.code, String(lost.trailer.get("x-hauberk-code")[0])]).toEqual([status.UNAVAILABLE, "UPSTREAM_LOST"]);
  expect(sizes).toEqual([5]);
});

test("after GOAWAY by the routee calls under way end well, and new ones go to a new connection", async () => {
  const first = client.duplex();
  const came = first.next();
  first.call.write({ responseParameters: [{ size: 5 }] });
  expect(await came).toBe(5);
  routee.server.drain(`127.0.0.1:${routee.port}`, 10_000);
  const many = await Promise.all(Array.from({ length: 20 }, () => client.unary(methods.emptyCall)));
  expect(many.map(({ code }) => code)).toEqual(Array.from({ length: 20 }, () => status.OK));
  const again = first.next();
  first.call.write({ responseParameters: [{ size: 6 }] });
  expect(await again).toBe(6);
  first.call.end();
  expect((await first.ended).code).toBe(status.OK);
});

// Balancing, and other protocols at the ends.

test("one client connection, two instances: both get calls, and streams stay where they began", async () => {
  const second = await serveInterop();
  ends.push(() => second.end());
  const other = await twoProxies(pki, { routee: routee.port, otherRoutees: [second.port], protocol: "h2" });
  ends.push(() => other.end());
  const caller = clientOf(other.web.proxy.outboundPort);
  ends.push(() => caller.close());
  for (let i = 0; i < 20; i++) expect((await caller.unary(methods.emptyCall)).code).toBe(status.OK);
  expect([routee.calls.length, second.calls.length]).toEqual([10, 10]);
});

test("an HTTP/1.1 client reaches a routee that speaks HTTP/2 alone, trailers and all", async () => {
  const body = methods.unaryCall.requestSerialize({ responseSize: 10 });
  const frame = Buffer.alloc(5);
  frame.writeUInt32BE(body.length, 1);
  const got = await new Promise<{ status: number | undefined; bytes: number; trailers: NodeJS.Dict<string> }>(
    (resolve, reject) => {
      const outgoing = request(
        {
          host: "127.0.0.1",
          port: mesh.web.proxy.outboundPort,
          method: "POST",
          path: methods.unaryCall.path,
          agent: false,
          headers: { host: "orders", "content-type": "application/grpc", te: "trailers" },
        },
        (incoming) => {
          let bytes = 0;
          incoming.on("data", (chunk: Buffer) => (bytes += chunk.length));
          incoming.once("end", () => resolve({ status: incoming.statusCode, bytes, trailers: incoming.trailers }));
        },
      );
      outgoing.once("error", reject);
      outgoing.end(Buffer.concat([frame, body]));
    },
  );
  expect(got).toMatchObject({ status: 200, trailers: { "grpc-status": "0" } });
  expect(got.bytes).toBeGreaterThan(15);
});

test("calls are counted by their grpc-status on both sides", async () => {
  const before = [mesh.web, mesh.orders].map((of) => sum(of, "hauberk_grpc_calls_total", 'grpc_status="2"'));
  await client.unary(methods.unaryCall, { responseStatus: { code: 2, message: "no" } });
  const after = [mesh.web, mesh.orders].map((of) => sum(of, "hauberk_grpc_calls_total", 'grpc_status="2"'));
  expect(after.map((count, i) => count - (before[i] as number))).toEqual([1, 1]);
});
