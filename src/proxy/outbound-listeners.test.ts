import { connect } from "node:net";
import { expect, test } from "vitest";
import { ordersFor, outboundBench, twoEndpoints } from "../../test/support/outbound.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { defaultsOf } from "../base/options.ts";
import { http2Options } from "../transport/http2-options.ts";
import { http1Options } from "../transport/options.ts";
import { proxyOptions } from "./options.ts";
import { OutboundListeners } from "./outbound-listeners.ts";

test("a bug as HTTP inside of a tunnel is about to be served costs that tunnel, and gives its place back", async () => {
  const bench = outboundBench();
  bench.publish(ordersFor(twoEndpoints));
  const faults: unknown[] = [];
  const { openTunnels } = bench.context;
  const http1 = new Proxy(defaultsOf(http1Options), {
    get(options, name: keyof typeof http1Options) {
      if (name === "idleMs" && openTunnels.value > 0) throw new Error("a bug");
      return options[name];
    },
  });
  const listeners = new OutboundListeners({
    clock: bench.clock,
    random: new SeededRandom(1),
    options: { proxy: defaultsOf(proxyOptions), http1, http2: defaultsOf(http2Options) },
    outbound: bench.context,
    shared: undefined,
    onFault: (thrown) => void faults.push(thrown),
    onRefused: () => undefined,
  });
  const { port } = await listeners.forward({ host: "127.0.0.1", port: 0 }, undefined);
  const client = connect({ host: "127.0.0.1", port });
  client.on("error", () => undefined);
  client.write("CONNECT orders:80 HTTP/1.1\r\nHost: orders:80\r\n\r\n");
  client.resume();
  await new Promise((resolve) => client.on("close", resolve));
  expect(faults).toMatchObject([{ message: "a bug" }]);
  expect(openTunnels.value).toBe(0);
  await listeners.close(0);
});
