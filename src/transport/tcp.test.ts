import { EventEmitter, once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { Heard } from "../../test/support/http2-pair.ts";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { defaultsOf } from "../base/options.ts";
import type { ClientExchange, ConnectionFacts, Handler, Loss, ServerConnection, ServerExchange } from "./exchange.ts";
import { lendReads } from "./lent-reads.ts";
import { limitLinger } from "./linger.ts";
import { http1Options } from "./options.ts";
import type { RouteeTarget } from "./routee-dial.ts";
import { TcpDialer } from "./tcp-client.ts";
import { serveTcp } from "./tcp-server.ts";

const options = defaultsOf(http1Options);
const facts: ConnectionFacts = { protocol: "tcp", remoteAddress: "127.0.0.1", localPort: 6379, peer: undefined };
const closing: (() => void)[] = [];

afterEach(() => {
  for (const close of closing.splice(0)) close();
});

async function listen(onSocket: (socket: Socket) => void, at: { path?: string } = {}): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => undefined);
    closing.push(() => socket.destroy());
    onSocket(socket);
  });
  if (at.path === undefined) server.listen(0, "127.0.0.1");
  else server.listen(at.path);
  await once(server, "listening");
  closing.push(() => server.close());
  return server;
}

const portOf = (server: Server): number => (server.address() as AddressInfo).port;

function dial(server: Server): Socket {
  const socket = connect({ host: "127.0.0.1", port: portOf(server), allowHalfOpen: true });
  closing.push(() => socket.destroy());
  return socket;
}

/** What lies between in a sidecar, without all that it decides. */
function through(dialer: TcpDialer): Handler {
  return (exchange) => {
    let upstream: ClientExchange | undefined;
    let owed = 0;
    let owedBack = 0;
    exchange.listen({
      data(chunk) {
        if (upstream?.write(chunk) === true) exchange.consume(chunk.length);
        else owed += chunk.length;
      },
      end: () => upstream?.end(),
      aborted: (loss) => upstream?.abort(loss),
      drained() {
        upstream?.consume(owedBack);
        owedBack = 0;
      },
    });
    upstream = dialer.request(exchange.head, false, {
      informed() {},
      head: (head, end) => exchange.respond(head, end),
      data(chunk) {
        if (exchange.write(chunk)) upstream?.consume(chunk.length);
        else owedBack += chunk.length;
      },
      end: () => exchange.end(),
      aborted: (loss) =>
        loss.kind === "unprocessed"
          ? exchange.respond({ status: 503, fields: [], bodyLength: 0 }, true)
          : exchange.abort(loss),
      drained() {
        exchange.consume(owed);
        owed = 0;
      },
    });
  };
}

interface Tunnelled {
  readonly front: Server;
  readonly dialer: TcpDialer;
  readonly connections: ServerConnection[];
  readonly clock: ManualClock;
}

async function tunnelTo(
  target: RouteeTarget,
  more: { lent?: boolean; path?: string; first?: Buffer; windowBytes?: number } = {},
): Promise<Tunnelled> {
  const clock = new ManualClock();
  const windowBytes = more.windowBytes ?? options.windowBytes;
  const use = { ...options, windowBytes };
  const dialer = new TcpDialer({ target, clock, options: use });
  const connections: ServerConnection[] = [];
  const front = await listen((accepted) => {
    const { socket, reads } = (more.lent === true ? lendReads(accepted) : undefined) ?? {
      socket: accepted,
      reads: undefined,
    };
    connections.push(
      serveTcp(socket, facts, through(dialer), {
        clock,
        options: use,
        ...(reads === undefined ? {} : { reads }),
        ...(more.first === undefined ? {} : { first: more.first }),
      }),
    );
  }, more);
  return { front, dialer, connections, clock };
}

async function textOf(socket: Socket): Promise<string> {
  let text = "";
  for await (const chunk of socket) text += String(chunk);
  return text;
}

const echo = (socket: Socket): void => void socket.pipe(socket);

for (const lent of [false, true]) {
  test(`bytes go both ways, and each side ends its own direction (${lent ? "lent" : "own"} reads)`, async () => {
    const routee = await listen((socket) => {
      let text = "";
      socket.on("data", (chunk) => (text += String(chunk)));
      // Answers only when its client has ended.
      socket.on("end", () => socket.end(text.toUpperCase()));
    });
    const { front, dialer } = await tunnelTo({ host: "127.0.0.1", port: portOf(routee) }, { lent });
    const client = dial(front);
    client.write("hello ");
    client.end("world");
    expect(await textOf(client)).toBe("HELLO WORLD");
    expect(dialer.connections).toBe(0);
  });

  test(`a server may speak first, and end first (${lent ? "lent" : "own"} reads)`, async () => {
    let got = "";
    const ended = Promise.withResolvers<string>();
    const routee = await listen((socket) => {
      socket.end("220 ready\r\n");
      socket.on("data", (chunk) => (got += String(chunk)));
      socket.on("end", () => ended.resolve(got));
    });
    const { front } = await tunnelTo({ host: "127.0.0.1", port: portOf(routee) }, { lent });
    const client = dial(front);
    let greeting = "";
    client.on("data", (chunk) => (greeting += String(chunk)));
    await once(client, "end");
    expect(greeting).toBe("220 ready\r\n");
    client.end("QUIT");
    expect(await ended.promise).toBe("QUIT");
  });
}

test("what was read before the handler was asked comes first", async () => {
  const routee = await listen(echo);
  const target = { host: "127.0.0.1", port: portOf(routee) };
  const { front } = await tunnelTo(target, { first: Buffer.from("first ") });
  const client = dial(front);
  client.end("second");
  expect(await textOf(client)).toBe("first second");
});

test("Unix sockets at both ends work as well", async () => {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-tcp-"));
  closing.push(() => rmSync(folder, { recursive: true, force: true }));
  await listen(echo, { path: join(folder, "routee.sock") });
  await tunnelTo({ path: join(folder, "routee.sock") }, { path: join(folder, "front.sock") });
  const client = connect({ path: join(folder, "front.sock"), allowHalfOpen: true });
  client.end("over unix");
  expect(await textOf(client)).toBe("over unix");
});

test("a refusal resets the connection, and not a byte is sent", async () => {
  const front = await listen((socket) => {
    serveTcp(
      socket,
      facts,
      (exchange) => {
        exchange.respond({ status: 403, fields: ["x-hauberk-code", "DENIED"], bodyLength: 2 }, false);
        exchange.write(Buffer.from("no"));
        exchange.end();
      },
      { clock: new ManualClock(), options },
    );
  });
  const client = dial(front);
  let got = 0;
  client.on("data", () => got++);
  const [error] = (await once(client, "error")) as [NodeJS.ErrnoException];
  expect([error.code, got]).toEqual(["ECONNRESET", 0]);
});

test("a routee that does not accept is unprocessed", async () => {
  const gone = await listen(echo);
  const port = portOf(gone);
  await new Promise((resolve) => gone.close(resolve));
  const dialer = new TcpDialer({ target: { host: "127.0.0.1", port }, clock: new ManualClock(), options });
  const heard = new Heard();
  dialer.request({ method: "CONNECT", scheme: "", authority: "", path: "", fields: [], bodyLength: -1 }, false, heard);
  await heard.over();
  expect(heard.loss?.kind).toBe("unprocessed");
  expect([heard.heads, dialer.connections]).toEqual([[], 0]);
});

test("what is no CONNECT is not taken, and nothing is dialled", async () => {
  let arrived = 0;
  const routee = await listen(() => arrived++);
  const target = { host: "127.0.0.1", port: portOf(routee) };
  const dialer = new TcpDialer({ target, clock: new ManualClock(), options });
  const head = { method: "GET", scheme: "http", authority: "a", path: "/", fields: [], bodyLength: 0 };
  expect(dialer.request(head, true, new Heard())).toBeUndefined();
  await new Promise((resolve) => setImmediate(resolve));
  expect(arrived).toBe(0);
});

test("a routee that resets the connection resets its client, and the other way round", async () => {
  const routee = await listen((socket) => {
    socket.write("x");
    socket.once("data", () => socket.resetAndDestroy());
  });
  const { front } = await tunnelTo({ host: "127.0.0.1", port: portOf(routee) });
  const client = dial(front);
  await once(client, "data");
  client.write("y");
  const [error] = (await once(client, "error")) as [NodeJS.ErrnoException];
  expect(error.code).toBe("ECONNRESET");

  const seen = Promise.withResolvers<string | undefined>();
  const other = await listen((socket) => {
    socket.write("x");
    socket.once("error", (thrown: NodeJS.ErrnoException) => seen.resolve(thrown.code));
  });
  const { front: second } = await tunnelTo({ host: "127.0.0.1", port: portOf(other) });
  const leaving = dial(second);
  await once(leaving, "data");
  leaving.resetAndDestroy();
  expect(await seen.promise).toBe("ECONNRESET");
});

test("a client that does not read stops its routee, and gets everything once it does", async () => {
  const bytes = 32 * 1_048_576;
  const chunk = Buffer.alloc(65_536, 7);
  let written = 0;
  const stopped = Promise.withResolvers<void>();
  const routee = await listen((socket) => {
    const go = (): void => {
      while (written < bytes) {
        written += chunk.length;
        if (!socket.write(chunk)) {
          // Whoever waits for longer than the kernels need to fill up has been stopped.
          setTimeout(() => stopped.resolve(), 300).unref();
          return;
        }
      }
      socket.end();
    };
    socket.on("drain", go);
    go();
  });
  const { front } = await tunnelTo({ host: "127.0.0.1", port: portOf(routee) });
  const client = dial(front);
  client.pause();
  await stopped.promise;
  expect(written).toBeLessThan(bytes);
  let got = 0;
  client.on("data", (data) => (got += data.length));
  client.resume();
  await once(client, "end");
  expect(got).toBe(bytes);
});

/** More than kernels keep for a connection. */
const hugeBytes = 64 * 1_048_576;

test("last bytes that the routee never reads, once both directions have ended, end with the stall limit", async () => {
  const routee = await listen((socket) => void socket.pause().end());
  const clock = new ManualClock();
  const dialer = new TcpDialer({ target: { host: "127.0.0.1", port: portOf(routee) }, clock, options });
  const heard = new Heard();
  const head = { method: "CONNECT", scheme: "tcp", authority: "", path: "", fields: [], bodyLength: -1 };
  const exchange = dialer.request(head, false, heard);
  await heard.until(() => heard.ended);
  exchange?.write(Buffer.alloc(hugeBytes));
  exchange?.end();
  expect(dialer.connections).toBe(1);
  await stalled(clock, () => dialer.connections === 0);
});

test("last bytes that the client never reads, once both directions have ended, end with the stall limit", async () => {
  const clock = new ManualClock();
  let closed = false;
  const served = Promise.withResolvers<ServerExchange>();
  const front = await listen((socket) => {
    socket.once("close", () => (closed = true));
    const handler: Handler = (exchange) => {
      exchange.listen({ data() {}, end: () => served.resolve(exchange), aborted() {}, drained() {} });
      exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
    };
    serveTcp(socket, facts, handler, { clock, options });
  });
  dial(front).pause().end();
  const exchange = await served.promise;
  exchange.write(Buffer.alloc(hugeBytes));
  exchange.end();
  await stalled(clock, () => closed);
});

/** Until it is over: some bytes go as far as the kernels' buffers first. */
async function stalled(clock: ManualClock, over: () => boolean): Promise<void> {
  while (!over()) {
    clock.advance(options.writeStallMs);
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
  }
}

test("last bytes may take as long as they like while some of them leave within each stall limit", () => {
  const clock = new ManualClock();
  const socket = Object.assign(new EventEmitter(), { writableLength: 100, destroyed: false });
  let resets = 0;
  limitLinger(socket as unknown as Socket, { clock, stallMs: 1_000, reset: () => resets++ });
  for (const left of [90, 80, 1]) {
    socket.writableLength = left;
    clock.advance(1_000);
  }
  expect(resets).toBe(0);
  clock.advance(1_000);
  expect(resets).toBe(1);
  limitLinger(socket as unknown as Socket, { clock, stallMs: 1_000, reset: () => resets++ });
  socket.emit("close");
  clock.advance(1_000);
  expect(resets).toBe(1);
});

test("a drain lets a connection live until its time is over, then resets it", async () => {
  const routee = await listen(echo);
  const { front, connections, clock } = await tunnelTo({ host: "127.0.0.1", port: portOf(routee) });
  const client = dial(front);
  client.write("a");
  await once(client, "data");
  connections[0]?.drain(3_600_000);
  connections[0]?.drain(30_000); // The last time counts.
  clock.advance(29_000);
  client.write("b");
  expect(String((await once(client, "data"))[0])).toBe("b");
  clock.advance(2_000);
  const [error] = (await once(client, "error")) as [NodeJS.ErrnoException];
  expect(error.code).toBe("ECONNRESET");
  expect(connections[0]?.exchanges).toBe(0);
});

test("a client that leaves before the answer is heard of, and the routee's connection ends", async () => {
  const losses: Loss[] = [];
  const asked = Promise.withResolvers<ServerExchange>();
  const front = await listen((socket) => {
    serveTcp(
      socket,
      facts,
      (exchange) => {
        exchange.listen({ data() {}, end() {}, aborted: (loss) => void losses.push(loss), drained() {} });
        asked.resolve(exchange);
        socket.once("close", () => closed.resolve());
      },
      { clock: new ManualClock(), options },
    );
  });
  const closed = Promise.withResolvers<void>();
  const client = dial(front);
  await once(client, "connect");
  const exchange = await asked.promise;
  client.resetAndDestroy();
  exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
  await closed.promise;
  expect(losses.map((loss) => loss.kind)).toEqual(["cancelled"]);
});

test("whoever refuses a connection and then says more without end is told that nobody hears it", async () => {
  const told: (Loss | "more")[] = [];
  let answered: ServerExchange | undefined;
  const front = await listen((socket) => {
    serveTcp(
      socket,
      facts,
      (exchange) => {
        answered = exchange;
        exchange.listen({
          data: () => told.push("more"),
          end: () => told.push("more"),
          drained: () => told.push("more"),
          aborted: (loss) => told.push(loss),
        });
        exchange.respond({ status: 403, fields: [], bodyLength: -1 }, false);
      },
      { clock: new ManualClock(), options },
    );
  });
  const client = dial(front);
  const [error] = (await once(client, "error")) as [NodeJS.ErrnoException];
  expect(error.code).toBe("ECONNRESET");
  while (told.length === 0) await new Promise((resolve) => setImmediate(resolve));
  expect(answered?.write(Buffer.from("x"))).toBe(true);
  answered?.end();
  expect(told).toEqual([{ kind: "cancelled", because: "the client's connection closed" }]);
});
