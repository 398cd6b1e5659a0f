import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { defaultsOf } from "../base/options.ts";
import type { Fields, ResponseHead } from "../http/message.ts";
import type { Handler, Loss, ServerConnection, ServerExchange } from "./exchange.ts";
import { serveHttp1, type Http1ServerContext } from "./http1-server.ts";
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

interface Served {
  readonly port: number;
  readonly clock: ManualClock;
  readonly connections: ServerConnection[];
  readonly sockets: Socket[];
}

async function serve(handler: Handler, more: Partial<Http1ServerContext> = {}, allowHalfOpen = false): Promise<Served> {
  const clock = new ManualClock();
  const connections: ServerConnection[] = [];
  const sockets: Socket[] = [];
  const server: Server = createServer({ allowHalfOpen }, (socket) => {
    sockets.push(socket);
    const facts = { protocol: "http/1.1", remoteAddress: "127.0.0.1", localPort: 1, peer: undefined } as const;
    connections.push(serveHttp1(socket, facts, handler, { clock, options: defaultsOf(http1Options), ...more }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closers.push(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return { port: (server.address() as AddressInfo).port, clock, connections, sockets };
}

class Raw {
  readonly socket: Socket;
  text = "";
  readonly closed: Promise<unknown>;
  #wake: (() => void) | undefined;

  constructor(port: number) {
    this.socket = connect({ host: "127.0.0.1", port, allowHalfOpen: true });
    this.socket.on("data", (chunk: Buffer) => {
      this.text += chunk.toString("latin1");
      this.#wake?.();
    });
    this.socket.on("error", () => undefined);
    this.closed = new Promise((resolve) => {
      this.socket.once("end", resolve);
      this.socket.once("close", resolve);
    });
    closers.push(() => this.socket.destroy());
  }

  send(text: string): this {
    this.socket.write(text, "latin1");
    return this;
  }

  /** Waits until what came holds `part`. */
  async until(part: string): Promise<string> {
    while (!this.text.includes(part)) await new Promise<void>((resolve) => (this.#wake = resolve));
    return this.text;
  }
}

const get = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";

function answer(exchange: ServerExchange, body: string, head: Partial<ResponseHead> = {}): void {
  const chunk = Buffer.from(body);
  exchange.respond({ status: 200, fields: [], bodyLength: chunk.length, ...head }, chunk.length === 0);
  if (chunk.length === 0) return;
  exchange.write(chunk);
  exchange.end();
}

/** Takes the whole body, credits it, and answers with it. */
const echo: Handler = (exchange) => {
  if (exchange.bodyless) return answer(exchange, exchange.head.path);
  const chunks: Buffer[] = [];
  exchange.listen({
    data: (chunk) => {
      chunks.push(chunk);
      exchange.consume(chunk.length);
    },
    end: () => answer(exchange, Buffer.concat(chunks).toString("latin1")),
    aborted: () => undefined,
    drained: () => undefined,
  });
};

test("a request is answered, and the connection takes another", async () => {
  const { port } = await serve(echo);
  const raw = new Raw(port).send(get);
  await raw.until("/a");
  expect(raw.text).toBe("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n/a");
  raw.send("POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
  expect((await raw.until("hello")).endsWith("\r\n\r\nhello")).toBe(true);
});

test("pipelined requests are answered in their order, also when the first answer comes last", async () => {
  const held: ServerExchange[] = [];
  const { port, connections } = await serve((exchange) => {
    if (exchange.head.path === "/0") held.push(exchange);
    else echo(exchange);
  });
  const raw = new Raw(port).send([0, 1, 2, 3].map((i) => get.replace("/a", `/${i}`)).join(""));
  await until(() => held.length > 0);
  expect(connections[0]?.exchanges).toBe(1);
  raw.send(get.replace("/a", "/4"));
  answer(held[0] as ServerExchange, "/0");
  const text = await raw.until("/4");
  expect(text.match(/(?<=\r\n\r\n)\/\d/g)).toEqual(["/0", "/1", "/2", "/3", "/4"]);
});

test("reading stops while a pipelined request waits", async () => {
  const held: ServerExchange[] = [];
  const { port, sockets } = await serve((exchange) => held.push(exchange));
  const raw = new Raw(port).send(get + get);
  await until(() => held.length > 0);
  raw.send("x".repeat(4_000_000));
  expect(sockets[0]?.isPaused()).toBe(true);
  await turn();
  expect(sockets[0]?.bytesRead).toBeLessThan(400_000);
});

test.each([
  ["GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", 400, "REQUEST_INVALID"],
  [`GET / HTTP/1.1\r\nHost: a\r\nX: ${"y".repeat(20_000)}\r\n\r\n`, 431, "HEADERS_TOO_LARGE"],
  ["\x16\x03\x01\x00", 400, "REQUEST_INVALID"],
])("what is no request is answered with its code, and the connection ends", async (text, status, code) => {
  const { port } = await serve(echo);
  const raw = new Raw(port).send(text);
  await raw.closed;
  expect(raw.text.startsWith(`HTTP/1.1 ${status} `)).toBe(true);
  expect(raw.text).toContain(`x-hauberk-code: ${code}\r\n`);
  expect(raw.text).toContain("Connection: close\r\n");
  const body = JSON.parse(raw.text.slice(raw.text.indexOf("\r\n\r\n") + 4)) as Record<string, string>;
  expect(Object.keys(body)).toEqual(["code", "message", "hint"]);
  expect(body["message"]).toMatch(/^Cannot read the request: .*[^.]$/);
});

test.each(["INVALID CONNECTION PREFACE\r\n\r\n", "GET /\r\n\r\n", "EHLO orders\r\nQUIT\r\n\r\n"])(
  "who names no version of HTTP gets no answer, only an end (RFC 9113, 3.4): %j",
  async (text) => {
    const { port } = await serve(echo);
    for (const cut of [text.length, 3]) {
      const raw = new Raw(port).send(text.slice(0, cut));
      if (cut < text.length) await turn();
      raw.send(text.slice(cut));
      await raw.closed;
      expect(raw.text).toBe("");
    }
  },
);

test("a malformed chunk loses the exchange as invalid and is answered with 400", async () => {
  const losses: Loss[] = [];
  const { port } = await serve((exchange) =>
    exchange.listen({
      data: () => undefined,
      end: () => undefined,
      aborted: (loss) => losses.push(loss),
      drained: () => undefined,
    }),
  );
  const raw = new Raw(port).send(
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n",
  );
  await raw.closed;
  expect(losses.map((loss) => loss.kind)).toEqual(["invalid"]);
  expect(raw.text).toContain(" 400 ");
});

test("a refused request behind a good one leaves the good one's answer whole", async () => {
  const { port } = await serve(echo);
  const raw = new Raw(port).send(`${get}GET / HTTP/2.0\r\n\r\n`);
  await raw.closed;
  expect(raw.text.match(/HTTP\/1.1 \d+/g)).toEqual(["HTTP/1.1 200", "HTTP/1.1 400"]);
});

test("a head that is not complete within ten seconds is answered with 408, and an idle connection ends without a word", async () => {
  const { port, clock, connections, sockets } = await serve(echo);
  const slow = new Raw(port).send("GET / HTTP/1.1\r\nHo");
  const idle = new Raw(port);
  await until(() => connections.length >= 2);
  await turn();
  await turn();
  clock.advance(9_900);
  slow.send("st"); // Bytes that drip in do not move the deadline.
  await until(() => sockets.some((socket) => socket.bytesRead === 20));
  await turn();
  clock.advance(1_200);
  await slow.closed;
  expect(slow.text).toContain("x-hauberk-code: REQUEST_TIMEOUT");
  clock.advance(120_000);
  await idle.closed;
  expect(idle.text).toBe("");
});

test("a body that drips in is given up with 408, but not once its answer has begun", async () => {
  const exchanges: ServerExchange[] = [];
  const losses: Loss[] = [];
  const { port, clock } = await serve((exchange) => {
    exchanges.push(exchange);
    exchange.listen({
      data: () => undefined,
      end: () => undefined,
      aborted: (loss) => losses.push(loss),
      drained: () => undefined,
    });
  });
  const post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\nx";
  const slow = new Raw(port).send(post);
  await until(() => exchanges.length >= 1);
  const streaming = new Raw(port).send(post);
  await until(() => exchanges.length >= 2);
  exchanges[1]?.respond({ status: 200, fields: [], bodyLength: -1 }, false);
  clock.advance(31_000);
  await slow.closed;
  expect(slow.text).toContain("x-hauberk-code: REQUEST_TIMEOUT");
  expect(losses).toHaveLength(1);
  await streaming.until("chunked");
  exchanges[1]?.write(Buffer.from("still here"));
  await streaming.until("still here");
});

test("a body of which nothing is consumed for five minutes is given up, and every byte of it begins them anew", async () => {
  const losses: Loss[] = [];
  let exchange: ServerExchange | undefined;
  const { port, sockets, clock } = await serve((one) => {
    exchange = one;
    one.listen({
      data: () => undefined,
      end: () => undefined,
      aborted: (loss) => losses.push(loss),
      drained: () => undefined,
    });
  });
  const raw = new Raw(port).send(
    `POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n${"x".repeat(3_000_000)}`,
  );
  await until(() => sockets[0]?.isPaused() === true);
  clock.advance(299_000);
  exchange?.consume(1);
  clock.advance(299_000);
  expect(losses).toEqual([]);
  clock.advance(3_000);
  expect(losses).toEqual([{ kind: "lost", because: "nobody takes the body of the request" }]);
  await raw.closed;
});

test("a body that nobody consumes stops being read, and goes on when it is consumed", async () => {
  let exchange: ServerExchange | undefined;
  let got = 0;
  let ended = false;
  const { port, sockets } = await serve((one) => {
    exchange = one;
    one.listen({
      data: (chunk) => (got += chunk.length),
      end: () => (ended = true),
      aborted: () => undefined,
      drained: () => undefined,
    });
  });
  const total = 3_000_000;
  new Raw(port).send(`POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ${total}\r\n\r\n${"x".repeat(total)}`);
  await until(() => sockets[0]?.isPaused() === true);
  expect(got).toBeLessThanOrEqual(http1Options.windowBytes.default);
  let consumed = 0;
  for (;;) {
    if (ended) break;
    exchange?.consume(got - consumed);
    expect(got - consumed).toBeLessThanOrEqual(http1Options.windowBytes.default);
    consumed = got;
    await turn();
  }
  expect(got).toBe(total);
});

test("a client that does not read makes write say false, and drained follows when it reads", async () => {
  let exchange: ServerExchange | undefined;
  let drained = 0;
  const { port } = await serve((one) => {
    exchange = one;
    one.listen({ data: () => undefined, end: () => undefined, aborted: () => undefined, drained: () => drained++ });
    one.respond({ status: 200, fields: [], bodyLength: -1 }, false);
  });
  const raw = new Raw(port).send(get);
  await raw.until("\r\n\r\n");
  raw.socket.pause();
  let written = 0;
  for (let room = true; room && written < 100_000_000; written += 65_536)
    room = exchange?.write(Buffer.alloc(65_536, 120)) ?? true;
  expect(written).toBeLessThan(100_000_000);
  expect(drained).toBe(0);
  raw.socket.resume();
  await until(() => drained > 0);
  exchange?.end();
  await raw.until("\r\n0\r\n\r\n");
  expect(raw.text.split("x").length - 1).toBe(written);
});

test("a client that goes away is told to the handler once, and later calls do nothing", async () => {
  const losses: Loss[] = [];
  const seen: ServerExchange[] = [];
  const { port } = await serve((one) => {
    seen.push(one);
    one.listen({
      data: () => undefined,
      end: () => undefined,
      aborted: (loss) => losses.push(loss),
      drained: () => undefined,
    });
  });
  const raw = new Raw(port).send(get);
  await until(() => seen.length > 0);
  raw.socket.destroy();
  await until(() => losses.length > 0);
  const exchange = seen[0] as ServerExchange;
  exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
  expect(exchange.write(Buffer.from("x"))).toBe(true);
  exchange.end();
  exchange.abort({ kind: "lost", because: "test" });
  expect(losses).toEqual([{ kind: "cancelled", because: "the client closed the connection" }]);
});

test("a client that only stops sending still gets its answer where half-open is allowed", async () => {
  const seen: ServerExchange[] = [];
  const { port, sockets } = await serve((one) => seen.push(one), {}, true);
  const raw = new Raw(port).send(get);
  raw.socket.end();
  await until(() => seen.length > 0 && sockets[0]?.readableEnded === true);
  answer(seen[0] as ServerExchange, "late");
  await raw.closed;
  expect(raw.text).toContain("Connection: close\r\n\r\nlate");
});

test("100 Continue is passed on, and an answer without it ends the connection", async () => {
  const expecting = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
  const { port } = await serve((exchange) => {
    expect(exchange.head.fields).toEqual(["Expect", "100-continue"]);
    exchange.inform({ status: 100, fields: [], bodyLength: 0 });
    echo(exchange);
  });
  const raw = new Raw(port).send(expecting);
  await raw.until("HTTP/1.1 100 Continue\r\n\r\n");
  raw.send("hello");
  await raw.until("\r\n\r\nhello");
  const refusing = await serve((exchange) => answer(exchange, "no", { status: 403 }));
  const other = new Raw(refusing.port).send(expecting);
  await other.closed;
  expect(other.text).toContain("Connection: close\r\n\r\nno");
});

test("the rest of a body behind an early answer is dropped, and the next request is read", async () => {
  const { port } = await serve((exchange) => answer(exchange, exchange.head.path));
  const raw = new Raw(port).send("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nGET /x");
  await raw.until("/1");
  raw.send(` HTT${get.replace("/a", "/2")}`);
  await raw.until("/2");
  expect(raw.text.match(/\/\d/g)?.slice(-1)).toEqual(["/2"]);
  const large = new Raw(port).send(
    `POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n${"x".repeat(1_000_000)}`,
  );
  await large.closed;
});

test.each([
  ["HEAD", 200, ["content-length", "7"], "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"],
  ["GET", 204, [], "HTTP/1.1 204 No Content\r\n\r\n"],
  ["GET", 304, ["Content-Length", "7"], "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"],
])("an answer to %s with %i has no body", async (method, status, fields, expected) => {
  const { port } = await serve((exchange) => {
    exchange.respond({ status, fields, bodyLength: -1 }, false);
    exchange.write(Buffer.from("swallowed"));
    exchange.end();
  });
  const raw = new Raw(port).send(get.replace("GET", method)).send(get);
  await raw.until("\r\n\r\n");
  expect(raw.text.startsWith(expected)).toBe(true);
});

test("HTTP/1.0 gets neither chunks nor interim answers, and keeps alive only when it asks and the length is known", async () => {
  const { port } = await serve((exchange) => {
    exchange.inform({ status: 103, fields: [], bodyLength: 0 });
    if (exchange.head.path === "/length") return answer(exchange, "known");
    exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
    exchange.write(Buffer.from("un"));
    exchange.write(Buffer.from("known"));
    return exchange.end();
  });
  const raw = new Raw(port).send("GET /length HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  expect(await raw.until("known")).toBe("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nknown");
  raw.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  await raw.closed;
  expect(raw.text.endsWith("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nunknown")).toBe(true);
});

test("an answer that is longer or shorter than it said is broken off", async () => {
  const { port } = await serve((exchange) => {
    exchange.respond({ status: 200, fields: [], bodyLength: 5 }, false);
    exchange.write(Buffer.from(exchange.head.path === "/long" ? "too long" : "no"));
    exchange.end();
  });
  for (const path of ["/long", "/short"]) {
    const raw = new Raw(port).send(get.replace("/a", path) + get);
    await raw.closed;
    expect(raw.text.match(/HTTP/g)?.length ?? 0).toBeLessThanOrEqual(1);
  }
});

test("a field that would split the answer becomes 502, not two answers", async () => {
  const { port } = await serve((exchange) => answer(exchange, "x", { fields: ["x", "1\r\nSet-Cookie: a"] }));
  const raw = new Raw(port).send(get);
  await raw.closed;
  expect(raw.text).toContain("x-hauberk-code: UPSTREAM_INVALID");
  expect(raw.text).not.toContain("Set-Cookie");
});

test("a handler that throws answers 500 and the process goes on", async () => {
  const faults: unknown[] = [];
  const failing: Handler = (exchange) => {
    if (exchange.head.path === "/late") {
      exchange.listen({
        data: () => {
          throw new Error("in data");
        },
        end: () => undefined,
        aborted: () => undefined,
        drained: () => undefined,
      });
    } else throw new Error("at once");
  };
  const { port } = await serve(failing, { onFault: (thrown) => faults.push(thrown) });
  const raw = new Raw(port).send(get);
  await raw.closed;
  expect(raw.text).toContain("x-hauberk-code: BUG");
  await new Raw(port).send("POST /late HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").closed;
  expect(faults).toHaveLength(2);
});

test("draining lets the request under way end and says Connection: close", async () => {
  const held: ServerExchange[] = [];
  const { port, connections, clock } = await serve((exchange) => held.push(exchange));
  const idle = new Raw(port);
  await until(() => connections.length > 0);
  const busy = new Raw(port).send(get);
  const stuck = new Raw(port).send(get);
  await until(() => held.length >= 2);
  for (const connection of connections) connection.drain(500);
  for (const connection of connections) connection.drain(1000); // The last time counts.
  await idle.closed;
  answer(held[0] as ServerExchange, "done");
  await busy.closed;
  expect(busy.text).toContain("Connection: close\r\n\r\ndone");
  clock.advance(999);
  expect(connections.filter(({ exchanges }) => exchanges > 0)).toHaveLength(1);
  clock.advance(1);
  await stuck.closed;
  expect(stuck.text).toBe("");
});

test("the last answer of a connection is not cut off while it is being read, and not waited for when nobody reads", async () => {
  const large = "x".repeat(8_000_000);
  const { port, clock, sockets } = await serve((exchange) => answer(exchange, large));
  const raw = new Raw(port);
  raw.socket.pause();
  raw.send(get.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
  await until(() => (sockets[0]?.writableLength ?? 0) > 0);
  for (let i = 0; i < 20; i++) clock.advance(1_000);
  raw.socket.resume();
  await raw.closed;
  expect(raw.text.endsWith("\r\n\r\n" + large)).toBe(true);
  const deaf = new Raw(port);
  deaf.socket.pause();
  deaf.send(get.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
  await until(() => (sockets[1]?.writableLength ?? 0) > 0);
  for (let i = 0; i < 310; i++) clock.advance(1_000);
  await until(() => sockets[1]?.destroyed === true);
});

test("without the proxy's secret nothing is served, and with it the secret goes no further", async () => {
  const seen: Fields[] = [];
  const { port } = await serve(
    (exchange) => {
      seen.push(exchange.head.fields);
      answer(exchange, "ok");
    },
    { secret: "Basic abc" },
  );
  for (const line of ["", "Proxy-Authorization: Basic abd\r\n"]) {
    const raw = new Raw(port).send(`GET / HTTP/1.1\r\nHost: a\r\n${line}\r\n`);
    await raw.closed;
    expect(raw.text).toContain("x-hauberk-code: PROXY_SECRET_WRONG");
    expect(raw.text).toContain(" 407 ");
  }
  await new Raw(port).send("GET / HTTP/1.1\r\nHost: a\r\nproxy-authorization: Basic abc\r\nX: 1\r\n\r\n").until("ok");
  expect(seen).toEqual([["X", "1"]]);
});

test("node:http as the client sees bodies, trailers and keep-alive", async () => {
  const { port, connections } = await serve((exchange) => {
    const chunks: Buffer[] = [];
    exchange.listen({
      data: (chunk) => {
        chunks.push(chunk);
        exchange.consume(chunk.length);
      },
      end: (trailers) => {
        exchange.respond({ status: 200, fields: ["X-Trailers", String(trailers)], bodyLength: -1 }, false);
        exchange.write(Buffer.concat(chunks));
        exchange.end(["X-Sum", "1"]);
      },
      aborted: () => undefined,
      drained: () => undefined,
    });
  });
  const { Agent } = await import("node:http");
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  closers.push(() => agent.destroy());
  for (const size of [1, 100_000]) {
    const outgoing = httpRequest({ host: "127.0.0.1", port, agent, method: "POST", headers: { Trailer: "x-in" } });
    outgoing.write("y".repeat(size));
    outgoing.addTrailers({ "x-in": "2" });
    outgoing.end();
    const [incoming] = (await once(outgoing, "response")) as [IncomingMessage];
    let text = "";
    for await (const chunk of incoming) text += String(chunk);
    expect(text.length).toBe(size);
    expect(incoming.headers["x-trailers"]).toBe("x-in,2");
    expect(incoming.trailers).toEqual({ "x-sum": "1" });
  }
  expect(connections).toHaveLength(1);
});

test("a head that came in pieces leaves no deadline behind: the idle connection ends without a word", async () => {
  const { port, clock, sockets } = await serve(echo);
  const raw = new Raw(port).send(get.slice(0, 10));
  await until(() => sockets[0]?.bytesRead === 10);
  raw.send(get.slice(10));
  await raw.until("/a");
  const before = raw.text;
  clock.advance(11_000);
  expect(sockets[0]?.destroyed).toBe(false);
  clock.advance(110_000);
  await raw.closed;
  expect(raw.text).toBe(before);
});

test("an HTTP/1.0 client is reset when its answer breaks off, since only a clean end would tell it that all came", async () => {
  const { port } = await serve((exchange) => {
    exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
    exchange.write(Buffer.from("part"));
    setImmediate(() => exchange.abort({ kind: "lost", because: "test" }));
  });
  const raw = new Raw(port).send("GET / HTTP/1.0\r\n\r\n");
  const [error] = (await once(raw.socket, "error")) as [NodeJS.ErrnoException];
  expect(error.code).toBe("ECONNRESET");
});

test("an HTTP/1.0 client is reset, too, where the connection ends before its answer does", async () => {
  for (const ends of [
    ({ connections: [connection] }: Served) => connection?.destroy("in the test"),
    ({ connections: [connection], clock }: Served) => {
      connection?.drain(1_000);
      clock.advance(1_000);
    },
  ]) {
    const served = await serve((exchange) => {
      exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
      exchange.write(Buffer.from("part"));
    });
    const raw = new Raw(served.port).send("GET / HTTP/1.0\r\n\r\n");
    await raw.until("part");
    const broke = once(raw.socket, "error") as Promise<[NodeJS.ErrnoException]>;
    ends(served);
    expect((await broke)[0].code).toBe("ECONNRESET");
  }
});

test("where the socket knows no reset, as over TLS and Unix sockets, such a connection is cut, and nothing is thrown", async () => {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-"));
  closers.push(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, "socket");
  const facts = { protocol: "http/1.1", remoteAddress: "", localPort: 0, peer: undefined } as const;
  const exchanges: ServerExchange[] = [];
  const take: Handler = (exchange) => {
    exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
    exchange.write(Buffer.from("part"));
    exchanges.push(exchange);
  };
  const server = createServer((socket) => {
    serveHttp1(socket, facts, take, { clock: new ManualClock(), options: defaultsOf(http1Options) });
  });
  server.listen(path);
  await once(server, "listening");
  closers.push(() => server.close());
  const client = connect({ path });
  closers.push(() => client.destroy());
  client.write("GET / HTTP/1.0\r\n\r\n");
  await once(client, "data");
  // The routee went away: what is thrown here would have ended the process.
  expect(() => exchanges[0]?.abort({ kind: "lost", because: "test" })).not.toThrow();
  await once(client, "close");
});

test("draining ends a connection in time also where its client sends no more and waits for its answer", async () => {
  const exchanges: ServerExchange[] = [];
  const losses: Loss[] = [];
  const { port, clock, connections, sockets } = await serve(
    (exchange) => {
      exchanges.push(exchange);
      exchange.listen({
        data: () => undefined,
        end: () => undefined,
        aborted: (loss) => losses.push(loss),
        drained: () => undefined,
      });
    },
    {},
    true,
  );
  const raw = new Raw(port).send(get);
  await until(() => exchanges.length === 1);
  raw.socket.end();
  await until(() => sockets[0]?.readableEnded === true);
  connections[0]?.drain(5_000);
  clock.advance(5_000);
  expect(losses.map(({ because }) => because)).toEqual(["draining took too long"]);
  expect(sockets[0]?.destroyed).toBe(true);
});
