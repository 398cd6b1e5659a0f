import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { afterEach, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { defaultsOf } from "../base/options.ts";
import { webSocketAccept } from "../http/http1/websocket.ts";
import type { Fields, RequestHead, ResponseHead } from "../http/message.ts";
import type { BodyEvents, ClientExchange, Handler, Loss, ResponseEvents, ServerExchange } from "./exchange.ts";
import { connectHttp1 } from "./http1-client.ts";
import { Http1Pool } from "./http1-pool.ts";
import { serveHttp1, type Http1ServerContext } from "./http1-server.ts";
import { lendReads } from "./lent-reads.ts";
import { http1Options } from "./options.ts";

const options = defaultsOf(http1Options);

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

// Both ends of a tunnel, as a test sees them.

/** A socket that writes down what it hears. */
class Raw {
  readonly socket: Socket;
  text = "";
  ended = false;
  closed = false;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk: Buffer) => (this.text += chunk.toString("latin1")));
    socket.on("end", () => (this.ended = true));
    socket.on("close", () => (this.closed = true));
    socket.on("error", () => undefined);
    closers.push(() => socket.destroy());
  }

  static to(port: number): Raw {
    return new Raw(connect({ host: "127.0.0.1", port, allowHalfOpen: true }));
  }

  send(text: string): this {
    this.socket.write(text, "latin1");
    return this;
  }

  async until(part: string): Promise<string> {
    await until(() => this.text.includes(part) || this.closed);
    expect(this.text).toContain(part);
    return this.text;
  }
}

class Heard implements ResponseEvents {
  answer: ResponseHead | undefined;
  text = "";
  ended = false;
  loss: Loss | undefined;
  drainedTimes = 0;

  informed(): void {
    // Nothing here is informed.
  }

  head(head: ResponseHead): void {
    this.answer = head;
  }

  data(chunk: Buffer): void {
    expect(this.ended).toBe(false);
    this.text += chunk.toString("latin1");
  }

  end(): void {
    expect(this.ended).toBe(false);
    this.ended = true;
  }

  aborted(loss: Loss): void {
    expect(this.loss).toBeUndefined();
    this.loss = loss;
  }

  drained(): void {
    this.drainedTimes++;
  }
}

interface Served {
  readonly port: number;
  readonly clock: ManualClock;
  readonly exchanges: ServerExchange[];
  readonly heard: Heard[];
  readonly sockets: Socket[];
  readonly connections: ReturnType<typeof serveHttp1>[];
}

/** `then` is asked with each exchange after its events are heard. */
async function serve(
  then: Handler = () => undefined,
  more: Partial<Http1ServerContext> & { lent?: boolean; halfOpen?: boolean } = {},
): Promise<Served> {
  const clock = new ManualClock();
  const served: Served = { port: 0, clock, exchanges: [], heard: [], sockets: [], connections: [] };
  const server = createServer({ allowHalfOpen: more.halfOpen ?? true }, (accepted) => {
    const { socket, reads } = more.lent === true ? (lendReads(accepted) ?? { socket: accepted }) : { socket: accepted };
    served.sockets.push(socket);
    const facts = { protocol: "http/1.1", remoteAddress: "127.0.0.1", localPort: 1, peer: undefined } as const;
    const handler: Handler = (exchange) => {
      const heard = new Heard();
      served.exchanges.push(exchange);
      served.heard.push(heard);
      exchange.listen(heard);
      then(exchange);
    };
    const own = reads === undefined ? {} : { reads };
    served.connections.push(serveHttp1(socket, facts, handler, { clock, options, ...own, ...more }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closers.push(() => {
    server.close();
    for (const socket of served.sockets) socket.destroy();
  });
  return { ...served, port: (server.address() as AddressInfo).port };
}

const key = "dGhlIHNhbXBsZSBub25jZQ==";
const connectText = "CONNECT orders:6379 HTTP/1.1\r\nHost: orders:6379\r\n\r\n";

function upgradeText(
  change: Partial<Record<"line" | "upgrade" | "connection" | "key" | "version" | "more", string>> = {},
) {
  const {
    line = "GET /chat?a=b HTTP/1.1",
    upgrade = "Upgrade: websocket\r\n",
    connection = "Connection: Upgrade\r\n",
  } = change;
  const {
    key: keyField = `Sec-WebSocket-Key: ${key}\r\n`,
    version = "Sec-WebSocket-Version: 13\r\n",
    more = "",
  } = change;
  return `${line}\r\nHost: orders\r\n${upgrade}${connection}${keyField}${version}${more}\r\n`;
}

const accept: Handler = (exchange) => exchange.respond({ status: 101, fields: ["x-a", "b"], bodyLength: -1 }, false);
const connected: Handler = (exchange) => exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);

// The server's side

test("a WebSocket handshake is a tunnel for GET, without its hop's own fields, and 101 proves that its key was read", async () => {
  const { port, exchanges } = await serve(accept);
  const raw = Raw.to(port).send(
    upgradeText({ more: "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: x\r\n" }),
  );
  expect(await raw.until("\r\n\r\n")).toBe(
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
      // RFC 6455, 1.3: the example's own answer.
      "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nx-a: b\r\n\r\n",
  );
  expect(exchanges[0]?.bodyless).toBe(false);
  expect(exchanges[0]?.head).toEqual({
    method: "GET",
    scheme: "http",
    authority: "orders",
    path: "/chat?a=b",
    fields: ["Sec-WebSocket-Version", "13", "Sec-WebSocket-Protocol", "chat", "Sec-WebSocket-Extensions", "x"],
    bodyLength: -1,
    upgrade: "websocket",
  });
});

test.each([
  ["upgrade", upgradeText(), accept, false],
  ["upgrade, lent reads", upgradeText(), accept, true],
  ["connect", connectText, connected, false],
  ["connect, lent reads", connectText, connected, true],
])(
  "after the answer the connection is raw both ways, and each direction ends by itself: %s",
  async (_, text, then, lent) => {
    const { port, exchanges, heard, connections } = await serve(then, { lent });
    const raw = Raw.to(port).send(text);
    await raw.until("\r\n\r\n");
    const head = raw.text.length;
    raw.send("GET / HTTP/1.1\r\n\r\n\0\xff");
    await until(() => heard[0]?.text.length === 20);
    expect(heard[0]?.text).toBe("GET / HTTP/1.1\r\n\r\n\0\xff");
    exchanges[0]?.write(Buffer.from("pong"));
    await raw.until("pong");
    expect(raw.text.slice(head)).toBe("pong");
    raw.socket.end();
    await until(() => heard[0]?.ended === true);
    expect(connections[0]?.exchanges).toBe(1);
    exchanges[0]?.write(Buffer.from("after your end"));
    await raw.until("after your end");
    exchanges[0]?.end();
    await until(() => raw.closed);
    expect([raw.ended, heard[0]?.loss, connections[0]?.exchanges]).toEqual([true, undefined, 0]);
  },
);

test("the server may end first, and hears the client to its end", async () => {
  const { port, exchanges, heard } = await serve(connected);
  const raw = Raw.to(port).send(connectText);
  await raw.until("\r\n\r\n");
  exchanges[0]?.write(Buffer.from("220 hello"));
  exchanges[0]?.end();
  await until(() => raw.ended);
  raw.send("still here");
  await until(() => heard[0]?.text === "still here");
  raw.socket.end();
  await until(() => raw.closed);
  expect([heard[0]?.ended, heard[0]?.loss]).toEqual([true, undefined]);
});

test("where the listener does not allow half-open connections a tunnel is half-closed all the same", async () => {
  const { port, exchanges, heard } = await serve(accept, { halfOpen: false });
  const raw = Raw.to(port).send(upgradeText());
  await raw.until("\r\n\r\n");
  raw.socket.end();
  await until(() => heard[0]?.ended === true);
  exchanges[0]?.write(Buffer.from("late"));
  await raw.until("late");
  exchanges[0]?.end();
  await until(() => raw.closed);
});

test.each([
  ["in the same read", (raw: Raw, text: string) => raw.send(`${text}early bytes`)],
  [
    "in a later one",
    (raw: Raw, text: string) => {
      raw.send(text);
      setImmediate(() => raw.send("early bytes"));
    },
  ],
])("bytes before the answer are told after it and not before: %s", async (_, send) => {
  for (const text of [upgradeText(), connectText]) {
    const { port, exchanges, heard, sockets } = await serve(undefined, { lent: true });
    const raw = Raw.to(port);
    send(raw, text);
    await until(() => (sockets[0]?.bytesRead ?? 0) === text.length + 11);
    await turn();
    expect(heard[0]?.text).toBe("");
    const exchange = exchanges[0] as ServerExchange;
    (text === connectText ? connected : accept)(exchange);
    expect(heard[0]?.text).toBe("");
    await until(() => heard[0]?.text === "early bytes");
    raw.send(", later bytes").socket.end();
    await until(() => heard[0]?.ended === true);
    expect(heard[0]?.text).toBe("early bytes, later bytes");
  }
});

test("reading stops while bytes wait for the answer: what a client can make a sidecar hold is one read", async () => {
  const { port, heard, sockets } = await serve();
  const raw = Raw.to(port).send(upgradeText());
  await until(() => heard.length === 1);
  raw.send("x".repeat(4_000_000));
  for (let i = 0; i < 200; i++) await turn();
  expect(sockets[0]?.bytesRead).toBeLessThan(300_000);
  expect(heard[0]?.text).toBe("");
});

test.each([
  ["upgrade", upgradeText(), 403, "GET /smuggled HTTP/1.1\r\nHost: orders\r\n\r\n"],
  ["upgrade without early bytes", upgradeText(), 404, ""],
  ["upgrade, by a redirect", upgradeText(), 302, "GET /smuggled HTTP/1.1\r\nHost: orders\r\n\r\n"],
  ["connect", connectText, 403, "GET /smuggled HTTP/1.1\r\nHost: orders\r\n\r\n"],
])(
  "a tunnel that is refused ends its connection, and no byte behind it becomes a request: %s",
  async (_, text, status, early) => {
    const { port, exchanges, heard } = await serve();
    const raw = Raw.to(port).send(text + early);
    await until(() => exchanges.length === 1);
    exchanges[0]?.respond({ status, fields: [], bodyLength: 2 }, false);
    raw.send("GET /later HTTP/1.1\r\nHost: orders\r\n\r\n");
    exchanges[0]?.write(Buffer.from("no"));
    exchanges[0]?.end();
    await until(() => raw.ended);
    expect(raw.text).toMatch(new RegExp(`^HTTP/1.1 ${status} [^]*Connection: close\\r\\n\\r\\nno$`));
    expect([exchanges.length, heard[0]?.text]).toEqual([1, ""]);
  },
);

test.each([
  ["200 to an upgrade", upgradeText(), 200],
  ["204 to an upgrade", upgradeText(), 204],
  ["101 to CONNECT", connectText, 101],
  ["101 to a plain request", "GET / HTTP/1.1\r\nHost: orders\r\n\r\n", 101],
])("an answer that would open a tunnel wrongly becomes 502: %s", async (_, text, status) => {
  const { port, heard } = await serve((exchange) => exchange.respond({ status, fields: [], bodyLength: 0 }, true));
  const raw = Raw.to(port).send(text);
  await until(() => raw.ended);
  expect(raw.text).toMatch(/^HTTP\/1.1 502 [^]*UPSTREAM_INVALID/);
  expect(heard[0]?.loss?.kind).toBe("cancelled");
});

test.each<[string, string]>([
  ["POST", upgradeText({ line: "POST /chat HTTP/1.1" })],
  ["a body", upgradeText({ more: "Content-Length: 3\r\n" })],
  ["a chunked body", upgradeText({ more: "Transfer-Encoding: chunked\r\n" })],
  ["no key", upgradeText({ key: "" })],
  ["two keys", upgradeText({ more: `Sec-WebSocket-Key: ${key}\r\n` })],
  ["a key of 15 bytes", upgradeText({ key: "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\r\n" })],
  ["a key that is no base64", upgradeText({ key: "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub2_jZQ==\r\n" })],
  ["an empty key", upgradeText({ key: "Sec-WebSocket-Key:\r\n" })],
])("a WebSocket handshake that is none is refused with 400 (RFC 6455, 4.2.1): %s", async (_, text) => {
  const { port, exchanges } = await serve(accept);
  const raw = Raw.to(port).send(`${text}abc`);
  await until(() => raw.ended);
  expect(raw.text).toMatch(/^HTTP\/1.1 400 [^]*REQUEST_INVALID/);
  expect(exchanges).toHaveLength(0);
});

test.each<[string, string]>([
  ["HTTP/1.0 knows no upgrade", upgradeText({ line: "GET /chat HTTP/1.0" })],
  [
    "h2c",
    upgradeText({
      upgrade: "Upgrade: h2c\r\n",
      connection: "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n",
    }),
  ],
  ["TLS/1.2", upgradeText({ upgrade: "Upgrade: TLS/1.2\r\n" })],
  ["a name that only begins so", upgradeText({ upgrade: "Upgrade: websocket2, xwebsocket\r\n" })],
  ["a version of it, which does not exist", upgradeText({ upgrade: "Upgrade: websocket/13\r\n" })],
  ["no Connection", upgradeText({ connection: "" })],
  ["Connection without upgrade", upgradeText({ connection: "Connection: keep-alive\r\n" })],
  ["no Upgrade", upgradeText({ upgrade: "" })],
])(
  "what is no request for WebSocket is an ordinary one, and goes on without Upgrade (RFC 9110, 7.8): %s",
  async (_, text) => {
    const { port, exchanges } = await serve((exchange) =>
      exchange.respond({ status: 200, fields: [], bodyLength: 0 }, true),
    );
    const raw = Raw.to(port).send(text);
    await raw.until("\r\n\r\n");
    expect(raw.text).toMatch(/^HTTP\/1.1 200 OK/);
    expect(exchanges[0]?.head.upgrade).toBeUndefined();
    expect(exchanges[0]?.bodyless).toBe(true);
    const names = exchanges[0]?.head.fields.filter((__, i) => i % 2 === 0).map((name) => name.toLowerCase());
    expect(names).not.toContain("upgrade");
    expect(names).not.toContain("connection");
    expect(names).not.toContain("http2-settings");
  },
);

test.each<[string, string]>([
  ["several in one field", upgradeText({ upgrade: "Upgrade: h2c, websocket\r\n" })],
  ["several fields", upgradeText({ upgrade: "Upgrade: h2c\r\nUpgrade: WebSocket\r\n" })],
  [
    "any case, among other options",
    upgradeText({ upgrade: "upgrade: WEBSOCKET\r\n", connection: "connection: keep-alive, UPGRADE\r\n" }),
  ],
  [
    "a version that is not 13: the routee says what it speaks",
    upgradeText({ version: "Sec-WebSocket-Version: 8\r\n" }),
  ],
  ["no version", upgradeText({ version: "" })],
  ["a length of nothing", upgradeText({ more: "Content-Length: 0\r\n" })],
  ["absolute form", upgradeText({ line: "GET http://orders/chat HTTP/1.1" })],
])("a handshake is taken however it may be written: %s", async (_, text) => {
  const { port, exchanges } = await serve(accept);
  const raw = Raw.to(port).send(text);
  await raw.until("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
  expect(exchanges[0]?.head.upgrade).toBe("websocket");
});

test("a WebSocket key on an ordinary request is a field like any other", async () => {
  const { port, exchanges } = await serve(accept);
  Raw.to(port).send(upgradeText({ upgrade: "", connection: "" }));
  await until(() => exchanges.length === 1);
  expect(exchanges[0]?.head.fields).toContain(key);
});

test("a client that does not read makes write say false, and a server that does not consume stops the client", async () => {
  const { port, exchanges, heard, sockets } = await serve(connected, { lent: true });
  const raw = Raw.to(port).send(connectText);
  await raw.until("\r\n\r\n");
  raw.socket.pause();
  const exchange = exchanges[0] as ServerExchange;
  const chunk = Buffer.alloc(65_536);
  let written = 0;
  while (exchange.write(chunk) && written < 1000) {
    written++;
    await turn();
  }
  expect(written).toBeLessThan(1000);
  raw.socket.resume();
  await until(() => heard[0]?.drainedTimes === 1);
  const before = sockets[0]?.bytesRead ?? 0;
  raw.send("x".repeat(4_000_000));
  for (let i = 0; i < 100; i++) await turn();
  expect((sockets[0]?.bytesRead ?? 0) - before).toBeLessThan(options.windowBytes + 65_537);
  let consumed = 0;
  const total = 4_000_000;
  while (consumed < total) {
    const arrived = (heard[0]?.text.length ?? 0) - consumed;
    if (arrived > 0) exchange.consume(arrived);
    consumed += arrived;
    await turn();
  }
  expect(heard[0]?.text).toHaveLength(total);
});

test("no timeout of HTTP ends a tunnel that rests", async () => {
  const { port, clock, exchanges, heard } = await serve(accept);
  const raw = Raw.to(port).send(upgradeText());
  await raw.until("\r\n\r\n");
  for (let i = 0; i < 30; i++) clock.advance(60_000);
  exchanges[0]?.write(Buffer.from("still there"));
  await raw.until("still there");
  expect(heard[0]?.loss).toBeUndefined();
});

test("a client of a tunnel that reads nothing is waited for longer than one of an answer", async () => {
  const { port, clock, exchanges, heard, sockets } = await serve(connected);
  const raw = Raw.to(port).send(connectText);
  await raw.until("\r\n\r\n");
  raw.socket.pause();
  const exchange = exchanges[0] as ServerExchange;
  const chunk = Buffer.alloc(65_536);
  for (let i = 0; i < 200; i++) exchange.write(chunk);
  await until(() => (sockets[0]?.writableLength ?? 0) > 0);
  for (let i = 0; i < 20; i++) clock.advance(60_000);
  raw.socket.resume();
  await until(() => raw.text.length > 200 * chunk.length);
  expect(heard[0]?.loss).toBeUndefined();
});

test("last bytes of a tunnel that its client never reads end with a reset, and not as if they were all", async () => {
  const { port, clock, exchanges, heard, sockets } = await serve(connected);
  const raw = Raw.to(port).send(connectText);
  await raw.until("\r\n\r\n");
  raw.socket.pause();
  raw.socket.end();
  await until(() => heard[0]?.ended === true);
  exchanges[0]?.write(Buffer.alloc(64 * 1_048_576));
  exchanges[0]?.end();
  await stalled(clock, () => sockets[0]?.destroyed === true);
  raw.socket.resume();
  await until(() => raw.closed);
  expect(raw.ended).toBe(false);
});

/** Until it is over: some bytes go as far as the kernels' buffers first. */
async function stalled(clock: ManualClock, over: () => boolean): Promise<void> {
  while (!over()) {
    clock.advance(options.writeStallMs);
    for (let i = 0; i < 20; i++) await turn();
  }
}

test("draining lets a tunnel run until its time is over", async () => {
  const { port, clock, exchanges, heard, connections } = await serve(accept);
  const raw = Raw.to(port).send(upgradeText());
  await raw.until("\r\n\r\n");
  connections[0]?.drain(10_000);
  clock.advance(9_000);
  exchanges[0]?.write(Buffer.from("still there"));
  await raw.until("still there");
  clock.advance(1_000);
  await until(() => raw.closed);
  expect(raw.ended).toBe(false);
  expect(heard[0]?.loss?.kind).toBe("lost");
});

test("a tunnel that is given up is reset, and one whose client is reset is told once", async () => {
  const { port, exchanges, heard } = await serve(connected);
  const given = Raw.to(port).send(connectText);
  await given.until("\r\n\r\n");
  const errors: string[] = [];
  given.socket.on("error", (error: NodeJS.ErrnoException) => errors.push(error.code ?? ""));
  exchanges[0]?.abort({ kind: "lost", because: "the other side" });
  await until(() => given.closed);
  expect(errors).toEqual(["ECONNRESET"]);
  expect(heard[0]?.loss).toBeUndefined();
  const gone = Raw.to(port).send(connectText);
  await gone.until("\r\n\r\n");
  gone.socket.resetAndDestroy();
  await until(() => heard[1]?.loss !== undefined);
  expect(heard[1]?.loss?.kind).toBe("cancelled");
});

test("a client that ends before the answer is heard to its end after it", async () => {
  const { port, exchanges, heard } = await serve();
  const raw = Raw.to(port).send(`${connectText}all I say`);
  raw.socket.end();
  await until(() => exchanges.length === 1);
  connected(exchanges[0] as ServerExchange);
  await until(() => heard[0]?.ended === true);
  expect(heard[0]?.text).toBe("all I say");
  exchanges[0]?.write(Buffer.from("answer"));
  exchanges[0]?.end();
  await until(() => raw.closed);
  expect(raw.text.endsWith("answer")).toBe(true);
});

test("the proxy's secret is asked of a tunnel too", async () => {
  const { port, exchanges } = await serve(connected, { secret: "Basic abc" });
  const raw = Raw.to(port).send(connectText);
  await until(() => raw.ended);
  expect(raw.text).toMatch(/^HTTP\/1.1 407 /);
  expect(exchanges).toHaveLength(0);
});

// The client's side

const ask: RequestHead = {
  method: "GET",
  scheme: "http",
  authority: "orders",
  path: "/chat",
  fields: ["sec-websocket-version", "13"],
  bodyLength: -1,
  upgrade: "websocket",
};

interface Upstream {
  readonly port: number;
  readonly peers: Raw[];
}

async function upstream(): Promise<Upstream> {
  const peers: Raw[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => peers.push(new Raw(socket)));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closers.push(() => server.close());
  return { port: (server.address() as AddressInfo).port, peers };
}

async function asked(head = ask, early = "") {
  const { port, peers } = await upstream();
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  closers.push(() => socket.destroy());
  const clock = new ManualClock();
  const closed: string[] = [];
  const idle: number[] = [];
  const client = connectHttp1(socket, {
    clock,
    random: new SeededRandom(7),
    options,
    onIdle: () => idle.push(1),
    onClosed: (because) => closed.push(because),
  });
  const heard = new Heard();
  const exchange = client.request(head, false, heard) as ClientExchange;
  if (early !== "") exchange.write(Buffer.from(early));
  await until(() => peers[0]?.text.includes("\r\n\r\n") === true);
  const peer = peers[0] as Raw;
  const sent = /Sec-WebSocket-Key: (.*)\r\n/.exec(peer.text)?.[1] ?? "";
  return { client, socket, clock, closed, idle, heard, exchange, peer, sent, requestText: peer.text };
}

function switching(sent: string, change: { line?: string; fields?: string; accept?: string } = {}): string {
  const { line = "HTTP/1.1 101 Switching Protocols", accept: given = webSocketAccept(sent) } = change;
  const { fields = "Upgrade: websocket\r\nConnection: Upgrade\r\n" } = change;
  return `${line}\r\n${fields}Sec-WebSocket-Accept: ${given}\r\nSec-WebSocket-Protocol: chat\r\n\r\n`;
}

test("an upgrade is asked with a key of this connection, whatever the request says, and the answer's proof stays here", async () => {
  const fields = [
    ...ask.fields,
    "Sec-WebSocket-Key",
    key,
    "sec-websocket-accept",
    "x",
    "sec-websocket-protocol",
    "chat",
  ];
  const { heard, exchange, peer, sent, requestText } = await asked({ ...ask, fields });
  expect(sent).not.toBe(key);
  expect(Buffer.from(sent, "base64")).toHaveLength(16);
  expect(requestText).toBe(
    "GET /chat HTTP/1.1\r\nHost: orders\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: chat\r\n" +
      `Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: ${sent}\r\n\r\n`,
  );
  peer.send(`${switching(sent)}first bytes`);
  await until(() => heard.text === "first bytes");
  expect(heard.answer).toEqual({ status: 101, fields: ["Sec-WebSocket-Protocol", "chat"], bodyLength: -1 });
  exchange.write(Buffer.from("ping"));
  await peer.until("ping");
  expect(peer.text.slice(requestText.length)).toBe("ping");
});

test("a byte that is written before 101 reaches the routee after it and not before", async () => {
  const { heard, exchange, peer, sent, requestText } = await asked(ask, "early");
  expect(exchange.write(Buffer.from(" bytes"))).toBe(false);
  for (let i = 0; i < 20; i++) await turn();
  expect(peer.text).toBe(requestText);
  peer.send(switching(sent));
  await peer.until("early bytes");
  expect(heard.drainedTimes).toBe(1);
});

test("a byte that is written before a refusal reaches nobody, and the connection is not used again", async () => {
  const { client, heard, peer, idle, closed, requestText } = await asked(ask, "early");
  peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
  await until(() => heard.ended);
  expect([heard.answer?.status, heard.text, heard.loss]).toEqual([403, "no", undefined]);
  await until(() => closed.length === 1);
  expect([peer.text, idle.length, client.open]).toEqual([requestText, 0, false]);
});

test.each<[string, (sent: string) => string]>([
  ["a wrong proof", (sent) => switching(sent, { accept: webSocketAccept(key) })],
  ["no proof", () => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"],
  [
    "two proofs",
    (sent) =>
      switching(sent, {
        fields: `Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${webSocketAccept(sent)}\r\n`,
      }),
  ],
  ["the proof in another case", (sent) => switching(sent, { accept: webSocketAccept(sent).toLowerCase() })],
  ["another protocol", (sent) => switching(sent, { fields: "Upgrade: h2c\r\nConnection: Upgrade\r\n" })],
  ["two protocols", (sent) => switching(sent, { fields: "Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n" })],
  ["no protocol", (sent) => switching(sent, { fields: "Connection: Upgrade\r\n" })],
  ["no Connection", (sent) => switching(sent, { fields: "Upgrade: websocket\r\n" })],
  ["HTTP/1.0", (sent) => switching(sent, { line: "HTTP/1.0 101 Switching Protocols" })],
  [
    "a body",
    (sent) => switching(sent, { fields: "Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 3\r\n" }),
  ],
  ["200", (sent) => switching(sent, { line: "HTTP/1.1 200 OK", fields: "Content-Length: 0\r\n" })],
  ["200 with everything else as it should be", (sent) => switching(sent, { line: "HTTP/1.1 200 OK" })],
  ["204", (sent) => switching(sent, { line: "HTTP/1.1 204 No Content" })],
])("an answer that opens no WebSocket is invalid: %s", async (_, text) => {
  const { heard, peer, sent } = await asked();
  peer.send(text(sent));
  await until(() => heard.loss !== undefined);
  expect([heard.loss?.kind, heard.answer]).toEqual(["invalid", undefined]);
});

test("a 101 that nobody asked for is invalid", async () => {
  const { heard, peer } = await asked({
    method: "POST",
    scheme: "http",
    authority: "orders",
    path: "/",
    fields: [],
    bodyLength: -1,
  });
  peer.send(switching(key));
  await until(() => heard.loss !== undefined);
  expect([heard.loss?.kind, heard.answer]).toEqual(["invalid", undefined]);
});

test("an interim answer may come before 101", async () => {
  const { heard, peer, sent } = await asked();
  peer.send(`HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n${switching(sent)}`);
  await until(() => heard.answer !== undefined);
  expect(heard.answer?.status).toBe(101);
});

test("each direction of the routee's side ends by itself, and the last bytes arrive", async () => {
  const { client, heard, exchange, peer, sent, closed } = await asked();
  peer.send(switching(sent));
  await until(() => heard.answer !== undefined);
  peer.send("bye").socket.end();
  await until(() => heard.ended);
  expect([heard.text, client.exchanges]).toEqual(["bye", 1]);
  const last = Buffer.alloc(1_000_000, "y");
  exchange.write(last);
  exchange.end();
  await until(() => peer.ended);
  expect(peer.text.endsWith("y".repeat(1_000_000))).toBe(true);
  await until(() => closed.length === 1);
  expect([closed, heard.loss, client.exchanges]).toEqual([["the tunnel ended"], undefined, 0]);
});

test("last bytes that the routee never reads end with a reset, and not as if they were all", async () => {
  const { clock, heard, exchange, peer, sent, closed } = await asked();
  peer.send(switching(sent));
  await until(() => heard.answer !== undefined);
  peer.socket.pause();
  exchange.write(Buffer.alloc(64 * 1_048_576));
  exchange.end();
  peer.socket.end();
  await until(() => heard.ended);
  await stalled(clock, () => closed.length > 0);
  peer.socket.resume();
  await until(() => peer.closed);
  expect([peer.ended, heard.loss]).toEqual([false, undefined]);
});

test("our side may end first, and the routee is heard to its end", async () => {
  const { heard, exchange, peer, sent, closed } = await asked();
  peer.send(switching(sent));
  await until(() => heard.answer !== undefined);
  exchange.end();
  await until(() => peer.ended);
  peer.send("not yet").socket.end();
  await until(() => closed.length === 1);
  expect([heard.text, heard.ended, heard.loss]).toEqual(["not yet", true, undefined]);
});

test("a routee that goes away loses the tunnel, and one that is given up is reset", async () => {
  const one = await asked();
  one.peer.send(switching(one.sent));
  await until(() => one.heard.answer !== undefined);
  one.peer.socket.resetAndDestroy();
  await until(() => one.heard.loss !== undefined);
  expect(one.heard.loss?.kind).toBe("lost");
  const two = await asked();
  two.peer.send(switching(two.sent));
  await until(() => two.heard.answer !== undefined);
  const errors: string[] = [];
  two.peer.socket.on("error", (error: NodeJS.ErrnoException) => errors.push(error.code ?? ""));
  two.exchange.abort({ kind: "cancelled", because: "the client went away" });
  await until(() => two.peer.closed);
  expect([errors, two.heard.loss]).toEqual([["ECONNRESET"], undefined]);
});

test("draining lets the tunnel to a routee run until its time is over, also when it is half closed", async () => {
  const { client, clock, heard, exchange, peer, sent } = await asked();
  peer.send(switching(sent));
  await until(() => heard.answer !== undefined);
  peer.socket.end();
  await until(() => heard.ended);
  client.drain(10_000);
  clock.advance(9_000);
  exchange.write(Buffer.from("still there"));
  await peer.until("still there");
  clock.advance(1_000);
  await until(() => peer.closed);
  expect(peer.ended).toBe(false);
  expect(heard.loss?.kind).toBe("lost");
});

test("backpressure holds both ways on the routee's side", async () => {
  const { heard, exchange, peer, socket, sent } = await asked();
  peer.send(switching(sent));
  await until(() => heard.answer !== undefined);
  peer.socket.pause();
  const chunk = Buffer.alloc(65_536);
  let written = 0;
  while (exchange.write(chunk) && written < 1000) {
    written++;
    await turn();
  }
  expect(written).toBeLessThan(1000);
  peer.socket.resume();
  await until(() => heard.drainedTimes === 1);
  peer.send("x".repeat(4_000_000));
  for (let i = 0; i < 100; i++) await turn();
  expect(socket.bytesRead).toBeLessThan(options.windowBytes + 70_000);
  let consumed = 0;
  while (consumed < 4_000_000) {
    const arrived = heard.text.length - consumed;
    if (arrived > 0) exchange.consume(arrived);
    consumed += arrived;
    await turn();
  }
});

test("the pool opens a connection for the next request beside a tunnel, and keeps none that was one", async () => {
  const { port, peers } = await upstream();
  const pool = new Http1Pool({
    target: { host: "127.0.0.1", port },
    clock: new ManualClock(),
    random: new SeededRandom(3),
    options: { ...options, routeeConnectionsMax: 1 }, // A tunnel takes nobody's place.
  });
  closers.push(() => pool.close(0));
  const heard = new Heard();
  const exchange = pool.request(ask, false, heard);
  exchange.write(Buffer.from("early"));
  await until(() => peers[0]?.text.includes("\r\n\r\n") === true);
  const sent = /Sec-WebSocket-Key: (.*)\r\n/.exec(peers[0]?.text ?? "")?.[1] ?? "";
  peers[0]?.send(switching(sent));
  await peers[0]?.until("early");
  const plain = new Heard();
  const { upgrade: _, ...ordinary } = ask;
  pool.request({ ...ordinary, fields: [], bodyLength: 0, path: "/plain" }, true, plain);
  await until(() => peers.length === 2);
  exchange.end();
  peers[0]?.socket.end();
  await until(() => heard.ended && pool.connections === 1);
  expect(pool.idle).toBe(0);
});

// Both sides in a row, as the inbound sidecar joins them

/** Joins a server exchange to a client connection, without a rule of its own. */
function join(exchange: ServerExchange, port: number): void {
  const socket = connect(port, "127.0.0.1");
  closers.push(() => socket.destroy());
  const client = connectHttp1(socket, { clock: new ManualClock(), random: new SeededRandom(9), options });
  let upstreamExchange: ClientExchange | undefined;
  const down: BodyEvents = {
    data: (chunk) => {
      if (upstreamExchange?.write(chunk) === true) exchange.consume(chunk.length);
      else owed += chunk.length;
    },
    end: () => upstreamExchange?.end(),
    aborted: (loss) => upstreamExchange?.abort(loss),
    drained: () => upstreamExchange?.consume(owedBack),
  };
  let owed = 0;
  let owedBack = 0;
  exchange.listen(down);
  socket.once("connect", () => {
    upstreamExchange = client.request(exchange.head, false, {
      informed: () => undefined,
      head: (head, end) => exchange.respond(head, end),
      data: (chunk) => {
        if (exchange.write(chunk)) upstreamExchange?.consume(chunk.length);
        else owedBack += chunk.length;
      },
      end: () => exchange.end(),
      aborted: (loss) => exchange.abort(loss),
      drained: () => {
        exchange.consume(owed);
        owed = 0;
      },
    });
  });
}

test("a client, a sidecar and a routee in a row: the client's proof is of its own key, and bytes cross in order both ways", async () => {
  const { port: routee, peers } = await upstream();
  const { port } = await serve((exchange) => join(exchange, routee), { lent: true });
  const raw = Raw.to(port).send(`${upgradeText()}1`);
  await until(() => peers[0]?.text.includes("\r\n\r\n") === true);
  const peer = peers[0] as Raw;
  const sent = /Sec-WebSocket-Key: (.*)\r\n/.exec(peer.text)?.[1] ?? "";
  expect(sent).not.toBe(key);
  expect(peer.text.endsWith("\r\n\r\n")).toBe(true);
  peer.send(`${switching(sent)}a`);
  await raw.until("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
  for (const part of ["2", "3", "4"]) {
    raw.send(part);
    await until(() => peer.text.endsWith(part));
  }
  expect(peer.text.endsWith("\r\n\r\n1234")).toBe(true);
  peer.send("b").socket.end();
  await until(() => raw.ended);
  raw.send("5").socket.end();
  await until(() => peer.ended && raw.closed);
  expect([raw.text.endsWith("\r\n\r\nab"), peer.text.endsWith("12345")]).toEqual([true, true]);
});

test("fields that would end a line are refused in both heads of a tunnel", async () => {
  const bad: Fields = ["x-a", "b\r\nSec-WebSocket-Key: c"];
  const { port } = await serve((exchange) => exchange.respond({ status: 101, fields: bad, bodyLength: -1 }, false));
  const raw = Raw.to(port).send(upgradeText());
  await until(() => raw.ended);
  expect(raw.text).toMatch(/^HTTP\/1.1 502 /);
  const { port: routee, peers } = await upstream();
  const socket = connect(routee, "127.0.0.1");
  await once(socket, "connect");
  closers.push(() => socket.destroy());
  const client = connectHttp1(socket, { clock: new ManualClock(), random: new SeededRandom(9), options });
  const heard = new Heard();
  client.request({ ...ask, fields: bad }, false, heard);
  await until(() => heard.loss !== undefined);
  expect([heard.loss?.kind, peers[0]?.text ?? ""]).toEqual(["unprocessed", ""]);
});
