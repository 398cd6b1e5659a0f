import { duplexPair } from "node:stream";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  Heard,
  ask,
  bothEnds,
  contextOf,
  echo,
  endsOf,
  facts,
  get,
  optionsWith,
  rawToClient,
  rawToServer,
} from "../../test/support/http2-pair.ts";
import { RawPeer, rawFields, rawFrame, rawPreface, uint32 } from "../../test/support/http2-raw.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import * as frames from "../http/http2/frames.ts";
import type { ServerExchange } from "./exchange.ts";
import { connectHttp2 } from "./http2-client.ts";
import { serveHttp2 } from "./http2-server.ts";

const { DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY } = frames;
const END = frames.END_STREAM;
const WHOLE = frames.END_HEADERS;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("a request and its answer arrive with body, trailers and length", async () => {
  const { client } = await bothEnds(echo);
  const { exchange, heard } = ask(client, { ...get("/a?b=c", ["x-a", "1"], "POST"), bodyLength: 5 }, false);
  exchange.write(Buffer.from("he"));
  exchange.write(Buffer.from("llo"));
  exchange.end(["X-Sum", "9"]);
  await heard.over();
  expect(heard.heads).toEqual([{ status: 200, fields: ["x-path", "/a?b=c"], bodyLength: 5 }]);
  expect([heard.body, heard.trailers]).toEqual(["hello", ["x-sum", "9"]]);
  expect(client.exchanges).toBe(0);
});

test("a thousand requests at once are each answered with their own path", async () => {
  const { client } = await bothEnds(echo);
  const all = Array.from({ length: 1_000 }, (_, i) => ask(client, get(`/${i}`)).heard);
  expect(client.request(get(), true, new Heard())).toBeUndefined();
  await Promise.all(all.map((heard) => heard.over()));
  for (const [i, heard] of all.entries()) expect(heard.heads[0]?.fields).toEqual(["x-path", `/${i}`]);
});

test("interim answers come before the answer", async () => {
  const { client } = await bothEnds((exchange) => {
    exchange.inform({ status: 103, fields: ["link", "</a>"], bodyLength: 0 });
    echo(exchange);
  });
  const { heard } = ask(client, get());
  await heard.over();
  expect(heard.log).toEqual(["informed 103", "head 200 end"]);
});

test("CONNECT carries both directions, and its head has no path", async () => {
  const heads: unknown[] = [];
  const { client } = await bothEnds((exchange) => {
    heads.push(exchange.head);
    exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
    exchange.listen({
      data(chunk) {
        exchange.consume(chunk.length);
        exchange.write(Buffer.from(chunk.toString().toUpperCase()));
      },
      end: () => exchange.end(),
      aborted() {},
      drained() {},
    });
  });
  const { exchange, heard } = ask(
    client,
    { method: "CONNECT", scheme: "", authority: "db:5432", path: "", fields: [], bodyLength: -1 },
    false,
  );
  exchange.write(Buffer.from("a"));
  await heard.until(() => heard.body === "A");
  exchange.write(Buffer.from("b"));
  exchange.end();
  await heard.over();
  expect(heard.body).toBe("AB");
  expect(heads).toEqual([
    { method: "CONNECT", scheme: "", authority: "db:5432", path: "", fields: [], bodyLength: -1 },
  ]);
});

test("all that is said in one turn leaves in one write", async () => {
  const [near, far] = duplexPair();
  const writes: number[] = [];
  const write = near.write.bind(near) as (chunk: Buffer, done: () => void) => boolean;
  near.write = ((chunk: Buffer, done: () => void) => {
    writes.push(chunk.length);
    return write(chunk, done);
  }) as typeof near.write;
  const { client } = await bothEnds(echo, { sockets: [near, far] });
  await turn();
  await turn();
  writes.length = 0;
  const all = Array.from({ length: 50 }, () => ask(client, get()).heard);
  await turn();
  expect(writes).toHaveLength(1);
  await Promise.all(all.map((heard) => heard.over()));
});

test("END_STREAM rides on the last frame of the body", async () => {
  const { peer } = rawToServer(echo);
  peer.send(
    rawFrame(HEADERS, WHOLE, 1, rawFields([":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a"])),
  );
  peer.send(rawFrame(DATA, END, 1, "616263"));
  await peer.frame((frame) => frame.type === DATA);
  expect(peer.frames.filter((frame) => frame.streamId === 1).map((frame) => [frame.type, frame.flags])).toEqual([
    [HEADERS, WHOLE],
    [DATA, END],
  ]);
});

test("what HTTP/2 cannot carry ends its exchange as invalid, and the next one works", async () => {
  const { client, atClient } = await bothEnds((exchange) => {
    if (exchange.head.path !== "/bad") return echo(exchange);
    exchange.listen(new Heard());
    return exchange.respond({ status: 200, fields: ["x-a", "a\r\nx-b: c"], bodyLength: 0 }, true);
  });
  for (let i = 0; i < 3; i++) {
    expect((await ask(client, get("/", ["x-a", "a\nb"])).heard.over()).loss?.kind).toBe("invalid");
    expect((await ask(client, get("/bad")).heard.over()).loss?.kind).toBe("lost");
    expect((await ask(client, get("/", ["x-a", "fine"])).heard.over()).heads).toHaveLength(1);
  }
  expect(atClient.closed).toEqual([]);
});

describe("flow control", () => {
  test("no more than the stream's window arrives unconsumed, and consuming lets the rest come", async () => {
    let exchange: ServerExchange | undefined;
    const heard = new Heard();
    const { client } = await bothEnds((arrived) => {
      exchange = arrived;
      arrived.listen(heard);
    });
    const upload = ask(client, get("/", [], "POST"), false);
    expect(upload.exchange.write(Buffer.alloc(1_000_000))).toBe(false);
    await heard.until(() => heard.bytes >= 262_144);
    for (let i = 0; i < 10; i++) await turn();
    expect(heard.bytes).toBe(262_144);
    heard.consumes = exchange;
    upload.heard.onDrained = () => upload.exchange.end();
    exchange?.consume(262_144);
    await heard.over();
    expect(heard.bytes).toBe(1_000_000);
    expect(upload.heard.drains).toBe(1);
  });

  test("a stream that is not consumed does not stop the others, and its end gives the connection's window back", async () => {
    const kept: ServerExchange[] = [];
    const { client } = await bothEnds((exchange) => {
      if (exchange.head.path !== "/keep") return echo(exchange);
      kept.push(exchange);
      return exchange.listen(new Heard());
    });
    for (let round = 0; round < 3; round++) {
      const uploads = [1, 2, 3].map(() => ask(client, get("/keep", [], "POST"), false));
      for (const { exchange } of uploads) exchange.write(Buffer.alloc(300_000));
      const other = ask(client, get("/", [], "POST"), false);
      other.exchange.write(Buffer.alloc(200_000, "x"));
      other.exchange.end();
      expect((await other.heard.over()).bytes).toBe(200_000);
      for (const exchange of kept.splice(0)) exchange.abort({ kind: "lost", because: "a test" });
      for (const { heard } of uploads) expect((await heard.over()).loss?.kind).toBe("lost");
    }
  });

  test("fifty streams that nobody consumes do not stop another, with the limits that a sidecar has", async () => {
    const { client } = await bothEnds((exchange) => {
      if (exchange.head.path === "/keep") return exchange.listen(new Heard());
      return echo(exchange);
    });
    for (let i = 0; i < 50; i++) ask(client, get("/keep", [], "POST"), false).exchange.write(Buffer.alloc(300_000));
    const other = ask(client, get("/", [], "POST"), false);
    other.exchange.write(Buffer.alloc(200_000, "x"));
    other.exchange.end();
    expect((await other.heard.over()).bytes).toBe(200_000);
  });

  test("bodies in both directions under any windows, chunks and order of consuming arrive whole", async () => {
    const plan = fc.record({
      seed: fc.integer(),
      streams: fc.integer({ min: 1, max: 8 }),
      bytes: fc.integer({ min: 0, max: 300_000 }),
      clientWindow: fc.constantFrom(65_535, 70_000, 262_144),
      serverWindow: fc.constantFrom(65_535, 70_000, 262_144),
      connectionWindow: fc.constantFrom(65_535, 100_000, 1_048_576),
      room: fc.constantFrom(0, 20_000, 300_000, 1_048_576),
      output: fc.constantFrom(32_768, 262_144),
    });
    await fc.assert(
      fc.asyncProperty(
        plan,
        async ({ seed, streams, bytes, clientWindow, serverWindow, connectionWindow, room, output }) => {
          const random = new SeededRandom(seed);
          const windows = { client: clientWindow, server: serverWindow };
          const limits = (side: "client" | "server") => ({
            streamWindowBytes: windows[side],
            connectionWindowBytes: connectionWindow,
            heldBytesMax: room,
            outputBytes: output,
          });
          const late: (() => void)[] = [];
          let unconsumed = 0;
          let unconsumedMost = 0;
          const { client } = await bothEnds(
            (exchange) => {
              exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
              // What a stream holds that has ended is given back with it, consumed or not.
              let held = 0;
              exchange.listen({
                data(chunk) {
                  unconsumed += chunk.length;
                  held += chunk.length;
                  unconsumedMost = Math.max(unconsumedMost, unconsumed);
                  exchange.write(chunk);
                  late.push(() => {
                    const counted = Math.min(held, chunk.length);
                    held -= counted;
                    unconsumed -= counted;
                    exchange.consume(chunk.length);
                  });
                },
                end(trailers) {
                  unconsumed -= held;
                  held = 0;
                  exchange.end(trailers);
                },
                aborted() {},
                drained() {},
              });
            },
            { client: limits("client"), server: limits("server") },
          );
          const sent = Buffer.from(random.bytes(1_024));
          const runs = Array.from({ length: streams }, () => {
            const { exchange, heard } = ask(client, get("/", [], "POST"), false);
            let left = bytes;
            const feed = (): void => {
              while (left > 0) {
                const size = Math.min(left, 1 + Math.floor(random.draw() * 40_000));
                left -= size;
                if (!exchange.write(Buffer.alloc(size, sent))) return;
              }
              exchange.end(["x-sum", "1"]);
            };
            heard.onDrained = feed;
            feed();
            return heard;
          });
          const open = { streams: true };
          const done = Promise.all(runs.map((heard) => heard.over())).then(() => (open.streams = false));
          while (open.streams) {
            for (let i = late.length; i > 0; i--) late.splice(Math.floor(random.draw() * late.length), 1)[0]?.();
            await turn();
          }
          await done;
          for (const heard of runs)
            expect([heard.loss, heard.bytes, heard.trailers]).toEqual([undefined, bytes, ["x-sum", "1"]]);
          expect(unconsumedMost).toBeLessThanOrEqual(frames.WINDOW_DEFAULT + room);
        },
      ),
      { numRuns: 25 },
    );
  });
});

describe("losses at the client", () => {
  const resets: [number, string][] = [
    [frames.REFUSED_STREAM, "unprocessed"],
    [frames.CANCEL, "cancelled"],
    [frames.INTERNAL_ERROR, "lost"],
    [frames.NO_ERROR, "lost"],
    [frames.ENHANCE_YOUR_CALM, "lost"],
  ];
  for (const [code, kind] of resets) {
    test(`RST_STREAM with ${frames.errorName(code)} is ${kind}`, async () => {
      const { peer, client } = await rawToClient();
      const { heard } = ask(client, get());
      await peer.frame((frame) => frame.type === HEADERS);
      peer.send(rawFrame(RST_STREAM, 0, 1, uint32(code)));
      expect((await heard.over()).loss?.kind).toBe(kind);
    });
  }

  test("REFUSED_STREAM after an answer began is lost: the server did something", async () => {
    const { peer, client } = await rawToClient();
    const { heard } = ask(client, get());
    await peer.frame((frame) => frame.type === HEADERS);
    peer.send(rawFrame(HEADERS, WHOLE, 1, "88"), rawFrame(RST_STREAM, 0, 1, uint32(frames.REFUSED_STREAM)));
    expect((await heard.over()).loss?.kind).toBe("lost");
  });

  test("NO_ERROR after a whole answer only stops the upload", async () => {
    const { peer, client } = await rawToClient();
    const { heard, exchange } = ask(client, get("/", [], "POST"), false);
    await peer.frame((frame) => frame.type === HEADERS);
    peer.send(rawFrame(HEADERS, WHOLE | END, 1, "88"), rawFrame(RST_STREAM, 0, 1, uint32(0)));
    await heard.until(() => heard.loss !== undefined);
    expect(heard.log).toEqual(["head 200 end", "aborted cancelled"]);
    expect(exchange.write(Buffer.from("late"))).toBe(true);
    expect(client.exchanges).toBe(0);
  });

  test("GOAWAY leaves what is above its last stream unprocessed, and the rest goes on", async () => {
    const { peer, client, ends } = await rawToClient();
    const first = ask(client, get());
    const second = ask(client, get());
    await peer.frame((frame) => frame.streamId === 3);
    peer.send(rawFrame(GOAWAY, 0, 0, "00000001 00000000"));
    expect((await second.heard.over()).loss?.kind).toBe("unprocessed");
    expect([client.open, client.exchanges, ends.goaways]).toEqual([false, 1, 1]);
    expect(client.request(get(), true, new Heard())).toBeUndefined();
    peer.send(rawFrame(HEADERS, WHOLE | END, 1, "88"));
    expect((await first.heard.over()).loss).toBeUndefined();
    await peer.end();
    expect(ends.closed).toHaveLength(1);
  });

  test("a connection that ends loses what was sent, and leaves unprocessed what was not", async () => {
    const { peer, client, ends } = await rawToClient();
    const sent = ask(client, get());
    await peer.frame((frame) => frame.type === HEADERS);
    const unsent = ask(client, get());
    client.destroy("a test");
    expect([sent.heard.loss?.kind, unsent.heard.loss?.kind]).toEqual(["lost", "unprocessed"]);
    expect(ends.closed).toEqual(["a test"]);
    expect(client.request(get(), true, new Heard())).toBeUndefined();
  });

  test("a server that ends in the middle of an answer loses it", async () => {
    const { peer, client } = await rawToClient();
    const { heard } = ask(client, get());
    await peer.frame((frame) => frame.type === HEADERS);
    peer.send(rawFrame(HEADERS, WHOLE, 1, "88"));
    await heard.until(() => heard.heads.length === 1);
    peer.socket.destroy();
    expect((await heard.over()).loss?.kind).toBe("lost");
  });

  test("a server that breaks the protocol makes every exchange invalid", async () => {
    const { peer, client } = await rawToClient();
    const { heard } = ask(client, get());
    await peer.frame((frame) => frame.type === HEADERS);
    peer.send(rawFrame(PING, 0, 0, "00"));
    expect((await heard.over()).loss?.kind).toBe("invalid");
  });
});

describe("losses at the server", () => {
  async function lossAfter(last: (peer: RawPeer) => void): Promise<string | undefined> {
    const heard = new Heard();
    const { peer } = rawToServer((exchange) => exchange.listen(heard));
    peer.send(
      rawFrame(HEADERS, WHOLE, 1, rawFields([":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a"])),
    );
    peer.send(rawFrame(PING, 0, 0, "0000000000000000"));
    await peer.frame((frame) => frame.type === PING);
    last(peer);
    return (await heard.over()).loss?.kind;
  }
  test("CANCEL is cancelled", async () => {
    expect(await lossAfter((peer) => peer.send(rawFrame(RST_STREAM, 0, 1, uint32(frames.CANCEL))))).toBe("cancelled");
  });
  test("another code is lost", async () => {
    expect(await lossAfter((peer) => peer.send(rawFrame(RST_STREAM, 0, 1, uint32(frames.INTERNAL_ERROR))))).toBe(
      "lost",
    );
  });
  test("a client that goes away is cancelled", async () => {
    expect(await lossAfter((peer) => peer.socket.destroy())).toBe("cancelled");
  });
  test("a client that breaks the protocol is invalid", async () => {
    expect(await lossAfter((peer) => peer.send(rawFrame(PING, 0, 0, "00")))).toBe("invalid");
  });
});

describe("giving an exchange up", () => {
  test("at the client is CANCEL, and nothing is heard any more", async () => {
    const heard = new Heard();
    const { client } = await bothEnds((exchange) => exchange.listen(heard));
    const asked = ask(client, get());
    await turn();
    asked.exchange.abort({ kind: "cancelled", because: "a test" });
    expect((await heard.over()).loss?.kind).toBe("cancelled");
    expect(asked.heard.log).toEqual([]);
    expect(client.exchanges).toBe(0);
  });

  const codes: [Parameters<ServerExchange["abort"]>[0]["kind"], string][] = [
    ["unprocessed", "unprocessed"],
    ["lost", "lost"],
    ["invalid", "lost"],
    ["cancelled", "cancelled"],
  ];
  for (const [kind, seen] of codes) {
    test(`at the server as ${kind} is seen as ${seen}`, async () => {
      const { client } = await bothEnds((exchange) => {
        exchange.listen(new Heard());
        exchange.abort({ kind, because: "a test" });
        exchange.respond({ status: 200, fields: [], bodyLength: 0 }, true);
      });
      const { heard } = ask(client, get());
      expect((await heard.over()).loss?.kind).toBe(seen);
    });
  }
});

describe("beginning", () => {
  test("before the server's settings nothing but preface and settings is sent, and no request taken", async () => {
    const [near, far] = duplexPair();
    const peer = new RawPeer(near, rawPreface.length);
    const ends = endsOf();
    const connecting = connectHttp2(far, contextOf(ends, optionsWith()));
    await peer.frame((frame) => frame.type === SETTINGS);
    await turn();
    expect(peer.said()).toBe("4/0 on 0 (24)");
    peer.send(rawFrame(SETTINGS, 0, 0));
    expect((await connecting).open).toBe(true);
  });

  test("a connection that ends before the server's settings is a connect failure", async () => {
    for (const last of ["end", "destroy"] as const) {
      const [near, far] = duplexPair();
      const ends = endsOf();
      const connecting = connectHttp2(far, contextOf(ends, optionsWith()));
      near[last]();
      near.resume();
      await expect(connecting).rejects.toMatchObject({ code: "CONNECT_FAILED" });
      expect(ends.closed).toHaveLength(1);
    }
  });

  test("a server that sends no settings is a connect failure when its time is over", async () => {
    const [, far] = duplexPair();
    const ends = endsOf();
    const connecting = connectHttp2(far, contextOf(ends, optionsWith()));
    ends.clock.advance(10_000);
    await expect(connecting).rejects.toMatchObject({ code: "CONNECT_FAILED" });
  });

  test("a client that speaks HTTP/1.1 is cut off", async () => {
    const [near, far] = duplexPair();
    const ends = endsOf();
    serveHttp2(far, facts, echo, contextOf(ends, optionsWith()));
    const peer = new RawPeer(near).send(Buffer.from("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    await peer.end();
    expect(peer.said()).toContain("GOAWAY 0 1");
  });

  test("what was read before is served first", async () => {
    const [near, far] = duplexPair();
    const request = rawFrame(
      HEADERS,
      WHOLE | END,
      1,
      rawFields([":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a"]),
    );
    serveHttp2(
      far,
      facts,
      echo,
      contextOf(endsOf(), optionsWith()),
      Buffer.concat([rawPreface, rawFrame(SETTINGS, 0, 0), request.subarray(0, 12)]),
    );
    const peer = new RawPeer(near).send(request.subarray(12));
    await peer.frame((frame) => frame.streamId === 1 && (frame.flags & END) !== 0);
  });

  test("a socket that was closed before is over in the next turn", async () => {
    const [near, far] = duplexPair();
    near.destroy();
    far.destroy();
    const ends = endsOf();
    serveHttp2(far, facts, echo, contextOf(ends, optionsWith()));
    await expect(connectHttp2(near, contextOf(endsOf(), optionsWith()))).rejects.toMatchObject({
      code: "CONNECT_FAILED",
    });
    expect(ends.closed).toHaveLength(1);
  });
});

describe("draining", () => {
  test("a server says goodbye twice, serves what came before, and closes", async () => {
    const held: ServerExchange[] = [];
    const { peer, server, ends } = rawToServer((exchange) => {
      exchange.listen(new Heard());
      held.push(exchange);
    });
    const request = (id: number): Buffer =>
      rawFrame(
        HEADERS,
        WHOLE | END,
        id,
        rawFields([":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a"]),
      );
    peer.send(request(1), rawFrame(PING, 0, 0, "0000000000000000"));
    await peer.frame((frame) => frame.type === PING);
    server.drain(30_000);
    await peer.frame((frame) => frame.type === GOAWAY);
    const asked = await peer.frame((frame) => frame.type === PING && frame.flags === 0);
    peer.send(request(3), rawFrame(PING, 1, 0, asked.payload), request(5));
    await peer.until(() => peer.frames.filter((frame) => frame.type === GOAWAY).length === 2);
    expect(peer.said()).toContain("GOAWAY 2147483647 0");
    expect(peer.said()).toContain("GOAWAY 3 0");
    expect(held).toHaveLength(2);
    for (const exchange of held) exchange.respond({ status: 200, fields: [], bodyLength: 0 }, true);
    await peer.end();
    expect(ends.closed).toEqual(["drained"]);
    expect(peer.frames.filter((frame) => frame.type === HEADERS)).toHaveLength(2);
  });

  test("a server whose exchanges do not end closes when the time is over", async () => {
    const heard = new Heard();
    const { client, server, atServer } = await bothEnds((exchange) => exchange.listen(heard));
    const asked = ask(client, get());
    await turn();
    server.drain(5_000);
    await turn();
    atServer.clock.advance(5_000);
    expect(heard.loss?.kind).toBe("cancelled");
    expect((await asked.heard.over()).loss?.kind).toBe("lost");
    expect(atServer.closed).toEqual(["drained as long as allowed"]);
  });

  test("a drain that is asked for again has the time of the last, at both ends", async () => {
    for (const [first, last] of [
      [5_000, 60_000],
      [60_000, 5_000],
    ] as const) {
      const { client, server, atServer, atClient } = await bothEnds((exchange) => exchange.listen(new Heard()));
      const { heard } = ask(client, get());
      await turn();
      for (const end of [server, client]) {
        end.drain(first);
        end.drain(last);
      }
      await turn();
      atServer.clock.advance(last - 1);
      atClient.clock.advance(last - 1);
      await turn();
      expect([atServer.closed, atClient.closed, heard.loss]).toEqual([[], [], undefined]);
      atServer.clock.advance(1);
      expect(atServer.closed).toEqual(["drained as long as allowed"]);
      atClient.clock.advance(1);
      expect(atClient.closed).toHaveLength(1);
    }
  });

  test("no request is lost when a server drains under load", async () => {
    const { client, server } = await bothEnds(echo);
    const all: Heard[] = [];
    for (let i = 0; i < 50; i++) {
      const heard = new Heard();
      const exchange = client.request(get(), true, heard);
      if (exchange === undefined) break;
      heard.consumes = exchange;
      all.push(heard);
      if (i === 20) server.drain(10_000);
      await turn();
    }
    await Promise.all(all.map((heard) => heard.over()));
    for (const heard of all) expect([undefined, "unprocessed"]).toContain(heard.loss?.kind);
    expect(all.filter((heard) => heard.loss === undefined).length).toBeGreaterThan(20);
  });

  test("a client takes no new request, waits for its last one, and closes", async () => {
    const { client, atClient } = await bothEnds(echo);
    const { heard } = ask(client, get());
    client.drain(5_000);
    expect(client.open).toBe(false);
    expect(client.request(get(), true, new Heard())).toBeUndefined();
    expect((await heard.over()).loss).toBeUndefined();
    expect(atClient.closed).toEqual(["drained"]);
  });

  test("an idle client closes at once", async () => {
    const { client, atClient } = await bothEnds(echo);
    client.drain(5_000);
    expect(atClient.closed).toEqual(["drained"]);
  });
});
