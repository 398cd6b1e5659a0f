import { describe, expect, test } from "vitest";
import { Heard, ask, echo, get, rawToClient, rawToServer } from "../../test/support/http2-pair.ts";
import { rawFields, rawFrame, uint32 } from "../../test/support/http2-raw.ts";
import * as frames from "../http/http2/frames.ts";
import type { ServerExchange } from "./exchange.ts";

/** What hostile peers do, and what it costs them (attacks.md, rows 26 to 31). */

const { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION } = frames;
const END = frames.END_STREAM;
const WHOLE = frames.END_HEADERS;
const common = rawFields([":method", "POST", ":scheme", "http", ":path", "/", ":authority", "orders"]);
const request = (id: number): Buffer => rawFrame(HEADERS, WHOLE | END, id, common);
const begun = (id: number): Buffer => rawFrame(HEADERS, WHOLE, id, common);
const reset = (id: number): Buffer => rawFrame(RST_STREAM, 0, id, uint32(frames.CANCEL));
const many = (count: number, make: (i: number) => Buffer): Buffer =>
  Buffer.concat(Array.from({ length: count }, (_, i) => make(i)));

const small = { resetsMax: 50, resetsPerSecond: 10, noiseMax: 100, noisePerSecond: 10, streamsMax: 20 };
const silent = (exchange: ServerExchange): void => exchange.listen(new Heard());

describe("a flood ends its connection with ENHANCE_YOUR_CALM", () => {
  const floods: [string, Buffer][] = [
    ["rapid reset", many(60, (i) => Buffer.concat([begun(2 * i + 1), reset(2 * i + 1)]))],
    [
      "MadeYouReset by window updates of 0",
      many(60, (i) => Buffer.concat([begun(2 * i + 1), rawFrame(WINDOW_UPDATE, 0, 2 * i + 1, uint32(0))])),
    ],
    [
      "MadeYouReset by DATA after the end",
      many(60, (i) => Buffer.concat([request(2 * i + 1), rawFrame(DATA, 0, 2 * i + 1, "00")])),
    ],
    ["MadeYouReset by HEADERS after the end", many(60, (i) => Buffer.concat([request(2 * i + 1), request(2 * i + 1)]))],
    [
      "MadeYouReset by PRIORITY of a wrong size",
      many(60, (i) => Buffer.concat([request(2 * i + 1), rawFrame(PRIORITY, 0, 2 * i + 1, "00")])),
    ],
    ["malformed requests", many(60, (i) => rawFrame(HEADERS, WHOLE | END, 2 * i + 1, "82"))],
    ["requests above the streams allowed", many(90, (i) => begun(2 * i + 1))],
    ["PING", many(200, () => rawFrame(PING, 0, 0, "0000000000000000"))],
    ["acknowledged PING", many(200, () => rawFrame(PING, 1, 0, "0000000000000000"))],
    ["SETTINGS", many(20, () => rawFrame(SETTINGS, 0, 0))],
    ["acknowledged SETTINGS", many(200, () => rawFrame(SETTINGS, 1, 0))],
    ["PRIORITY", many(200, (i) => rawFrame(PRIORITY, 0, 2 * i + 1, "0000000005"))],
    ["unknown frames", many(200, () => rawFrame(0xee, 0, 0))],
    ["empty DATA", Buffer.concat([begun(1), many(200, () => rawFrame(DATA, 0, 1))])],
    ["DATA of padding alone", Buffer.concat([begun(1), many(200, () => rawFrame(DATA, frames.PADDED, 1, "01 00"))])],
    [
      "empty DATA on a stream that was reset",
      Buffer.concat([begun(1), rawFrame(WINDOW_UPDATE, 0, 1, uint32(0)), many(200, () => rawFrame(DATA, 0, 1))]),
    ],
    ["window updates of the connection", many(200, () => rawFrame(WINDOW_UPDATE, 0, 0, uint32(1)))],
    [
      "window updates of a stream",
      Buffer.concat([begun(1), many(200, () => rawFrame(WINDOW_UPDATE, 0, 1, uint32(1)))]),
    ],
    ["RST_STREAM of one stream", Buffer.concat([begun(1), many(200, () => reset(1))])],
    ["CONTINUATION", Buffer.concat([rawFrame(HEADERS, 0, 1, common), many(30, () => rawFrame(CONTINUATION, 0, 1))])],
    [
      "CONTINUATION of 16 KiB each",
      Buffer.concat([
        rawFrame(HEADERS, 0, 1, common),
        many(4, () => rawFrame(CONTINUATION, 0, 1, Buffer.alloc(16_384))),
      ]),
    ],
  ];
  for (const [name, bytes] of floods) {
    test(name, async () => {
      const { peer, ends } = rawToServer(silent, small);
      peer.send(bytes);
      await peer.end();
      const goaway = peer.frames.find((frame) => frame.type === GOAWAY);
      expect(goaway?.payload.readUInt32BE(4)).toBe(frames.ENHANCE_YOUR_CALM);
      expect(ends.closed).toHaveLength(1);
    });
  }
});

test("time lets a peer go on, and useful work earns it more", async () => {
  const { peer, clock, ends } = rawToServer(
    echo,
    small,
    Buffer.concat([rawFrame(SETTINGS, 0, 0), rawFrame(SETTINGS, 1, 0)]),
  );
  for (let round = 0; round < 5; round++) {
    peer.send(
      many(70, () => rawFrame(PING, 0, 0, "0000000000000000")),
      request(2 * round + 1),
    );
    await peer.until(() => peer.frames.filter((frame) => frame.type === PING).length === 70 * (round + 1));
    clock.advance(9_000);
  }
  for (let round = 5; round < 60; round++) {
    peer.send(
      request(2 * round + 1),
      rawFrame(WINDOW_UPDATE, 0, 0, uint32(1)),
      rawFrame(WINDOW_UPDATE, 0, 0, uint32(1)),
    );
    await peer.until(() => peer.frames.some((frame) => frame.streamId === 2 * round + 1 && (frame.flags & END) !== 0));
  }
  expect(ends.closed).toEqual([]);
});

test("streams above the limit are refused, and those below go on", async () => {
  const { peer, server } = rawToServer(silent, { streamsMax: 10 });
  peer.send(
    many(12, (i) => begun(2 * i + 1)),
    rawFrame(PING, 0, 0, "0000000000000000"),
  );
  await peer.frame((frame) => frame.type === PING);
  expect(
    peer.frames.filter((frame) => frame.type === RST_STREAM).map((frame) => [frame.streamId, frame.payload[3]]),
  ).toEqual([
    [21, frames.REFUSED_STREAM],
    [23, frames.REFUSED_STREAM],
  ]);
  expect(server.exchanges).toBe(10);
});

test("a stream that was reset counts until the work of its handler ends, where the handler holds it", async () => {
  const releases: (() => void)[] = [];
  const { peer } = rawToServer(
    (exchange) => {
      exchange.listen(new Heard());
      releases.push(exchange.hold?.() as () => void);
    },
    { streamsMax: 3 },
  );
  peer.send(
    many(6, (i) => Buffer.concat([begun(2 * i + 1), reset(2 * i + 1)])),
    rawFrame(PING, 0, 0, "0000000000000000"),
  );
  await peer.frame((frame) => frame.type === PING);
  expect(releases).toHaveLength(3);
  expect(peer.said()).toContain("RST 7 7");
  for (const release of releases) release();
  peer.send(begun(21), rawFrame(PING, 0, 0, "0100000000000000"));
  await peer.frame((frame) => frame.type === PING && frame.payload[0] === 1);
  expect(releases).toHaveLength(4);
});

test("an HPACK bomb is decoded, answered 431, and costs no more than its block", async () => {
  const { peer, ends } = rawToServer(echo);
  const insert = Buffer.concat([Buffer.from("4001617f811e", "hex"), Buffer.alloc(3_968, "v")]);
  peer.send(rawFrame(HEADERS, WHOLE | END, 1, Buffer.concat([common, insert, Buffer.alloc(10_000, 0xbe)])));
  const head = await peer.frame((frame) => frame.type === HEADERS);
  expect(head.payload.toString("latin1")).toContain("HEADERS_TOO_LARGE");
  expect(ends.closed).toEqual([]);
});

test("a peer that does not read is cut off before its answers pile up", async () => {
  const { peer, ends } = rawToServer(echo, { controlQueueMax: 500, noiseMax: 100_000 });
  await peer.frame((frame) => frame.type === SETTINGS);
  peer.socket.pause();
  for (let i = 0; i < 100 && ends.closed.length === 0; i++) {
    peer.send(many(1_000, () => rawFrame(PING, 0, 0, "0000000000000000")));
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(ends.closed).toEqual(["ENHANCE_YOUR_CALM: too many answers that are not read"]);
});

test("a server reads no further while its answers are not read, and goes on when they are", async () => {
  let handled = 0;
  const big = ["x-big", "v".repeat(2_000)];
  const { peer, ends } = rawToServer(
    (exchange) => {
      handled++;
      exchange.listen(new Heard());
      exchange.respond({ status: 200, fields: [...big, "x-n", String(handled).repeat(500)], bodyLength: 0 }, true);
    },
    { outputBytes: 32_768 },
  );
  await peer.frame((frame) => frame.type === SETTINGS);
  peer.socket.pause();
  let asked = 0;
  for (; asked < 400; asked++) {
    peer.send(request(2 * asked + 1));
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(handled).toBeLessThan(200);
  peer.socket.resume();
  await peer.until(() => peer.frames.filter((frame) => frame.type === HEADERS).length === asked);
  expect(ends.closed).toEqual([]);
});

test("a peer that never acknowledges our settings is cut off", async () => {
  const { peer, clock, ends } = rawToServer(echo);
  await peer.frame((frame) => frame.type === SETTINGS);
  clock.advance(9_999);
  expect(ends.closed).toEqual([]);
  clock.advance(1);
  expect(ends.closed).toEqual(["SETTINGS_TIMEOUT: settings were not acknowledged in time"]);
  await peer.end();
});

test("a header block that does not become whole in time ends the connection", async () => {
  const { peer, clock, ends } = rawToServer(
    echo,
    {},
    Buffer.concat([rawFrame(SETTINGS, 0, 0), rawFrame(SETTINGS, 1, 0)]),
  );
  peer.send(rawFrame(PING, 0, 0, "0000000000000000"), rawFrame(HEADERS, 0, 1, common));
  await peer.frame((frame) => frame.type === PING);
  clock.advance(10_000);
  expect(ends.closed).toEqual(["ENHANCE_YOUR_CALM: a header block that did not become whole in time"]);
});

test("a body that drips in and an answer that nobody reads are given up, and the connection goes on", async () => {
  const losses: (string | undefined)[] = [];
  const { peer, clock, ends } = rawToServer(
    (exchange) => {
      const heard = new Heard();
      heard.consumes = exchange;
      exchange.listen(heard);
      void heard.over().then(() => losses.push(heard.loss?.because));
      if (exchange.bodyless) {
        exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
        exchange.write(Buffer.alloc(100_000));
      }
    },
    {},
    Buffer.concat([rawFrame(SETTINGS, 0, 0), rawFrame(SETTINGS, 1, 0)]),
  );
  peer.send(begun(1), request(3));
  const alive = async (n: number): Promise<void> => {
    peer.send(rawFrame(DATA, 0, 1, "00"), rawFrame(PING, 0, 0, [n, 0, 0, 0, 0, 0, 0, 0]));
    await peer.frame((frame) => frame.type === PING && frame.payload[0] === n);
  };
  await alive(1);
  clock.advance(30_000);
  await alive(2);
  clock.advance(30_000);
  await peer.frame((frame) => frame.type === RST_STREAM && frame.streamId === 1);
  for (let n = 3; n < 13; n++) {
    await alive(n);
    clock.advance(30_000);
  }
  await peer.frame((frame) => frame.type === RST_STREAM && frame.streamId === 3);
  expect(losses).toEqual(["the client sends its body too slowly", "the client does not read its answer"]);
  expect(ends.closed).toEqual([]);
});

test("a silent connection is asked whether it lives, and ends when it does not answer", async () => {
  const { peer, clock, ends } = rawToServer(
    echo,
    {},
    Buffer.concat([rawFrame(SETTINGS, 0, 0), rawFrame(SETTINGS, 1, 0)]),
  );
  await peer.frame((frame) => frame.type === SETTINGS && frame.flags === 1);
  clock.advance(60_000);
  const asked = await peer.frame((frame) => frame.type === PING);
  peer.send(rawFrame(PING, 1, 0, asked.payload), rawFrame(PING, 0, 0, "0100000000000000"));
  await peer.frame((frame) => frame.type === PING && frame.flags === 1);
  clock.advance(59_000);
  expect(ends.closed).toEqual([]);
  clock.advance(30_000);
  clock.advance(10_000);
  expect(ends.closed).toEqual(["a PING was not answered in time"]);
});

test("a handler that throws costs its stream, not the connection, and is told of", async () => {
  const { peer, ends } = rawToServer((exchange) => {
    if (exchange.head.bodyLength !== 0) throw new Error("a bug of the handler");
    echo(exchange);
  });
  peer.send(begun(1), request(3));
  await peer.frame((frame) => frame.streamId === 3 && (frame.flags & END) !== 0);
  expect(peer.said()).toContain("RST 1 2");
  expect(ends.closed).toEqual([]);
  expect(ends.faults).toEqual([new Error("a bug of the handler")]);
});

test("a listener that throws ends its connection, not the process, and is told of", async () => {
  const { peer, ends } = rawToServer((exchange) =>
    exchange.listen({
      data() {
        throw new Error("a bug of the listener");
      },
      end() {},
      aborted() {},
      drained() {},
    }),
  );
  peer.send(begun(1), rawFrame(DATA, 0, 1, "00"));
  await peer.end();
  expect(ends.closed).toEqual(["INTERNAL_ERROR: a bug: a bug of the listener"]);
  expect(ends.faults).toEqual([new Error("a bug of the listener")]);
});

test("a server that allows no streams and says goodbye harms nobody (CVE-2021-32780)", async () => {
  const { peer, client, ends } = await rawToClient({}, rawFrame(SETTINGS, 0, 0, "0003 00000000"));
  expect(client.request(get(), true, new Heard())).toBeUndefined();
  peer.send(rawFrame(SETTINGS, 0, 0, "0003 00000001"), rawFrame(PING, 0, 0, "0000000000000000"));
  await peer.frame((frame) => frame.type === PING);
  const { heard } = ask(client, get());
  expect(client.request(get(), true, new Heard())).toBeUndefined();
  await peer.frame((frame) => frame.type === HEADERS);
  peer.send(rawFrame(SETTINGS, 0, 0, "0003 00000000"), rawFrame(GOAWAY, 0, 0, "00000000 00000000"));
  expect((await heard.over()).loss?.kind).toBe("unprocessed");
  await peer.end();
  expect(ends.goaways).toBe(1);
  expect(ends.closed).toHaveLength(1);
});

test("a server may reset every stream that it was sent without ending the client", async () => {
  const { peer, client, ends } = await rawToClient({ resetsMax: 10 });
  for (let i = 0; i < 100; i++) {
    const { heard } = ask(client, get());
    peer.send(rawFrame(SETTINGS, 1, 0));
    await peer.frame((frame) => frame.streamId === 2 * i + 1);
    peer.send(rawFrame(RST_STREAM, 0, 2 * i + 1, uint32(frames.REFUSED_STREAM)));
    expect((await heard.over()).loss?.kind).toBe("unprocessed");
  }
  expect(ends.closed).toEqual([]);
});
