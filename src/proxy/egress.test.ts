import { createServer as createTcpServer, type AddressInfo } from "node:net";
import { describe, expect, test, onTestFinished } from "vitest";
import { FakeConnection, type FakeServerExchange } from "../../test/support/exchanges.ts";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { outboundBench, type OutboundBench } from "../../test/support/outbound.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { isRefusal } from "../base/errors.ts";
import { defaultsOf } from "../base/options.ts";
import { fieldOf } from "../http/message.ts";
import { http1Options } from "../transport/options.ts";
import { OutsideHosts, type OutsideContext, type Reachable, type Resolve } from "./outside-hosts.ts";
import type { Outside } from "./routes.ts";

const codeOf = (exchange: FakeServerExchange): string | undefined =>
  fieldOf(exchange.answer?.fields ?? [], "x-hauberk-code");
const api = { authority: "api.example.com" };

interface EgressBench extends OutboundBench {
  readonly wire: FakeConnection;
  readonly host: { open: number; forbidden: string | undefined };
  readonly called: string[];
}

/** A bench whose hosts outside are one fake connection. */
function egressBench(use: Parameters<typeof outboundBench>[0] = {}): EgressBench {
  const wire = new FakeConnection();
  const called: string[] = [];
  const host = { key: "api.example.com:80", open: 0, forbidden: undefined, pool: wire, dialer: wire } as Reachable;
  const hosts = {
    of: (outside: Outside) => {
      called.push(`${outside.host}:${outside.port}`);
      return host;
    },
  };
  const bench = outboundBench({ egress: ["*.example.com", "10.9.8.7:8080"], hosts, ...use });
  return Object.assign(bench, { wire, called, host });
}

describe("a request to a listed host", () => {
  test("goes to it in plain HTTP as it was written, and its answer comes back", () => {
    const bench = egressBench();
    const exchange = bench.ask({ ...api, path: "/a/../b%2F?x=%2e", method: "PUT", body: true });
    const sent = bench.wire.last;
    expect(sent.head).toMatchObject({ method: "PUT", scheme: "http", authority: "api.example.com" });
    expect(sent.head.path).toBe("/a/../b%2F?x=%2e");
    exchange.send("body");
    exchange.finish();
    sent.respond(201, ["content-type", "text/plain"], false);
    sent.data("made");
    sent.finish();
    expect([sent.text(), exchange.answer?.status, exchange.text(), exchange.over]).toEqual([
      "body",
      201,
      "made",
      "ended",
    ]);
    expect([bench.called, bench.host.open, bench.touched]).toEqual([["api.example.com:80"], 0, []]);
  });

  test.each([
    ["cannot be reached any more", undefined],
    ["leads to an address by now that is never dialled", "x"],
  ])("that was sent and lost is lost, and names the host, where that %s", async (_, forbidden) => {
    const bench = egressBench();
    const exchange = bench.ask({ ...api, method: "DELETE" });
    bench.wire.last.lose("lost");
    bench.host.forbidden = forbidden;
    for (let i = 0; i < 6 && exchange.answer === undefined; i++) {
      await bench.settle();
      bench.clock.advance(200);
      for (const one of bench.wire.under) one.lose("unprocessed");
    }
    expect([exchange.answer?.status, codeOf(exchange), bench.host.open]).toEqual([502, "UPSTREAM_LOST", 0]);
    expect(exchange.text()).toContain("api.example.com");
  });

  test("tells it nothing of the mesh", () => {
    const bench = egressBench();
    bench.ask({
      ...api,
      fields: Object.entries({
        "Proxy-Authorization": "Basic c2VjcmV0",
        "x-hauberk-timeout-ms": "500",
        "X-Hauberk-Code": "X",
        "X-Forwarded-Client-Cert": "URI=spiffe://x",
        x_forwarded_client_cert: "URI=y",
        connection: "close",
        authorization: "Bearer of-the-host",
        accept: "*/*",
      }).flat(),
    });
    const { fields } = bench.wire.last.head;
    expect(fields).toEqual(["authorization", "Bearer of-the-host", "accept", "*/*", "via", "1.1 hauberk"]);
    expect(JSON.stringify(bench.wire.last.head)).not.toMatch(/spiffe|mesh\.local|web/);
  });

  test("keeps the id and the trace that the workload gave it, and gets none of ours", () => {
    const bench = egressBench();
    const traceparent = `00-${"a".repeat(32)}-${"b".repeat(16)}-01`;
    bench.ask({ ...api, fields: ["x-request-id", "r-1", "traceparent", traceparent, "tracestate", "v=1"] });
    const { fields } = bench.wire.last.head;
    expect(fields.slice(2)).toEqual(["x-request-id", "r-1", "traceparent", traceparent, "tracestate", "v=1"]);
  });

  test("is answered without a word that the host could forge", () => {
    const bench = egressBench();
    const exchange = bench.ask(api);
    bench.wire.last.respond(200, ["x-hauberk-code", "DENIED", "x-forwarded-client-cert", "URI=z", "x-a", "1"]);
    expect(exchange.answer?.fields).toEqual(["x-a", "1"]);
  });

  test("counts under one label, and the access log says where it went", () => {
    const bench = egressBench();
    bench.ask(api);
    bench.wire.last.respond(200);
    bench.ask({ authority: "other.example.com:8080" });
    bench.wire.last.respond(404);
    const text = bench.metrics.renderPrometheus();
    expect(text).toContain('hauberk_requests_total{side="outbound",service="egress",status="200",reason=""} 1');
    expect(text).toContain('hauberk_requests_total{side="outbound",service="egress",status="404",reason=""} 1');
    expect(text).not.toContain("example.com");
    bench.context.access?.flush();
    const [line] = bench.lines.join("").split("\n");
    expect(JSON.parse(line as string)).toMatchObject({ service: "egress", authority: "api.example.com", status: 200 });
  });

  test("is sent again only where it was not processed or may be repeated", () => {
    const outcomes = (["unprocessed", "lost"] as const).flatMap((kind) =>
      ["GET", "POST"].map((method) => {
        const bench = egressBench();
        const exchange = bench.ask({ ...api, method });
        bench.wire.last.lose(kind);
        bench.clock.advance(1_000);
        return [kind, method, bench.wire.requests.length, codeOf(exchange)];
      }),
    );
    expect(outcomes).toEqual([
      ["unprocessed", "GET", 2, undefined],
      ["unprocessed", "POST", 2, undefined],
      ["lost", "GET", 2, undefined],
      ["lost", "POST", 1, "UPSTREAM_LOST"],
    ]);
  });

  test("is not sent again for what the host answers", () => {
    const bench = egressBench();
    const exchange = bench.ask(api);
    bench.wire.last.respond(503);
    expect([exchange.answer?.status, bench.wire.requests.length]).toEqual([503, 1]);
  });

  test("has the deadlines that every request has, and gives up its place", () => {
    const bench = egressBench();
    const exchange = bench.ask({ ...api, fields: ["x-hauberk-timeout-ms", "100"] });
    expect(bench.host.open).toBe(1);
    bench.clock.advance(1_000);
    expect([codeOf(exchange), bench.host.open]).toEqual(["DEADLINE_EXCEEDED", 0]);
  });

  test("that leaves while it waits to be sent again leaves no place behind", () => {
    const bench = egressBench();
    const exchange = bench.ask(api);
    bench.wire.last.lose("unprocessed");
    expect(bench.host.open).toBe(1);
    exchange.leave();
    bench.clock.advance(10_000);
    expect([bench.host.open, bench.wire.requests.length]).toEqual([0, 1]);
  });

  test("whose name leads to this machine is refused at once", () => {
    const bench = egressBench();
    const exchange = bench.ask(api);
    bench.host.forbidden = "it is loopback";
    bench.wire.last.lose("unprocessed", "the host leads to 127.0.0.1");
    expect([codeOf(exchange), bench.host.open]).toEqual(["NOT_IN_MESH", 0]);
    expect(exchange.text()).toContain("it is loopback");
    expect(exchange.text()).not.toContain("127.0.0.1");
  });
});

describe("nothing is sent outside", () => {
  test.each([
    ["to a host that is not listed", { authority: "api.example.org" }, "NOT_IN_MESH"],
    ["to another port than the listed one", { authority: "10.9.8.7" }, "NOT_IN_MESH"],
    ["to loopback", { authority: "127.0.0.1" }, "NOT_IN_MESH"],
    ["to localhost", { authority: "localhost" }, "NOT_IN_MESH"],
    ["for https that would go in plain text", { ...api, scheme: "https" }, "REQUEST_INVALID"],
    ["for TRACE", { ...api, method: "TRACE" }, "METHOD_UNSUPPORTED"],
    ["without a path", { ...api, path: "" }, "REQUEST_INVALID"],
    ["for a page of another site", { ...api, fields: ["sec-fetch-site", "cross-site"] }, "CROSS_SITE"],
    ["for a page with an origin", { ...api, fields: ["Origin", "https://evil.example"] }, "CROSS_SITE"],
    ["for a tunnel where none is taken", { ...api, method: "CONNECT", path: "", body: true }, "METHOD_UNSUPPORTED"],
  ])("%s", (_, asked, code) => {
    const bench = egressBench({ egress: ["*.example.com", "10.9.8.7:8080", "*:1", "localhost", "127.0.0.1"] });
    const exchange = bench.ask(asked);
    expect([codeOf(exchange), bench.wire.requests.length]).toEqual([code, 0]);
  });

  test("without the secret of a guarded listener, and with it a page's fields are a program's", () => {
    const bench = egressBench();
    const origin = ["origin", "https://evil.example"];
    expect(codeOf(bench.ask({ ...api, fields: origin }, { secret: "Basic x" }))).toBe("PROXY_SECRET_WRONG");
    expect(bench.wire.requests).toEqual([]);
    bench.ask({ ...api, fields: [...origin, "proxy-authorization", "Basic x"] }, { secret: "Basic x" });
    expect(bench.wire.requests).toHaveLength(1);
  });
});

test("a CONNECT is a tunnel to the host, without a field", () => {
  const bench = egressBench();
  const asked = { method: "CONNECT", authority: "api.example.com:443", path: "", body: true, fields: ["a", "b"] };
  const exchange = bench.ask(asked, { connects: true });
  const sent = bench.wire.last;
  expect([sent.head.method, sent.head.fields, bench.called]).toEqual(["CONNECT", [], ["api.example.com:443"]]);
  exchange.send("hello");
  expect(sent.text()).toBe("");
  sent.respond(200, [], false);
  sent.data("world");
  expect([exchange.answer?.status, sent.text(), exchange.text()]).toEqual([200, "hello", "world"]);
  exchange.finish();
  sent.finish();
  expect([exchange.over, bench.host.open]).toEqual(["ended", 0]);
});

// The hosts, with real connections to a server of this machine that the fake look-up says is elsewhere.

const silentContext = (more: Partial<OutsideContext> = {}): OutsideContext => ({
  clock: new ManualClock(),
  random: new SeededRandom(1),
  http1: defaultsOf(http1Options),
  limits: { egressConnectMs: 5_000, egressHostsMax: 2 },
  ours: () => undefined,
  onFault: (thrown) => {
    throw thrown;
  },
  ...more,
});
const outsideOf = (host: string, port = 80): Outside => ({ is: "outside", host, port, authority: host });
const resolveTo =
  (...addresses: string[]): Resolve =>
  (_host, _options, found) =>
    found(
      null,
      addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 })),
    );

/** Waits for what comes of one request. */
function tried(host: Reachable): Promise<string> {
  return new Promise((resolve) => {
    const head = { method: "GET", scheme: "http", authority: "a", path: "/", fields: [], bodyLength: 0 };
    host.pool.request(head, true, {
      informed: () => undefined,
      head: ({ status }) => resolve(String(status)),
      data: () => undefined,
      end: () => undefined,
      aborted: ({ kind, because }) => resolve(`${kind}: ${because}`),
      drained: () => undefined,
    });
  });
}

describe("a host that is called", () => {
  test.each([
    [["127.0.0.1"]],
    [["10.0.0.1", "::1"]],
    [["::ffff:127.0.0.1"]],
    [["169.254.169.254"]],
    [["fe80::1"]],
    [["0.0.0.0"]],
    [["ff02::1"]],
    [["64:ff9b::7f00:1"]],
  ])("is not dialled where its name leads to %s", async (addresses) => {
    const server = createTcpServer(() => expect.unreachable("it was dialled"));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => void server.close());
    const hosts = new OutsideHosts(silentContext({ resolve: resolveTo(...addresses) }));
    const host = hosts.of(outsideOf("rebound.example.com", (server.address() as AddressInfo).port)) as Reachable;
    expect(await tried(host)).toMatch(/^unprocessed: the host leads to /);
    expect(host.forbidden).toMatch(/^it is /);
    hosts.close(0);
  });

  test("is looked up once for a dial, and what was judged is what is dialled", async () => {
    let times = 0;
    const answers = [["10.0.0.1"], ["127.0.0.1"]];
    const resolve: Resolve = (host, options, found) => resolveTo(...(answers[times++] ?? []))(host, options, found);
    const judged: string[] = [];
    const ours = (address: string): string => {
      judged.push(address);
      return "it is an endpoint of the mesh"; // So that nothing leaves this machine in a test.
    };
    const hosts = new OutsideHosts(silentContext({ resolve, ours }));
    const host = hosts.of(outsideOf("rebound.example.com")) as Reachable;
    expect(await tried(host)).toContain("10.0.0.1");
    expect([times, judged, host.forbidden]).toEqual([1, ["10.0.0.1"], "it is an endpoint of the mesh"]);
    hosts.close(0);
  });

  test.each([
    "127.0.0.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "169.254.169.254",
    "[fe80::1]",
    "224.0.0.1",
    "[64:ff9b::7f00:1]",
  ])("is refused as %s before anything is made for it", (literal) => {
    const hosts = new OutsideHosts(silentContext());
    expect(hosts.of(outsideOf(literal))).toMatchObject({ code: "NOT_IN_MESH" });
    expect(hosts.size).toBe(0);
  });

  test("is refused as a literal address of the mesh", () => {
    const ours = (address: string, port: number): string | undefined =>
      `${address}:${port}` === "10.0.0.1:15443" ? "it is an endpoint of the mesh" : undefined;
    const hosts = new OutsideHosts(silentContext({ ours }));
    expect(hosts.of(outsideOf("10.0.0.1", 15_443))).toMatchObject({ code: "NOT_IN_MESH" });
    expect(isRefusal(hosts.of(outsideOf("10.0.0.1", 15_444)))).toBe(false);
    hosts.close(0);
  });

  test("makes room by the one that was idle for longest, and not by one in use", () => {
    const hosts = new OutsideHosts(silentContext());
    const of = (name: string): Reachable => hosts.of(outsideOf(`${name}.example.com`)) as Reachable;
    const [a, b] = [of("a"), of("b")];
    a.open++;
    expect(of("c")).not.toBe(b);
    expect([of("a"), hosts.size]).toEqual([a, 2]);
    expect(of("b")).not.toBe(b); // c went.
    of("b").open++;
    expect(of("d")).toMatchObject({ code: "LIMIT_CONNECTIONS" });
    hosts.close(0);
  });
});
