import { describe, expect, test } from "vitest";
import { FakeServerExchange } from "../../test/support/exchanges.ts";
import { endpoint, idOf, ordersFor, outboundBench, view, allow } from "../../test/support/outbound.ts";
import type { Rule } from "../base/resource.ts";
import { fieldOf } from "../http/message.ts";
import type { Handler, ServerExchange } from "../transport/exchange.ts";
import { forwardHandler } from "./forward.ts";
import type { OutboundListener } from "./outbound.ts";
import { Routes } from "./routes.ts";

const orders = { service: "orders", namespace: "default" };
const listener: OutboundListener = { to: Routes.to(orders, 6379), connects: true };
const tcp = { method: "CONNECT", scheme: "tcp", authority: "", path: "", body: true, protocol: "tcp" } as const;
const both = endpoint("a", {
  ports: [
    { name: "cache", port: 6379, protocol: "tcp" },
    { name: "http", port: 8080, protocol: "http" },
  ],
});
const web: Rule = { from: [{ services: ["web.default"] }] };
const codeOf = (exchange: FakeServerExchange): string | undefined =>
  fieldOf(exchange.answer?.fields ?? [], "x-hauberk-code");

describe("a TCP connection of the workload", () => {
  test("goes to the endpoint as CONNECT with the service's name and the routee's port, and no field of ours but labels", async () => {
    const bench = outboundBench();
    bench.publish(ordersFor([both]));
    const exchange = bench.ask(tcp, listener);
    await bench.settle();
    const { last } = bench.connectionTo("a");
    expect([last.head.method, last.head.authority, last.head.path]).toEqual([
      "CONNECT",
      "orders.default.mesh:6379",
      "",
    ]);
    const names = last.head.fields.filter((_, i) => i % 2 === 0);
    expect(names.toSorted()).toEqual(["traceparent", "x-hauberk-timeout-ms", "x-request-id"]);
    exchange.send("a");
    expect(last.text()).toBe("");
    last.respond(200, [], false);
    last.data("hello");
    expect([last.text(), exchange.text(), exchange.answer?.status]).toEqual(["a", "hello", 200]);
  });

  test("is decided before anything is looked up or opened", async () => {
    for (const rules of [
      [],
      [{ ...web, to: [{ ports: [8080] }] }],
      [{ ...web, to: [{ methods: ["GET"] }] }],
    ] as Rule[][]) {
      const bench = outboundBench();
      bench.publish(ordersFor([both], rules));
      const exchange = bench.ask(tcp, listener);
      await bench.settle();
      expect(codeOf(exchange)).toBe(rules.length === 0 ? "SERVICE_UNKNOWN" : "DENIED");
      expect(bench.touched).toEqual([]);
    }
  });

  test("never goes to a port that is HTTP, nor a request to one that is TCP", async () => {
    const bench = outboundBench();
    bench.publish(ordersFor([both]));
    const wrong = bench.ask(tcp, { to: Routes.to(orders, 8080), connects: true });
    const request = bench.ask({ authority: "orders:6379" });
    const upgrade = bench.ask({ authority: "orders:6379", upgrade: "websocket", body: true });
    await bench.settle();
    expect([wrong, request, upgrade].map(codeOf)).toEqual(["NO_ENDPOINT", "NO_ENDPOINT", "NO_ENDPOINT"]);
    expect(bench.touched).toEqual([]);
  });

  test("is told in the log why it was reset, once in a while", () => {
    const said: unknown[] = [];
    const bench = outboundBench({ warn: (message, about) => void said.push([message, about]) });
    bench.publish(ordersFor([both], []));
    for (let i = 0; i < 5; i++) bench.ask(tcp, listener);
    bench.clock.advance(10_000);
    bench.ask(tcp, listener);
    expect(said).toHaveLength(2);
    expect(said[0]).toMatchObject([
      "a TCP connection was reset",
      { callee: "orders.default", code: "SERVICE_UNKNOWN" },
    ]);
  });
});

/** The forward proxy, with what it serves inside of tunnels kept. */
function forwarding(use: { secret?: string } = {}) {
  const bench = outboundBench();
  const inside: { exchange: ServerExchange; handler: Handler }[] = [];
  const handler = forwardHandler(bench.context, {
    secret: use.secret,
    serveInside: (exchange, inner) => inside.push({ exchange, handler: inner }),
  });
  const connect = (authority: string, fields: string[] = []): FakeServerExchange => {
    const exchange = new FakeServerExchange({ method: "CONNECT", scheme: "", authority, path: "", body: true, fields });
    handler(exchange);
    return exchange;
  };
  return { ...bench, bench, inside, connect };
}

describe("CONNECT at the listener for all services", () => {
  const refused: [string, string][] = [
    ["127.0.0.1:6379", "NOT_IN_MESH"],
    ["localhost:8080", "NOT_IN_MESH"],
    ["app.localhost:8080", "NOT_IN_MESH"],
    ["[::1]:6379", "NOT_IN_MESH"],
    ["[::ffff:127.0.0.1]:6379", "NOT_IN_MESH"],
    ["0.0.0.0:6379", "NOT_IN_MESH"],
    ["127.1:6379", "REQUEST_INVALID"],
    ["2130706433:6379", "REQUEST_INVALID"],
    ["0x7f.1:6379", "REQUEST_INVALID"],
    ["169.254.169.254:80", "NOT_IN_MESH"],
    ["[fe80::1]:80", "NOT_IN_MESH"],
    ["10.0.0.1:15443", "NOT_IN_MESH"],
    ["www.example.com:443", "NOT_IN_MESH"],
    ["a.b.c.mesh:443", "NOT_IN_MESH"],
    ["orders:22", "NO_ENDPOINT"],
    ["orders:15443", "NO_ENDPOINT"],
  ];
  for (const [authority, code] of refused) {
    test(`to ${authority} is ${code}, and nothing is dialled`, async () => {
      const { bench, connect, inside } = forwarding();
      bench.publish(ordersFor([both]));
      const exchange = connect(authority);
      await bench.settle();
      expect(codeOf(exchange)).toBe(code);
      expect([bench.touched, inside]).toEqual([[], []]);
    });
  }

  test("to a TCP port is a tunnel to it", async () => {
    const { bench, connect } = forwarding();
    bench.publish(ordersFor([both]));
    const exchange = connect("Orders.default.mesh.:6379");
    await bench.settle();
    bench.connectionTo("a").last.respond(200, [], false);
    expect(exchange.answer?.status).toBe(200);
    expect(bench.connectionTo("a").last.head.authority).toBe("orders.default.mesh:6379");
  });

  test("to an HTTP port ends here, and each request inside goes to that service and port alone, decided by itself", async () => {
    const { bench, connect, inside } = forwarding();
    bench.publish(ordersFor([both], [{ ...web, to: [{ methods: ["GET"], ports: [8080] }] }]));
    const outer = connect("orders:8080");
    await bench.settle();
    expect([inside.length, bench.touched]).toEqual([1, []]);
    const ask = (asked: ConstructorParameters<typeof FakeServerExchange>[0]): FakeServerExchange => {
      const exchange = new FakeServerExchange(asked);
      inside[0]?.handler(exchange);
      return exchange;
    };
    ask({ authority: "127.0.0.1:22", path: "/x" });
    await bench.settle();
    expect(bench.connectionTo("a").last.head).toMatchObject({ authority: "orders.default.mesh:8080", path: "/x" });
    expect(codeOf(ask({ method: "DELETE" }))).toBe("DENIED");
    expect(codeOf(ask({ method: "CONNECT", path: "", authority: "orders:6379", body: true }))).toBe(
      "METHOD_UNSUPPORTED",
    );
    expect(outer.answer).toBeUndefined();
  });

  test("to a service that is not known yet waits for discovery, and loses nothing that came meanwhile", async () => {
    const { bench, connect } = forwarding();
    bench.asking = () => Promise.resolve(view("orders", [allow("orders", [web])], [both]));
    const exchange = connect("orders:6379");
    exchange.send("early");
    exchange.finish();
    await bench.settle();
    await bench.settle();
    const { last } = bench.connectionTo("a");
    last.respond(200, [], false);
    expect([last.text(), last.ended]).toEqual(["early", true]);
  });

  test("to an unknown service is 404, in the words that it has for everybody", async () => {
    const { bench, connect } = forwarding();
    const exchange = connect("ghost:6379");
    await bench.settle();
    await bench.settle();
    expect([exchange.answer?.status, codeOf(exchange)]).toEqual([404, "SERVICE_UNKNOWN"]);
  });

  test("without the listener's secret is 407, whatever it leads to", async () => {
    const { bench, connect, inside } = forwarding({ secret: "Basic c2VjcmV0" });
    bench.publish(ordersFor([both]));
    for (const authority of ["orders:6379", "orders:8080", "ghost:1"]) {
      expect(codeOf(connect(authority))).toBe("PROXY_SECRET_WRONG");
      expect(codeOf(connect(authority, ["Proxy-Authorization", "Basic wrong"]))).toBe("PROXY_SECRET_WRONG");
    }
    expect([bench.touched, inside]).toEqual([[], []]);
    connect("orders:8080", ["Proxy-Authorization", "Basic c2VjcmV0"]);
    expect(inside).toHaveLength(1);
  });
});

test("the identity that policies see of TCP is the workload's own", async () => {
  const bench = outboundBench({ self: idOf("batch") });
  bench.publish(ordersFor([both]));
  const exchange = bench.ask(tcp, listener);
  await bench.settle();
  expect([codeOf(exchange), bench.touched]).toEqual(["SERVICE_UNKNOWN", []]);
});
