import { once } from "node:events";
import { createServer as createHttpServer } from "node:http";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { defaultsOf } from "../base/options.ts";
import type { Fields, RequestHead, ResponseHead } from "../http/message.ts";
import type { ClientConnection, ClientExchange, Loss, ResponseEvents } from "./exchange.ts";
import { connectHttp1 } from "./http1-client.ts";
import { Http1Pool } from "./http1-pool.ts";
import { http1Options } from "./options.ts";

/** Lets the event loop turn until `holds`. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await turn();
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

const options = defaultsOf(http1Options);
const get: RequestHead = { method: "GET", scheme: "http", authority: "orders", path: "/a", fields: [], bodyLength: 0 };
const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const post: RequestHead = { ...get, method: "POST", bodyLength: -1 };

/** What one request hears. */
class Heard implements ResponseEvents {
  readonly interims: number[] = [];
  answer: ResponseHead | undefined;
  text = "";
  trailers: Fields | undefined;
  loss: Loss | undefined;
  drainedTimes = 0;
  onEnd: (() => void) | undefined;
  readonly over: Promise<void>;
  #over: () => void = () => undefined;

  constructor() {
    this.over = new Promise((resolve) => (this.#over = resolve));
  }

  informed(head: ResponseHead): void {
    this.interims.push(head.status);
  }

  head(head: ResponseHead, end: boolean): void {
    this.answer = head;
    if (end) this.#over();
  }

  data(chunk: Buffer): void {
    this.text += chunk.toString("latin1");
  }

  end(trailers: Fields | undefined): void {
    this.trailers = trailers;
    this.onEnd?.();
    this.#over();
  }

  aborted(loss: Loss): void {
    expect(this.loss).toBeUndefined();
    this.loss = loss;
    this.#over();
  }

  drained(): void {
    this.drainedTimes++;
  }
}

/** A server that says what the test tells it, and remembers what it was sent. */
async function upstream(onData: (socket: Socket, text: string) => void): Promise<{ port: number; sockets: Socket[] }> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on("data", (chunk: Buffer) => onData(socket, chunk.toString("latin1")));
    socket.on("error", () => undefined);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closers.push(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return { port: (server.address() as AddressInfo).port, sockets };
}

async function connected(
  port: number,
): Promise<{ client: ClientConnection; socket: Socket; closed: string[]; clock: ManualClock }> {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  closers.push(() => socket.destroy());
  const closed: string[] = [];
  const clock = new ManualClock();
  const client = connectHttp1(socket, {
    clock,
    random: new SeededRandom(1),
    options,
    onClosed: (because) => closed.push(because),
  });
  return { client, socket, closed, clock };
}

async function answered(
  text: string,
  head = get,
  thenEnd = false,
): Promise<{ heard: Heard; client: ClientConnection; socket: Socket }> {
  const { port } = await upstream((socket) => (thenEnd ? socket.end(text, "latin1") : socket.write(text, "latin1")));
  const { client, socket } = await connected(port);
  const heard = new Heard();
  client.request(head, true, heard);
  await heard.over;
  return { heard, client, socket };
}

test("a request is written in one piece, and the connection takes the next one", async () => {
  const seen: string[] = [];
  const { port } = await upstream((socket, text) => {
    seen.push(text);
    socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nok");
  });
  const { client } = await connected(port);
  for (let i = 0; i < 2; i++) {
    const heard = new Heard();
    const exchange = client.request({ ...post, fields: ["X-A", "1"] }, false, heard);
    expect(client.request(get, true, new Heard())).toBeUndefined();
    exchange?.write(Buffer.from("hello"));
    exchange?.end();
    await heard.over;
    expect([heard.answer, heard.text]).toEqual([{ status: 200, fields: ["X", "y"], bodyLength: 2 }, "ok"]);
  }
  const expected =
    "POST /a HTTP/1.1\r\nHost: orders\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
  expect(seen).toEqual([expected, expected]);
});

test("interim answers, chunks and trailers are heard", async () => {
  const { heard, client } = await answered(
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
  );
  expect([heard.interims, heard.text, heard.trailers]).toEqual([[100, 103], "ok", ["X-Sum", "1"]]);
  expect(client.open).toBe(true);
});

test("an answer without length ends with the connection", async () => {
  const { heard, client } = await answered("HTTP/1.0 200 OK\r\n\r\nall of it", get, true);
  expect([heard.text, heard.loss, client.open]).toEqual(["all of it", undefined, false]);
});

test.each([
  ["conflicting framing", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
  ["a switch of protocols", "HTTP/1.1 101 Switching Protocols\r\n\r\n"],
  ["no HTTP", "SSH-2.0-OpenSSH\r\n"],
  ["endless interim answers", "HTTP/1.1 100 Continue\r\n\r\n".repeat(20)],
  ["a malformed chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
  ["a huge head", `HTTP/1.1 200 OK\r\nX: ${"y".repeat(20_000)}\r\n\r\n`],
])("an upstream that answers with %s is invalid, and its connection ends", async (_, text) => {
  const { heard, client } = await answered(text);
  expect(heard.loss?.kind).toBe("invalid");
  expect(client.open).toBe(false);
});

test.each([
  ["bytes behind it", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n"],
  ["Connection: close", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"],
])("an answer with %s is taken, and the connection is not used again", async (_, text) => {
  const { heard, client, socket } = await answered(text);
  expect(heard.text).toBe("ok");
  expect(client.open).toBe(false);
  expect(client.request(get, true, new Heard())).toBeUndefined();
  expect(socket.destroyed).toBe(true);
});

test("bytes on an idle connection end it", async () => {
  const { port, sockets } = await upstream(() => undefined);
  const { client, socket } = await connected(port);
  await until(() => sockets.length > 0);
  sockets[0]?.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  await once(socket, "close");
  expect(client.open).toBe(false);
});

test("an answer before the request has ended is heard, and the connection is given up", async () => {
  const { port } = await upstream((socket) => socket.write("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"));
  const { client, socket } = await connected(port);
  const heard = new Heard();
  const exchange = client.request(post, false, heard);
  exchange?.write(Buffer.from("part"));
  await heard.over;
  expect([heard.answer?.status, heard.text, heard.loss]).toEqual([413, "no", undefined]);
  expect(exchange?.write(Buffer.from("more"))).toBe(true);
  exchange?.end();
  expect(socket.destroyed).toBe(true);
});

test("the rest of a request may go on behind its whole answer as long as some of it is taken each second, on no used connection", async () => {
  const body = Buffer.alloc(64 * 1_048_576);
  for (const reads of [true, false]) {
    let taken = 0;
    const { port, sockets } = await upstream((socket, text) => {
      if (taken === 0) {
        socket.pause();
        socket.write("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
      }
      taken += text.length;
    });
    const { client, socket, closed, clock } = await connected(port);
    const heard = new Heard();
    const exchange = client.request({ ...post, bodyLength: body.length }, false, heard);
    exchange?.write(body);
    exchange?.end();
    await heard.over;
    expect([heard.answer?.status, client.open, socket.destroyed]).toEqual([413, false, false]);
    if (reads) {
      sockets[0]?.resume();
      await until(() => taken > body.length);
    } else {
      clock.advance(1_000);
    }
    await until(() => closed.length > 0);
    expect([reads, taken > body.length]).toEqual([reads, reads]);
  }
});

test("what was not written is unprocessed, what was is lost", async () => {
  const { port } = await upstream((socket) => socket.destroy());
  const first = await connected(port);
  const heard = new Heard();
  first.client.request(get, true, heard);
  await heard.over;
  expect(heard.loss?.kind).toBe("lost");
  const second = await connected(port);
  const unwritten = new Heard();
  second.client.request(post, false, unwritten); // Its head leaves at the end of this turn.
  second.socket.destroy();
  await unwritten.over;
  expect(unwritten.loss?.kind).toBe("unprocessed");
});

test("a request whose very first write the kernel refuses is unprocessed, also on a connection that was used before", async () => {
  const { port, sockets } = await upstream((socket) => socket.write(ok));
  const { client } = await connected(port);
  const first = new Heard();
  client.request(get, true, first);
  await first.over;
  // The reset is in the kernel at once; this end has not read it yet when it writes.
  sockets[0]?.resetAndDestroy();
  const second = new Heard();
  expect(client.request(get, true, second)).toBeDefined();
  await second.over;
  expect(second.loss?.kind).toBe("unprocessed");
});

test("an answer that breaks off is lost", async () => {
  const { heard } = await answered("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\npart", get, true);
  expect([heard.text, heard.loss?.kind]).toEqual(["part", "lost"]);
});

test("a head that cannot be written is refused before a byte", async () => {
  const { port } = await upstream(() => undefined);
  const { client, socket } = await connected(port);
  for (const head of [
    { ...get, fields: ["x", "a\r\nb"] },
    { ...get, path: "/a b" },
    { ...get, path: "" },
    { ...get, authority: "a\r\nb" },
  ]) {
    const heard = new Heard();
    client.request(head, true, heard);
    await heard.over;
    expect(heard.loss?.kind).toBe("unprocessed");
  }
  expect(socket.bytesWritten).toBe(0);
  expect(client.open).toBe(true);
});

test("a slow receiver stops the reading of an answer, and a slow upstream the writing of a request", async () => {
  const total = 3_000_000;
  const { port, sockets } = await upstream((socket, text) => {
    if (text.startsWith("GET")) socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${total}\r\n\r\n${"x".repeat(total)}`);
    else socket.pause();
  });
  const { client, socket } = await connected(port);
  const heard = new Heard();
  const exchange = client.request(get, true, heard);
  await until(() => socket.isPaused());
  expect(heard.text.length).toBeLessThanOrEqual(options.windowBytes);
  for (let consumed = 0; heard.text.length < total; await turn()) {
    exchange?.consume(heard.text.length - consumed);
    consumed = heard.text.length;
  }
  const uploading = new Heard();
  const upload = client.request(post, false, uploading) as ClientExchange;
  let written = 0;
  for (let room = true; room && written < 100_000_000; written += 65_536) room = upload.write(Buffer.alloc(65_536));
  expect(written).toBeLessThan(100_000_000);
  sockets[0]?.resume();
  await until(() => {
    sockets[0]?.resume();
    return uploading.drainedTimes > 0;
  });
});

test("draining lets the answer end", async () => {
  const { port, sockets } = await upstream(() => undefined);
  const { client, closed } = await connected(port);
  const heard = new Heard();
  client.request(get, true, heard);
  client.drain(1000);
  expect(client.open).toBe(false);
  await until(() => sockets.length > 0);
  sockets[0]?.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  await heard.over;
  expect(heard.text).toBe("ok");
  await until(() => closed.length > 0);
});

// The pool

function pooled(target: { host: string; port: number } | { path: string }, wish: Partial<typeof options> = {}) {
  const clock = new ManualClock();
  const pool = new Http1Pool({ target, clock, random: new SeededRandom(1), options: { ...options, ...wish } });
  closers.push(() => pool.close(0));
  return { pool, clock };
}

async function ask(pool: Http1Pool, head = get): Promise<Heard> {
  const heard = new Heard();
  pool.request(head, true, heard);
  await heard.over;
  return heard;
}

test("a connection is used again, also by who asks as soon as an answer ends", async () => {
  const { port, sockets } = await upstream((socket) => socket.write(ok));
  const { pool, clock } = pooled({ host: "127.0.0.1", port });
  const second = new Heard();
  const first = new Heard();
  first.onEnd = () => pool.request(get, true, second);
  pool.request(get, true, first);
  await second.over;
  await ask(pool);
  expect([sockets.length, pool.connections, pool.idle]).toEqual([1, 1, 1]);
  clock.advance(3900);
  expect(pool.idle).toBe(1);
  clock.advance(1100);
  expect(pool.idle).toBe(0);
  expect((await ask(pool)).text).toBe("ok");
  expect(sockets).toHaveLength(2);
});

test("connections are bounded, then requests wait in order, then they fail at once as unprocessed", async () => {
  const waiting: Socket[] = [];
  const { port } = await upstream((socket) => waiting.push(socket));
  const { pool } = pooled({ host: "127.0.0.1", port }, { routeeConnectionsMax: 2, routeeQueueMax: 1 });
  const heard = [0, 1, 2, 3].map(() => new Heard());
  for (const one of heard.slice(0, 3)) pool.request(get, true, one);
  await until(() => waiting.length >= 2);
  pool.request(get, true, heard[3] as Heard);
  await heard[3]?.over;
  expect(heard[3]?.loss).toEqual({ kind: "unprocessed", because: "the queue for the routee is full" });
  expect(pool.connections).toBe(2);
  for (const one of [0, 1, 2]) {
    await until(() => waiting.length > 0);
    waiting.shift()?.write(ok);
    await heard[one]?.over;
    expect(heard[one]?.text).toBe("ok");
  }
});

test("an answer that nobody asked for is not taken as the answer to the request that waits for the connection", async () => {
  let asked = 0;
  const { port } = await upstream((socket) => {
    if (asked++ === 0) socket.write(ok + ok.replace(/ok$/, "no"));
    else socket.write(ok);
  });
  const { pool } = pooled({ host: "127.0.0.1", port }, { routeeConnectionsMax: 1 });
  const heard = await Promise.all([ask(pool), ask(pool)]);
  expect(heard.map((one) => one.text)).toEqual(["ok", "ok"]);
});

test("a dead routee fails every waiting request as unprocessed", async () => {
  const { port, sockets } = await upstream(() => undefined);
  closers.splice(0).forEach((close) => close());
  expect(sockets).toEqual([]);
  const { pool } = pooled({ host: "127.0.0.1", port });
  const heard = await Promise.all([ask(pool), ask(pool), ask(pool)]);
  expect(heard.map((one) => one.loss?.kind)).toEqual(["unprocessed", "unprocessed", "unprocessed"]);
});

test("a dial for a request that has gone, and fails, does not fail one that came later", async () => {
  const { port } = await upstream((socket) => socket.write(ok));
  const { pool, clock } = pooled({ host: "127.0.0.1", port });
  for (let i = 0; i < 20; i++) pool.request(get, true, new Heard()).abort({ kind: "cancelled", because: "test" });
  const heard = ask(pool);
  // All in one turn: the system has connected nobody yet.
  clock.advance(1_000);
  expect((await heard).text).toBe("ok");
});

test("a request that was given up while it waited is not sent", async () => {
  const seen: string[] = [];
  const { port } = await upstream((socket, text) => {
    seen.push(text);
    socket.write(ok);
  });
  const { pool } = pooled({ host: "127.0.0.1", port });
  const heard = new Heard();
  pool.request({ ...get, path: "/gone" }, true, heard).abort({ kind: "cancelled", because: "test" });
  await ask(pool);
  expect(seen.map((text) => text.split(" ")[1])).toEqual(["/a"]);
  expect(heard.loss).toBeUndefined();
});

test("a body that is written before there is a connection is held, and more of it is asked for then", async () => {
  let seen = "";
  const { port } = await upstream((socket, text) => {
    seen += text;
    if (seen.endsWith("0\r\n\r\n")) socket.write(ok);
  });
  const { pool } = pooled({ host: "127.0.0.1", port });
  const heard = new Heard();
  const exchange = pool.request(post, false, heard);
  expect(exchange.write(Buffer.from("early"))).toBe(false);
  await until(() => heard.drainedTimes > 0);
  exchange.write(Buffer.from("late"));
  exchange.end();
  await heard.over;
  expect(seen).toContain("5\r\nearly\r\n4\r\nlate\r\n0\r\n\r\n");
});

test("an idle connection that its server closed is not used", async () => {
  const { port, sockets } = await upstream((socket) => socket.write(ok));
  const { pool } = pooled({ host: "127.0.0.1", port });
  await ask(pool);
  sockets[0]?.end();
  await until(() => pool.connections === 0);
  expect((await ask(pool, { ...get, method: "PUT" })).text).toBe("ok");
});

test("node:http as the routee, over a Unix socket, echoes bodies of every framing", async () => {
  const path = join(tmpdir(), `hauberk-pool-${process.pid}.sock`);
  const server = createHttpServer((request, response) => {
    if (request.url === "/length") response.setHeader("content-length", request.headers["content-length"] ?? 0);
    request.pipe(response);
  });
  server.listen(path);
  await once(server, "listening");
  closers.push(() => server.closeAllConnections());
  closers.push(() => server.close());
  const { pool } = pooled({ path });
  for (const size of [0, 1, 10_000, 300_000]) {
    for (const head of [post, { ...post, path: "/length", bodyLength: size }]) {
      const heard = new Heard();
      const exchange = pool.request(head, false, heard);
      const data = heard.data.bind(heard);
      heard.data = (chunk) => {
        data(chunk);
        exchange.consume(chunk.length);
      };
      if (size > 0) exchange.write(Buffer.alloc(size, 120));
      exchange.end();
      await heard.over;
      expect([heard.loss, heard.text.length]).toEqual([undefined, size]);
    }
  }
  expect(pool.connections).toBe(1);
});

test("a request that cannot be written takes no connection out of the pool", async () => {
  const { port, sockets } = await upstream((socket) => socket.write(ok));
  const { pool } = pooled({ host: "127.0.0.1", port }, { routeeConnectionsMax: 1, routeeQueueMax: 1 });
  await ask(pool);
  const unwritable = await ask(pool, { ...get, authority: "a b" });
  expect(unwritable.loss?.kind).toBe("unprocessed");
  expect(pool.idle).toBe(1);
  const next = await ask(pool);
  expect(next.loss).toBeUndefined();
  expect(sockets).toHaveLength(1);
});
