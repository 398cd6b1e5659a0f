import { createServer, type Http2Server, type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { defaultsOf } from "../base/options.ts";
import type { Fields, RequestHead, ResponseHead } from "../http/message.ts";
import type { Loss, ResponseEvents } from "./exchange.ts";
import { http2Options } from "./http2-options.ts";
import { Http2Pool } from "./http2-pool.ts";
import { http1Options } from "./options.ts";

const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

interface Routee {
  readonly port: number;
  readonly sessions: ServerHttp2Session[];
  readonly streams: ServerHttp2Stream[];
}

/** Answers when the test says so, unless `answer` does. */
async function routee(
  answer: (stream: ServerHttp2Stream) => void = () => undefined,
  settings: { maxConcurrentStreams?: number } = {},
): Promise<Routee> {
  const server: Http2Server = createServer({ settings });
  const made = { port: 0, sessions: [] as ServerHttp2Session[], streams: [] as ServerHttp2Stream[] };
  server.on("session", (session) => {
    made.sessions.push(session);
    ends.push(() => session.destroy());
  });
  server.on("stream", (stream: ServerHttp2Stream) => {
    stream.on("error", () => undefined);
    made.streams.push(stream);
    answer(stream);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  ends.push(() => server.close());
  made.port = (server.address() as AddressInfo).port;
  return made;
}

function pooled(
  port: number,
  wish: { routeeConnectionsMax?: number; routeeQueueMax?: number; streamsMax?: number } = {},
) {
  const clock = new ManualClock();
  const { routeeQueueMax, ...http2 } = wish;
  const pool = new Http2Pool({
    target: { host: "127.0.0.1", port },
    clock,
    routee: { ...defaultsOf(http1Options), ...(routeeQueueMax === undefined ? {} : { routeeQueueMax }) },
    http2: { ...defaultsOf(http2Options), ...http2 },
  });
  ends.push(() => pool.close(0));
  return { pool, clock };
}

class Heard implements ResponseEvents {
  heads: ResponseHead[] = [];
  chunks: Buffer[] = [];
  trailers: Fields | undefined;
  loss: Loss | undefined;
  readonly over: Promise<this>;
  #over: (heard: this) => void = () => undefined;
  consume: (bytes: number) => void = () => undefined;

  constructor() {
    this.over = new Promise((resolve) => (this.#over = resolve));
  }

  informed(): void {}
  head(head: ResponseHead, end: boolean): void {
    this.heads.push(head);
    if (end) this.#over(this);
  }
  data(chunk: Buffer): void {
    this.chunks.push(chunk);
    this.consume(chunk.length);
  }
  end(trailers: Fields | undefined): void {
    this.trailers = trailers;
    this.#over(this);
  }
  aborted(loss: Loss): void {
    this.loss = loss;
    this.#over(this);
  }
  drained(): void {}

  get text(): string {
    return Buffer.concat(this.chunks).toString();
  }
}

const get: RequestHead = { method: "GET", scheme: "http", authority: "a", path: "/", fields: [], bodyLength: 0 };
const post: RequestHead = { ...get, method: "POST", bodyLength: -1 };

function ask(pool: Http2Pool): Heard {
  const heard = new Heard();
  pool.request(get, true, heard);
  return heard;
}

const ok = (stream: ServerHttp2Stream): void => {
  stream.respond({ ":status": 200 });
  stream.end("ok");
};

test("requests of one moment share one connection, and bodies and trailers cross whole", async () => {
  const { port, sessions } = await routee((stream) => {
    stream.respond({ ":status": 200 }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
    stream.pipe(stream);
  });
  const { pool } = pooled(port);
  const body = Buffer.alloc(300_000, "0123456789");
  const all = Array.from({ length: 50 }, () => {
    const heard = new Heard();
    const exchange = pool.request(post, false, heard);
    heard.consume = (bytes) => exchange.consume(bytes);
    exchange.write(body);
    exchange.end();
    return heard.over;
  });
  for (const heard of await Promise.all(all)) {
    expect(heard.text === body.toString()).toBe(true);
    expect(heard.trailers).toEqual(["grpc-status", "0"]);
  }
  expect([sessions.length, pool.connections, pool.waiting]).toEqual([1, 1, 0]);
});

test("more connections are made only while all streams that the routee allows are in use, up to the bound", async () => {
  const { port, sessions, streams } = await routee(undefined, { maxConcurrentStreams: 2 });
  const { pool, clock } = pooled(port, { routeeConnectionsMax: 3 });
  const all = Array.from({ length: 9 }, () => ask(pool));
  await expect.poll(() => streams.length).toBe(6);
  expect([sessions.length, pool.connections, pool.waiting]).toEqual([3, 3, 3]);
  for (const stream of streams.slice()) ok(stream);
  await expect.poll(() => streams.length).toBe(9);
  expect(sessions.length).toBe(3);
  for (const stream of streams.slice(6)) ok(stream);
  expect((await Promise.all(all.map((heard) => heard.over))).map(({ text }) => text)).toEqual(Array(9).fill("ok"));
  // What was needed once comes of age; the first connection stays.
  await expect
    .poll(() => {
      clock.advance(1_000);
      return pool.connections;
    })
    .toBe(1);
  clock.advance(600_000);
  expect(pool.connections).toBe(1);
});

test("a request beyond the queue fails at once, as not processed", async () => {
  const { port, streams } = await routee(undefined, { maxConcurrentStreams: 1 });
  const { pool } = pooled(port, { routeeConnectionsMax: 1, routeeQueueMax: 1 });
  ask(pool);
  await expect.poll(() => streams.length).toBe(1);
  const second = ask(pool);
  const third = await ask(pool).over;
  expect(third.loss).toEqual({ kind: "unprocessed", because: "the queue for the routee is full" });
  expect(second.loss).toBeUndefined();
});

test("after GOAWAY what is under way ends on the old connection, and what comes goes to a new one", async () => {
  const { port, sessions, streams } = await routee();
  const { pool } = pooled(port);
  const first = ask(pool);
  await expect.poll(() => streams.length).toBe(1);
  const left = new Promise((resolve) => sessions[0]?.once("close", resolve));
  sessions[0]?.close();
  streams[0]?.respond({ ":status": 200 });
  // It comes behind the GOAWAY.
  await expect.poll(() => first.heads.length).toBe(1);
  const second = ask(pool);
  streams[0]?.end("ok");
  expect((await first.over).text).toBe("ok");
  await left;
  await expect.poll(() => streams.length).toBe(2);
  ok(streams[1] as ServerHttp2Stream);
  expect((await second.over).text).toBe("ok");
  expect(sessions.length).toBe(2);
});

test("a stream above the last one that GOAWAY names was not processed", async () => {
  const { port, sessions, streams } = await routee();
  const { pool } = pooled(port);
  const first = ask(pool);
  const second = ask(pool);
  await expect.poll(() => streams.length).toBe(2);
  sessions[0]?.goaway(0, 1);
  expect((await second.over).loss?.kind).toBe("unprocessed");
  expect(first.loss).toBeUndefined();
});

test("a stream that the routee refuses was not processed; one that it resets in other ways may have been", async () => {
  const codes = [0x7, 0x2];
  const { port } = await routee((stream) => stream.close(codes.shift()));
  const { pool } = pooled(port);
  expect((await ask(pool).over).loss?.kind).toBe("unprocessed");
  expect((await ask(pool).over).loss?.kind).toBe("lost");
});

test("a routee that is not there fails all who wait for it as not processed, and is found again when it is", async () => {
  const gone = await routee();
  const { pool } = pooled(gone.port);
  for (const end of ends.splice(0, ends.length - 1)) end();
  const lost = await Promise.all(Array.from({ length: 3 }, () => ask(pool).over));
  expect(lost.map(({ loss }) => [loss?.kind, /ECONNREFUSED/.test(loss?.because ?? "")])).toEqual(
    lost.map(() => ["unprocessed", true]),
  );
  const server = createServer();
  server.on("stream", ok);
  await new Promise<void>((resolve) => server.listen(gone.port, "127.0.0.1", resolve));
  ends.push(() => server.close());
  expect((await ask(pool).over).text).toBe("ok");
});

test("somebody who leaves the queue is not sent, and the next one is", async () => {
  const { port, streams } = await routee(undefined, { maxConcurrentStreams: 1 });
  const { pool } = pooled(port, { routeeConnectionsMax: 1 });
  const first = ask(pool);
  await expect.poll(() => streams.length).toBe(1);
  const left = new Heard();
  pool.request(get, true, left).abort({ kind: "cancelled", because: "left" });
  const third = ask(pool);
  ok(streams[0] as ServerHttp2Stream);
  await first.over;
  await expect.poll(() => streams.length).toBe(2);
  ok(streams[1] as ServerHttp2Stream);
  await third.over;
  expect([streams.length, left.heads, left.loss]).toEqual([2, [], undefined]);
});

test("a closed pool takes nothing, and lets what is under way end", async () => {
  const { port, streams } = await routee();
  const { pool } = pooled(port);
  const first = ask(pool);
  await expect.poll(() => streams.length).toBe(1);
  pool.close(1_000);
  expect((await ask(pool).over).loss).toEqual({ kind: "unprocessed", because: "the pool is closed" });
  ok(streams[0] as ServerHttp2Stream);
  expect((await first.over).text).toBe("ok");
  await expect.poll(() => pool.connections).toBe(0);
});
