import { once } from "node:events";
import { createServer as createHttp2Server, type ServerHttp2Stream } from "node:http2";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { Duplex, duplexPair } from "node:stream";
import { afterEach, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { defaultsOf } from "../base/options.ts";
import type { RequestHead } from "../http/message.ts";
import type { BodyEvents, ConnectionFacts, Handler, Loss, ResponseEvents, ServerConnection } from "./exchange.ts";
import { BodyRoom } from "./body-room.ts";
import { connectHttp1 } from "./http1-client.ts";
import { Http1Pool } from "./http1-pool.ts";
import { serveHttp1 } from "./http1-server.ts";
import { Ticker } from "./http1-ticker.ts";
import { Http1Writer } from "./http1-writer.ts";
import { connectHttp2 } from "./http2-client.ts";
import { http2Options } from "./http2-options.ts";
import { Http2Pool } from "./http2-pool.ts";
import { serveHttp2 } from "./http2-server.ts";
import { http1Options } from "./options.ts";
import { servePlain } from "./plain-server.ts";
import { dialRoutee } from "./routee-dial.ts";
import { serveTcp } from "./tcp-server.ts";
import { limitLife } from "./tls-life.ts";
import { inTurns } from "./turns.ts";

/** A bug of ours, thrown at each place that the system or a timer calls: it costs one connection, and is told once. */

const bug = (): never => {
  throw new Error("a bug");
};
const told = [{ message: "a bug" }];
const facts: ConnectionFacts = { protocol: "http/1.1", remoteAddress: "127.0.0.1", localPort: 1, peer: undefined };
const get: RequestHead = { method: "GET", scheme: "http", authority: "a", path: "/", fields: [], bodyLength: 0 };
const large = Buffer.alloc(16_000_000);

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

/** A connected pair. */
async function pair(): Promise<{ near: Socket; far: Socket }> {
  const server: Server = createServer({ allowHalfOpen: true });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const far = connect({ host: "127.0.0.1", port: (server.address() as AddressInfo).port });
  far.on("error", () => undefined);
  const [near] = (await once(server, "connection")) as [Socket];
  near.on("error", () => undefined);
  server.close();
  closers.push(
    () => near.destroy(),
    () => far.destroy(),
  );
  return { near, far };
}

function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => void socket.once("close", () => resolve()));
}

class Deaf implements ResponseEvents {
  loss: Loss | undefined;
  informed(): void {}
  head(): void {}
  data(): void {}
  end(): void {}
  aborted(loss: Loss): void {
    this.loss = loss;
  }
  drained(): void {}
}

test("a member of the ticker that throws keeps none of the others from their looks, then or later", () => {
  const clock = new ManualClock();
  const ticker = Ticker.of(clock);
  const heard: string[] = [];
  ticker.add({ tick: bug, broke: () => heard.push("broke") });
  ticker.add({ tick: () => heard.push("looked"), broke: bug });
  clock.advance(1_000);
  expect(heard).toEqual(["broke", "looked", "broke", "looked"]);
});

test("a member that throws even as it is told so keeps none of the others from their looks", () => {
  const clock = new ManualClock();
  const ticker = Ticker.of(clock);
  let looks = 0;
  ticker.add({ tick: bug, broke: bug });
  ticker.add({ tick: () => looks++, broke: bug });
  for (let i = 1; i <= 3; i++) {
    expect(() => clock.advance(500)).toThrow("a bug");
    expect(looks).toBe(i);
  }
});

test("a connection whose life cannot be looked at ends", () => {
  const clock = new ManualClock();
  const faults: unknown[] = [];
  let ended = 0;
  limitLife(
    { onEnding: bug, onEnd: () => void ended++, onFault: (thrown) => void faults.push(thrown) },
    { clock, endsAtMs: clock.wallMs() + 10_000, leadMs: 5_000 },
  );
  clock.advance(60_000);
  expect([ended, faults]).toMatchObject([1, told]);
});

test("what is done in turns with each of many is done with those behind one that throws", async () => {
  const faults: unknown[] = [];
  const done: number[] = [];
  inTurns(new Set([1, 2, 3, 4]), { perTurn: 2, onFault: (thrown) => faults.push(thrown) }, (member) => {
    if (member === 4 || member === 1) bug();
    done.push(member);
  });
  await expect.poll(() => done).toEqual([3, 2]);
  await expect.poll(() => faults).toHaveLength(2);
});

test("sockets that are flushed at the end of a turn leave behind one that throws, and that one is closed", async () => {
  const faults: unknown[] = [];
  const written: string[] = [];
  const sink = (write: (text: string) => void): Socket =>
    Object.assign(new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() }), {
      write: (text: string) => (write(text), true),
    }) as unknown as Socket;
  const [broken, good] = [sink(bug), sink((text) => written.push(text))];
  for (const socket of [broken, good]) {
    const writer = new Http1Writer(socket, (thrown) => faults.push(thrown));
    writer.text("hello");
    writer.plan();
  }
  await expect.poll(() => written).toEqual(["hello"]);
  expect([broken.destroyed, good.destroyed, faults]).toMatchObject([true, false, told]);
});

/** A server connection whose one request is heard by `events`. */
async function served(events: Partial<BodyEvents>, answer: (exchange: Parameters<Handler>[0]) => void) {
  const { near, far } = await pair();
  const faults: unknown[] = [];
  const clock = new ManualClock();
  let asked: () => void = () => undefined;
  const request = new Promise<void>((resolve) => (asked = resolve));
  const whole: BodyEvents = { data() {}, end() {}, aborted() {}, drained() {}, ...events };
  const handler: Handler = (exchange) => {
    exchange.listen(whole);
    answer(exchange);
    asked();
  };
  const connection = serveHttp1(near, facts, handler, {
    clock,
    options: defaultsOf(http1Options),
    onFault: (thrown) => faults.push(thrown),
  });
  far.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  await request;
  return { near, far, clock, faults, connection };
}

const answerLarge: Parameters<typeof served>[1] = (exchange) => {
  exchange.respond({ status: 200, fields: [], bodyLength: large.length }, false);
  exchange.write(large);
};

test("a bug as a server's socket takes more ends its connection", async () => {
  const { near, far, faults } = await served({ drained: bug }, answerLarge);
  far.resume();
  await closed(near);
  expect(faults).toMatchObject(told);
});

test("a bug as a server's exchange hears of the connection's end is told, whatever ended it", async () => {
  const ways: ((scene: Awaited<ReturnType<typeof served>>) => void)[] = [
    ({ far }) => far.destroy(),
    ({ far }) => far.resetAndDestroy(),
    ({ near }) => near.destroy(),
    ({ connection, clock }) => {
      connection.drain(10);
      clock.advance(10);
    },
  ];
  for (const end of ways) {
    const scene = await served({ aborted: bug }, answerLarge);
    const over = closed(scene.near);
    end(scene);
    await over;
    expect(scene.faults).toMatchObject(told);
  }
});

test("a bug as the ticker looks at a server's connection ends that one", async () => {
  const [first, second] = [await served({}, answerLarge), await served({}, answerLarge)];
  Object.defineProperty(first.near, "bytesWritten", { get: bug });
  first.clock.advance(1_000);
  second.clock.advance(1_000);
  await closed(first.near);
  expect([first.faults[0], second.faults, second.near.destroyed]).toMatchObject([{ message: "a bug" }, [], false]);
});

/** A client connection with one request under way, whose answer `events` hears. */
async function asking(events: Partial<ResponseEvents>, onClosed: () => void = () => undefined) {
  const { near, far } = await pair();
  const faults: unknown[] = [];
  const clock = new ManualClock();
  const connection = connectHttp1(near, {
    clock,
    random: new SeededRandom(1),
    options: defaultsOf(http1Options),
    onClosed,
    onFault: (thrown) => faults.push(thrown),
  });
  const exchange = connection.request(
    { ...get, method: "POST", bodyLength: large.length },
    false,
    Object.assign(new Deaf(), events),
  );
  exchange?.write(large);
  return { near, far, clock, faults, connection };
}

test("a bug as a client's socket takes more ends its connection", async () => {
  const { near, far, faults } = await asking({ drained: bug });
  far.resume();
  await closed(near);
  expect(faults).toMatchObject(told);
});

test("a bug as who asked, or the pool, hears of a client connection's end is told, whatever ended it", async () => {
  const ways: ((scene: Awaited<ReturnType<typeof asking>>) => void)[] = [
    ({ far }) => far.destroy(),
    ({ near }) => near.destroy(),
    ({ connection }) => connection.destroy("in the test"),
    ({ connection, clock }) => {
      connection.drain(10);
      clock.advance(10);
    },
  ];
  for (const end of ways) {
    const [one, two] = [await asking({ aborted: bug }), await asking({}, bug)];
    for (const scene of [one, two]) {
      const over = closed(scene.near);
      end(scene);
      await over;
      expect(scene.faults).toMatchObject(told);
    }
  }
});

test("a bug as who asked hears that a request cannot be written is told", async () => {
  const { near } = await pair();
  const faults: unknown[] = [];
  const connection = connectHttp1(near, {
    clock: new ManualClock(),
    random: new SeededRandom(1),
    options: defaultsOf(http1Options),
    onFault: (thrown) => faults.push(thrown),
  });
  connection.request({ ...get, path: "/ \r\n" }, true, Object.assign(new Deaf(), { aborted: bug }));
  await expect.poll(() => faults).toMatchObject(told);
});

test("a bug in one of many who wait for a routee that is not there keeps none of the others from hearing so", async () => {
  const { near } = await pair();
  const port = near.localPort as number; // Nobody listens there any more.
  const faults: unknown[] = [];
  const onFault = (thrown: unknown): void => void faults.push(thrown);
  const clock = new ManualClock();
  const target = { host: "127.0.0.1", port };
  const options = defaultsOf(http1Options);
  const pools = [
    new Http1Pool({ target, clock, random: new SeededRandom(1), options, onFault }),
    new Http2Pool({ target, clock, routee: options, http2: defaultsOf(http2Options), onFault }),
  ];
  for (const pool of pools) {
    const other = new Deaf();
    pool.request(get, true, Object.assign(new Deaf(), { aborted: bug }));
    pool.request(get, true, other);
    await expect.poll(() => other.loss?.kind).toBe("unprocessed");
    expect(pool.waiting).toBe(0);
    pool.close(0);
  }
  expect(faults).toMatchObject([...told, ...told]);
});

test("a bug as the queue of a pool is full, or the pool is closed, is told", async () => {
  const faults: unknown[] = [];
  const clock = new ManualClock();
  const options = defaultsOf(http1Options);
  const onFault = (thrown: unknown): void => void faults.push(thrown);
  const pool = new Http2Pool({
    target: { host: "127.0.0.1", port: 1 },
    clock,
    routee: options,
    http2: defaultsOf(http2Options),
    onFault,
  });
  pool.close(0);
  pool.request(get, true, Object.assign(new Deaf(), { aborted: bug }));
  await expect.poll(() => faults).toMatchObject(told);
});

test("a bug in whoever gets the socket of a dial, or hears that there is none, closes the socket", async () => {
  const server = createServer((socket) => void socket.on("error", () => undefined));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closers.push(() => server.close());
  const { port } = server.address() as AddressInfo;
  for (const at of [port, 1]) {
    const faults: unknown[] = [];
    const terms = { clock: new ManualClock(), connectMs: 1_000, onFault: (thrown: unknown) => faults.push(thrown) };
    const socket = dialRoutee({ host: "127.0.0.1", port: at }, terms, { connected: bug, failed: bug });
    await closed(socket);
    expect(faults[0]).toMatchObject({ message: "a bug" });
  }
});

test("a bug as a TCP connection is told of its end, also for a bug's sake, is told and no more", async () => {
  const { near, far } = await pair();
  const faults: unknown[] = [];
  const handler: Handler = (exchange) => {
    exchange.listen({ data: bug, end() {}, aborted: bug, drained() {} });
    exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
  };
  serveTcp(near, { ...facts, protocol: "tcp" }, handler, {
    clock: new ManualClock(),
    options: defaultsOf(http1Options),
    onFault: (thrown) => faults.push(thrown),
  });
  far.write("hello");
  await closed(near);
  expect(faults).toMatchObject([...told, ...told]);
});

test("whoever throws as it hears of a TCP connection's end, however it came, hears of it once", async () => {
  const ways: ((scene: { near: Socket; server: ServerConnection }) => void)[] = [
    ({ near }) => near.destroy(),
    ({ server }) => server.destroy("in the test"),
  ];
  for (const end of ways) {
    const { near } = await pair();
    const faults: unknown[] = [];
    const handler: Handler = (exchange) => exchange.listen({ data() {}, end() {}, aborted: bug, drained() {} });
    const server = serveTcp(near, { ...facts, protocol: "tcp" }, handler, {
      clock: new ManualClock(),
      options: defaultsOf(http1Options),
      onFault: (thrown) => faults.push(thrown),
    });
    const over = closed(near);
    end({ near, server });
    await over;
    expect(faults).toMatchObject(told);
  }
});

test("a bug as the first bytes of a plain connection are handed on ends that connection", async () => {
  const { near, far } = await pair();
  const faults: unknown[] = [];
  const http2 = new Proxy(defaultsOf(http2Options), { get: bug });
  servePlain(near, facts, bug, {
    clock: new ManualClock(),
    http1: defaultsOf(http1Options),
    http2,
    onFault: (thrown) => faults.push(thrown),
  });
  far.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  await closed(near);
  expect(faults).toMatchObject(told);
});

test("a bug in the microtask that serves a pool's queue costs the request that waited, not those behind it", async () => {
  const streams: ServerHttp2Stream[] = [];
  const server = createHttp2Server({ settings: { maxConcurrentStreams: 1 } });
  server.on("stream", (stream: ServerHttp2Stream) => {
    stream.on("error", () => undefined);
    streams.push(stream);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const faults: unknown[] = [];
  const pool = new Http2Pool({
    target: { host: "127.0.0.1", port: (server.address() as AddressInfo).port },
    clock: new ManualClock(),
    routee: defaultsOf(http1Options),
    http2: { ...defaultsOf(http2Options), routeeConnectionsMax: 1 },
    onFault: (thrown) => faults.push(thrown),
  });
  closers.push(
    () => pool.close(0),
    () => server.close(),
  );
  pool.request(get, true, new Deaf());
  await expect.poll(() => streams.length).toBe(1);
  const [broken, behind] = [new Deaf(), new Deaf()];
  pool.request(Object.defineProperty({ ...get }, "scheme", { get: bug }), true, broken);
  pool.request(get, true, behind);
  streams[0]?.respond({ ":status": 200 });
  streams[0]?.end("ok");
  await expect.poll(() => streams.length).toBe(2);
  expect([broken.loss?.kind, behind.loss, faults]).toMatchObject(["lost", undefined, told]);
});

/** Both ends of an HTTP/2 connection in memory; what either was told of bugs. */
function http2Pair(handler: Handler) {
  const faults: unknown[] = [];
  const clock = new ManualClock();
  const [near, far] = duplexPair();
  const context = {
    clock,
    options: defaultsOf(http2Options),
    onClosed: () => undefined,
    onFault: (thrown: unknown) => void faults.push(thrown),
  };
  const server = serveHttp2(near, { ...facts, protocol: "h2" }, handler, context);
  return { near, far, clock, faults, server, client: connectHttp2(far, context) };
}

test("a bug in the middle of a block of fields costs its request; the fields of the next ones arrive as they were sent", async () => {
  const seen: string[][] = [];
  const { client } = http2Pair((exchange) => {
    seen.push(exchange.head.fields.slice());
    exchange.respond({ status: 200, fields: [], bodyLength: 0 }, true);
  });
  const connection = await client;
  const more = (value: string): RequestHead => ({ ...get, fields: ["x-one", value, "x-two", "b"] });
  const ask = async (head: RequestHead): Promise<void> => {
    const events = new Deaf();
    const over = new Promise<void>((resolve) => (events.head = resolve));
    connection.request(head, true, events);
    await over;
  };
  for (let i = 0; i < 3; i++) await ask(more("a"));
  const broken: string[] = ["x-new", "n", "x-newer", "n"];
  // Once for how long it may become, then as it is written.
  let reads = 0;
  Object.defineProperty(broken, 5, { get: () => (reads++ === 0 ? "n" : bug()) });
  broken[4] = "x-newest";
  expect(() => connection.request({ ...get, fields: broken }, true, new Deaf())).toThrow("a bug");
  for (const value of ["a", "c", "c"]) await ask(more(value));
  await ask({ ...get, fields: ["x-newer", "n"] });
  expect(seen.slice(3)).toEqual([
    ["x-one", "a", "x-two", "b"],
    ["x-one", "c", "x-two", "b"],
    ["x-one", "c", "x-two", "b"],
    ["x-newer", "n"],
  ]);
});

test("a bug as an HTTP/2 connection is written to at the end of a turn ends that connection", async () => {
  const { near, faults, client } = http2Pair(() => undefined);
  const connection = await client;
  near.write = bug;
  connection.request(get, true, new Deaf());
  await expect.poll(() => near.destroyed).toBe(true);
  expect(faults[0]).toMatchObject({ message: "a bug" });
});

test("a bug in a timer of an HTTP/2 connection ends that connection, not its clock", async () => {
  const { near, faults, client, server, clock } = http2Pair(() => undefined);
  const connection = await client;
  const over = new Promise<void>((resolve) => near.once("close", resolve));
  Object.defineProperty(near, "end", { value: bug });
  server.drain(10);
  expect(() => clock.advance(60_000)).not.toThrow();
  expect(faults[0]).toMatchObject({ message: "a bug" });
  connection.destroy("in the test");
  await over;
});

test("a bug in one connection that waits for room costs that one; who gave it and who waits behind are not concerned", () => {
  const room = new BodyRoom(100_000).share(1);
  const heard: string[] = [];
  const quiet = { reopen: () => undefined, broke: bug };
  room.take(100_000, quiet);
  room.take(50_000, { reopen: bug, broke: () => heard.push("broke") });
  room.take(50_000, { reopen: () => heard.push("reopened"), broke: bug });
  expect(() => room.give(100_000)).not.toThrow();
  expect(heard).toEqual(["broke", "reopened"]);
});
