import { describe, expect, test } from "vitest";
import { outboundBench, ordersFor, twoEndpoints } from "../../test/support/outbound.ts";
import { fieldOf } from "../http/message.ts";

/** An asked-for upgrade on its way out, with its answer still to come. */
async function asked(use: Parameters<typeof outboundBench>[0] = {}) {
  const bench = outboundBench(use);
  bench.publish(ordersFor(twoEndpoints));
  const exchange = bench.ask({ upgrade: "websocket", body: true, path: "/rooms" });
  await bench.settle();
  const connection = bench.opened[0]?.connection;
  if (connection === undefined) throw new Error("nothing was dialled");
  return { bench, exchange, connection, routee: connection.last };
}

async function open(use: Parameters<typeof outboundBench>[0] = {}) {
  const at = await asked(use);
  at.routee.respond(101, ["sec-websocket-protocol", "chat"], false);
  return at;
}

const metric = (text: string, name: string): string | undefined =>
  text
    .split("\n")
    .find((line) => line.startsWith(`${name} `))
    ?.split(" ")[1];
const codeOf = (fields: string[] | undefined): string | undefined => fieldOf(fields ?? [], "x-hauberk-code");

describe("a tunnel", () => {
  test("is asked for without an end, and nothing of its client goes on before the answer (CVE-2025-64763)", async () => {
    const { exchange, routee } = await asked();
    exchange.send("early");
    exchange.send(" bytes");
    exchange.finish();
    expect([routee.head.method, routee.head.upgrade, routee.ended, routee.text()]).toEqual([
      "GET",
      "websocket",
      false,
      "",
    ]);
    expect(exchange.consumed).toBe(0);
    routee.respond(101, [], false);
    expect(exchange.answer?.status).toBe(101);
    expect([routee.text(), routee.ended, exchange.consumed]).toEqual(["early bytes", true, 11]);
  });

  test("is asked for once more only where nothing was asked for yet: its GET is no other request's GET", async () => {
    for (const [kind, times] of [
      ["invalid", 1],
      ["lost", 1],
      ["unprocessed", 2],
    ] as const) {
      const { bench, exchange } = await asked();
      bench.opened[0]?.connection.last.lose(kind);
      for (let i = 0; i < 4; i++) {
        bench.clock.advance(100);
        await bench.settle();
      }
      const asks = bench.opened.flatMap(({ connection }) => connection.requests);
      expect([kind, asks.length, exchange.answer?.status]).toEqual([kind, times, times === 1 ? 502 : undefined]);
    }
  });

  test("that its client has ended, and its routee refuses, leaves nothing open with the routee", async () => {
    const { exchange, routee, bench } = await asked();
    exchange.finish();
    routee.respond(403, [], true);
    expect([exchange.answer?.status, routee.aborted?.kind]).toEqual([403, "cancelled"]);
    expect([bench.context.openTunnels.value, bench.context.openRequests.value]).toEqual([0, 0]);
  });

  test("that is refused by the routee passes its answer on, and nobody gets what the client sent", async () => {
    const { exchange, routee, bench } = await asked();
    exchange.send("early");
    routee.respond(403, ["a", "b"], false);
    routee.data("no");
    routee.finish();
    exchange.send("more");
    expect([exchange.answer?.status, exchange.text(), exchange.over]).toEqual([403, "no", "ended"]);
    expect(routee.text()).toBe("");
    expect(exchange.consumed).toBe(9);
    expect(bench.context.openTunnels.value).toBe(0);
    expect(bench.context.openRequests.value).toBe(0);
  });

  test("is over when both directions have ended, in either order", async () => {
    for (const first of ["client", "routee"]) {
      const { bench, exchange, routee } = await open();
      if (first === "client") exchange.finish();
      else routee.finish();
      expect(bench.context.openTunnels.value).toBe(1);
      if (first === "client") routee.data("still");
      else exchange.send("still");
      expect(first === "client" ? exchange.text() : routee.text()).toBe("still");
      if (first === "client") routee.finish();
      else exchange.finish();
      expect([routee.ended, routee.aborted, exchange.over]).toEqual([true, undefined, "ended"]);
      expect([bench.context.openTunnels.value, bench.context.openRequests.value]).toEqual([0, 0]);
      bench.context.access?.flush();
      expect(bench.lines.join("")).toContain('"bytesIn"');
    }
  });

  test("that is opened half closed still takes what its client sends", async () => {
    const { exchange, routee, bench } = await asked();
    routee.answerEnded = true;
    routee.events.head({ status: 101, fields: [], bodyLength: 0 }, true);
    exchange.events?.data(Buffer.from("x"));
    expect(routee.text()).toBe("x");
    expect(bench.context.openTunnels.value).toBe(1);
    exchange.finish();
    expect(bench.context.openTunnels.value).toBe(0);
  });

  test("waits for each side that does not read", async () => {
    const { exchange, routee } = await open();
    routee.roomBytes = 3;
    exchange.send("abcd");
    expect(exchange.consumed).toBe(0);
    routee.drain();
    expect(exchange.consumed).toBe(4);
    exchange.roomBytes = 3;
    routee.data("abcd");
    expect(routee.consumed).toBe(0);
    exchange.drain();
    expect(routee.consumed).toBe(4);
  });

  test("holds no more than its client's window before the answer, and loses none of it", async () => {
    const { exchange, routee } = await asked({ options: { replayMaxBytes: 10 } });
    for (let i = 0; i < 100; i++) exchange.send("0123456789");
    expect(exchange.consumed).toBe(0);
    routee.respond(101, [], false);
    expect(routee.text()).toBe("0123456789".repeat(100));
  });

  test("has a deadline until it is answered, and none afterwards", async () => {
    const late = await asked();
    late.bench.clock.advance(15_100);
    expect([late.exchange.answer?.status, codeOf(late.exchange.answer?.fields)]).toEqual([504, "DEADLINE_EXCEEDED"]);
    const { bench, exchange, routee } = await open();
    bench.clock.advance(3_000_000);
    routee.data("x");
    expect([exchange.text(), exchange.over]).toEqual(["x", "no"]);
  });

  test("through which nothing goes for tunnelIdleMs is cut, one with a byte now and then is not", async () => {
    const { bench, exchange, routee } = await open({ options: { tunnelIdleMs: 8_000 } });
    for (let i = 0; i < 10; i++) {
      bench.clock.advance(7_000);
      if (i % 2 === 0) routee.data("x");
      else exchange.send("x");
    }
    expect(exchange.over).toBe("no");
    bench.clock.advance(7_000);
    expect(exchange.over).toBe("no");
    bench.clock.advance(7_000);
    expect([exchange.over, routee.aborted?.kind]).toEqual(["aborted", "cancelled"]);
    expect(bench.lines.at(-1)).toContain("DEADLINE_EXCEEDED");
    expect(bench.context.tunnelAlarms.count).toBe(0);
  });

  test("with both limits off is left alone", async () => {
    const { bench, exchange } = await open({ options: { tunnelIdleMs: 0 } });
    bench.clock.advance(86_400_000);
    expect([exchange.over, bench.context.tunnelAlarms.count]).toEqual(["no", 0]);
  });

  test("is cut after tunnelLifeMs, however busy it is", async () => {
    const { bench, exchange, routee } = await open({ options: { tunnelLifeMs: 60_000 } });
    for (let i = 0; i < 29; i++) {
      bench.clock.advance(2_000);
      routee.data("x");
    }
    expect(exchange.over).toBe("no");
    bench.clock.advance(4_000);
    expect(exchange.over).toBe("aborted");
  });

  test("is tried again before its head only, and not by its status but by what was not processed", async () => {
    const { bench, exchange, routee } = await asked();
    exchange.send("held");
    routee.lose("unprocessed");
    bench.clock.advance(200);
    await bench.settle();
    const second = bench.opened.flatMap(({ connection }) => connection.requests).at(-1);
    expect(second).not.toBe(routee);
    second?.respond(101, [], false);
    expect(second?.text()).toBe("held");
    second?.lose("lost");
    bench.clock.advance(1_000);
    await bench.settle();
    expect([exchange.over, exchange.loss?.kind]).toEqual(["aborted", "lost"]);
    expect(bench.opened.flatMap(({ connection }) => connection.requests)).toHaveLength(2);
  });

  test("that the client leaves is given up at the routee", async () => {
    const { bench, exchange, routee } = await open();
    exchange.leave();
    expect(routee.aborted?.kind).toBe("cancelled");
    expect([bench.context.openTunnels.value, bench.context.openRequests.value]).toEqual([0, 0]);
  });

  test("counts as open, with its bytes, while it is open, and no more as a request", async () => {
    const { bench, exchange, routee } = await open();
    exchange.send("abc");
    routee.data("hello");
    const text = bench.metrics.renderPrometheus();
    const labels = 'side="outbound",service="orders.default"';
    expect(metric(text, 'hauberk_tunnels_open{side="outbound"}')).toBe("1");
    expect(metric(text, 'hauberk_requests_open{side="outbound"}')).toBe("0");
    expect(metric(text, `hauberk_tunnel_bytes_total{${labels},direction="in"}`)).toBe("3");
    expect(metric(text, `hauberk_tunnel_bytes_total{${labels},direction="out"}`)).toBe("5");
    expect(metric(text, `hauberk_tunnels_opened_total{${labels}}`)).toBe("1");
  });

  test("over tunnelsMax is LIMIT_CONNECTIONS", async () => {
    const { bench } = await open({ options: { tunnelsMax: 1 } });
    const second = bench.ask({ upgrade: "websocket", body: true });
    expect(codeOf(second.answer?.fields)).toBe("LIMIT_CONNECTIONS");
    expect(bench.ask({}).answer).toBeUndefined();
  });

  test("that are asked for at once are no more than tunnelsMax, and leave their places when they end", async () => {
    const bench = outboundBench({ options: { tunnelsMax: 2 } });
    bench.publish(ordersFor(twoEndpoints));
    const asked = Array.from({ length: 10 }, () => bench.ask({ upgrade: "websocket", body: true }));
    await bench.settle();
    for (const { connection } of bench.opened) for (const one of connection.requests) one.respond(101, [], false);
    const statuses = asked.map(({ answer }) => answer?.status);
    expect(statuses).toEqual([101, 101, ...Array.from({ length: 8 }, () => 503)]);
    expect(bench.context.openTunnels.value).toBe(2);
    for (const one of asked.slice(0, 2)) one.leave();
    expect(bench.context.openTunnels.value).toBe(0);
  });
});

describe("an answer that opens what was not asked for", () => {
  for (const [name, ask, status] of [
    ["200 to an upgrade (CVE-2024-23326)", { upgrade: "websocket", body: true }, 200],
    ["204 to an upgrade", { upgrade: "websocket", body: true }, 204],
    ["101 to a plain request", {}, 101],
  ] as const) {
    test(`${name} is UPSTREAM_INVALID`, async () => {
      const bench = outboundBench();
      bench.publish(ordersFor(twoEndpoints));
      const exchange = bench.ask(ask);
      await bench.settle();
      const routee = bench.opened[0]?.connection.last;
      routee?.respond(status, [], false);
      routee?.data("secret");
      expect([exchange.answer?.status, codeOf(exchange.answer?.fields)]).toEqual([502, "UPSTREAM_INVALID"]);
      expect(exchange.text()).not.toContain("secret");
      expect(routee?.aborted).toBeDefined();
      expect(bench.context.openRequests.value).toBe(0);
    });
  }
});
