import type { Socket } from "node:net";
import { expect, test } from "vitest";
import { FakeServerExchange } from "../../test/support/exchanges.ts";
import { ordersFor, outboundBench, twoEndpoints, type OutboundBench } from "../../test/support/outbound.ts";
import { socketOf } from "../transport/exchange-socket.ts";
import { forwardHandler } from "./forward.ts";

interface Forwarded {
  readonly exchange: FakeServerExchange;
  /** The tunnels that ended here, for HTTP inside of them. */
  readonly inside: Socket[];
}

function connectTo(bench: OutboundBench, authority: string): Forwarded {
  const exchange = new FakeServerExchange({ method: "CONNECT", authority, path: "", body: true, protocol: "h2" });
  const inside: Socket[] = [];
  forwardHandler(bench.context, {
    secret: undefined,
    serveInside: (served, _handler, early) => {
      inside.push(socketOf(served, early));
      served.respond({ status: 200, fields: [], bodyLength: -1 }, false);
      bench.context.openTunnels.add(1);
    },
  })(exchange);
  return { exchange, inside };
}

test("what a client of a CONNECT sends while the service is asked for is not lost", async () => {
  const bench = outboundBench();
  bench.asking = () => {
    bench.publish(ordersFor(twoEndpoints));
    return Promise.resolve(null);
  };
  const { exchange, inside } = connectTo(bench, "orders:80");
  exchange.send("GET / HT");
  exchange.send("TP/1.1\r\n");
  exchange.finish();
  await bench.settle();
  let text = "";
  let ended = false;
  inside[0]?.on("data", (chunk: Buffer) => (text += chunk.toString()));
  inside[0]?.on("end", () => (ended = true));
  await bench.settle();
  expect([text, ended]).toEqual(["GET / HTTP/1.1\r\n", true]);
});

test("a CONNECT for HTTP counts as a tunnel, and one too many is LIMIT_CONNECTIONS", () => {
  const bench = outboundBench({ options: { tunnelsMax: 1 } });
  bench.publish(ordersFor(twoEndpoints));
  const first = connectTo(bench, "orders:80");
  const second = connectTo(bench, "orders:80");
  expect([first.inside.length, first.exchange.answer?.status]).toEqual([1, 200]);
  expect([second.inside.length, second.exchange.answer?.status]).toEqual([0, 503]);
  expect(second.exchange.answer?.fields).toContain("LIMIT_CONNECTIONS");
});
