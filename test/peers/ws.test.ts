import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { WebSocket, WebSocketServer, type ClientOptions } from "ws";
import type { Rule } from "../../src/base/resource.ts";
import { toPem } from "../../src/x509/pem.ts";
import { makeTestPki, type TestPki } from "../support/pki.ts";
import { tokenIssuer } from "../support/token-issuer.ts";
import { idText, twoProxies, webMay, type TwoProxies } from "../support/two-proxies.ts";

/**
 * `ws`, client and server, through two sidecars: an upgrade in HTTP/1.1 at both ends, extended CONNECT (RFC 8441) between
 * them.
 */
let pki: TestPki;
let routee: Routee;
let mesh: TwoProxies;
const sockets: WebSocket[] = [];

interface Routee {
  readonly port: number;
  readonly server: Server;
  /** The handshakes as they arrived. */
  readonly asked: IncomingMessage[];
  /** The routee's ends. */
  readonly ends: WebSocket[];
}

/** What routees say that switch to nothing. */
const rawAnswers: ReadonlyMap<string, string> = new Map([
  ["/forbidden", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nX-Why: because\r\n\r\nno"],
  ["/liar", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"],
  [
    "/forger",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
      "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
  ],
]);

async function serveRoutee(): Promise<Routee> {
  const server = createServer((request, response) => response.end(`plain ${request.url}`));
  const plain = new WebSocketServer({ noServer: true, handleProtocols: (offered) => offered.has("chat") && "chat" });
  const deflating = new WebSocketServer({ noServer: true, perMessageDeflate: { threshold: 0 } });
  const asked: IncomingMessage[] = [];
  const ends: WebSocket[] = [];
  server.on("upgrade", (request, socket, head) => {
    asked.push(request);
    if (request.url === "/never") return;
    const raw = rawAnswers.get(request.url ?? "");
    if (raw !== undefined) {
      socket.end(raw);
      return;
    }
    const chosen = request.url === "/deflate" ? deflating : plain;
    chosen.handleUpgrade(request, socket, head, (end) => {
      ends.push(end);
      if (request.url === "/echo" || request.url === "/deflate")
        end.on("message", (data, binary) => end.send(data, { binary }));
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { port: (server.address() as AddressInfo).port, server, asked, ends };
}

beforeAll(async () => {
  pki = await makeTestPki({ wallMs: Date.now() });
  routee = await serveRoutee();
  mesh = await twoProxies(pki, { routee: routee.port });
});

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.terminate();
  for (const end of routee.ends.splice(0)) end.terminate();
  routee.asked.splice(0);
  mesh.publish(webMay);
  await until(() => gauge(mesh.orders) === 0 && gauge(mesh.web) === 0);
});

afterAll(async () => {
  await mesh.end();
  routee.server.closeAllConnections();
  routee.server.close();
});

async function until(holds: () => boolean, withinMs = 10_000): Promise<void> {
  const endMs = performance.now() + withinMs;
  while (!holds()) {
    if (performance.now() > endMs) throw new Error(`not seen within ${withinMs} ms: ${holds.toString()}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

function keep(socket: WebSocket): void {
  socket.on("error", () => undefined); // Said again by whoever waits for it.
  sockets.push(socket);
}

function gauge(of: TwoProxies["web"]): number {
  return sum(of, "hauberk_tunnels_open");
}

function sum(of: TwoProxies["web"], name: string, label = ""): number {
  const lines = of.metrics.renderPrometheus().split("\n");
  const values = lines.filter((line) => line.startsWith(`${name}{`) && line.includes(label));
  return values.reduce((total, line) => total + Number(line.slice(line.lastIndexOf(" "))), 0);
}

function dial(path = "/echo", protocols: string[] = [], options: ClientOptions = {}): WebSocket {
  const url = `ws://127.0.0.1:${mesh.web.proxy.outboundPort}${path}`;
  const socket = new WebSocket(url, protocols, {
    perMessageDeflate: false,
    ...options,
    headers: { host: "orders", ...options.headers },
  });
  keep(socket);
  return socket;
}

async function open(path?: string, protocols?: string[], options?: ClientOptions): Promise<WebSocket> {
  const socket = dial(path, protocols, options);
  await once(socket, "open");
  return socket;
}

async function echoed(socket: WebSocket, data: string | Buffer): Promise<Buffer> {
  const came = once(socket, "message");
  socket.send(data);
  const [got, binary] = (await came) as [Buffer, boolean];
  expect(binary).toBe(typeof data !== "string");
  return got;
}

/** The status and the code of an answer that is no 101. */
async function refusal(socket: WebSocket): Promise<[number, string | undefined]> {
  const [, response] = (await once(socket, "unexpected-response")) as [unknown, IncomingMessage];
  response.resume();
  return [response.statusCode ?? 0, response.headers["x-hauberk-code"] as string | undefined];
}

test("text, binary and a megabyte come back as they went", async () => {
  const socket = await open();
  expect((await echoed(socket, "grüße")).toString()).toBe("grüße");
  const small = randomBytes(300);
  expect((await echoed(socket, small)).equals(small)).toBe(true);
  const large = randomBytes(1_048_576);
  expect((await echoed(socket, large)).equals(large)).toBe(true);
  expect((await echoed(socket, "")).length).toBe(0);
});

test("pings, pongs and close codes cross both ways", async () => {
  const socket = await open();
  const end = routee.ends[0] as WebSocket;
  const pong = once(socket, "pong");
  socket.ping("p");
  expect(((await pong) as [Buffer])[0].toString()).toBe("p");
  const back = once(end, "pong");
  end.ping("q");
  expect(((await back) as [Buffer])[0].toString()).toBe("q");
  const closedThere = once(end, "close");
  const closedHere = once(socket, "close");
  socket.close(4001, "enough");
  const [code, reason] = (await closedThere) as [number, Buffer];
  expect([code, reason.toString()]).toEqual([4001, "enough"]);
  await closedHere;
  const second = await open();
  const closed = once(second, "close");
  (routee.ends[1] as WebSocket).close(1012, "restart");
  const [backCode, backReason] = (await closed) as [number, Buffer];
  expect([backCode, backReason.toString()]).toEqual([1012, "restart"]);
});

test("the subprotocol is agreed end to end, and compression is theirs alone", async () => {
  const socket = await open("/echo", ["nothing", "chat"]);
  expect(socket.protocol).toBe("chat");
  const deflating = await open("/deflate", [], { perMessageDeflate: { threshold: 0 } });
  expect(deflating.extensions).toContain("permessage-deflate");
  const before = sum(mesh.orders, "hauberk_tunnel_bytes_total");
  const text = "again and again ".repeat(20_000);
  expect((await echoed(deflating, text)).toString()).toBe(text);
  const crossed = sum(mesh.orders, "hauberk_tunnel_bytes_total") - before;
  expect(crossed).toBeGreaterThan(0);
  expect(crossed).toBeLessThan(20_000);
});

test("the routee sees one handshake of its own sidecar, who called, and nothing of the hop", async () => {
  const headers = {
    "x-hauberk-principal": "admin",
    "X-Hauberk-Timeout-Ms": "5000",
    "x-forwarded-client-cert": `URI=${idText("admin")}`,
    "x-mine": "kept",
    cookie: "a=b",
  };
  await open("/echo?token=1", [], { headers }).catch(() => undefined);
  await until(() => routee.asked.length === 1);
  const [seen] = routee.asked as [IncomingMessage];
  expect([seen.method, seen.url, seen.headers.host]).toEqual(["GET", "/echo?token=1", "orders"]);
  expect(seen.headers).toMatchObject({
    "x-forwarded-client-cert": `By=${idText("orders")};URI=${idText("web")}`,
    "x-mine": "kept",
    cookie: "a=b",
    "sec-websocket-version": "13",
  });
  expect(Object.keys(seen.headers).filter((name) => name.startsWith("x-hauberk"))).toEqual([]);
  expect(seen.rawHeaders.filter((name) => name.toLowerCase() === "sec-websocket-key")).toHaveLength(1);
});

test("a hundred sockets share one connection between the sidecars, each with its own bytes", async () => {
  const opened = (): number => sum(mesh.web, "hauberk_connections_opened_total", 'side="outbound"');
  const before = opened();
  const all = await Promise.all(Array.from({ length: 100 }, () => open()));
  expect(gauge(mesh.orders)).toBe(100);
  await Promise.all(
    all.map(async (socket, i) => {
      for (let round = 0; round < 5; round++)
        expect((await echoed(socket, `${i}/${round}`)).toString()).toBe(`${i}/${round}`);
    }),
  );
  // None where an earlier test has opened it.
  expect(opened() - before).toBeLessThanOrEqual(1);
  // Requests go on beside them.
  const plain = await fetchPlain("/beside");
  expect(plain).toEqual([200, "plain /beside"]);
});

async function fetchPlain(path: string): Promise<[number, string]> {
  const { request } = await import("node:http");
  return new Promise((resolve, reject) => {
    const sent = request(
      { host: "127.0.0.1", port: mesh.web.proxy.outboundPort, path, headers: { host: "orders" }, agent: false },
      (response) => {
        let text = "";
        response.on("data", (chunk: Buffer) => (text += chunk.toString()));
        response.on("end", () => resolve([response.statusCode ?? 0, text]));
      },
    );
    sent.on("error", reject);
    sent.end();
  });
}

test("a routee that refuses is heard, one that lies about it is not", async () => {
  const socket = dial("/forbidden");
  const [, response] = (await once(socket, "unexpected-response")) as [unknown, IncomingMessage];
  expect([response.statusCode, response.headers["x-why"]]).toEqual([403, "because"]);
  expect((await response.toArray()).join("")).toBe("no");
  for (const path of ["/liar", "/forger"]) expect(await refusal(dial(path))).toEqual([502, "UPSTREAM_INVALID"]);
});

test("policies decide on a handshake as on a GET of its path", async () => {
  const may = (methods: string[], paths: string[]): Rule[] => [{ ...webMay[0], to: [{ methods, paths }] }];
  mesh.publish(may(["GET"], ["/echo"]));
  await open("/echo");
  expect(await refusal(dial("/deflate"))).toEqual([403, "DENIED"]);
  mesh.publish(may(["POST", "CONNECT"], ["/*"]));
  expect(await refusal(dial("/echo"))).toEqual([403, "DENIED"]);
  mesh.publish([{ from: [{ services: ["other.default"] }] }]);
  expect(await refusal(dial("/echo"))).toEqual([404, "SERVICE_UNKNOWN"]);
  expect(routee.asked).toHaveLength(1);
});

test("a token is asked of the handshake", async () => {
  const { entry, bearer } = tokenIssuer();
  const authorization = bearer();
  mesh.publish([{ ...webMay[0], jwt: { provider: "corp" } }], [entry]);
  expect(await refusal(dial("/echo"))).toEqual([401, "JWT_MISSING"]);
  expect(await refusal(dial("/echo", [], { headers: { authorization: `${authorization}x` } }))).toEqual([
    401,
    "JWT_INVALID",
  ]);
  const socket = await open("/echo", [], { headers: { authorization } });
  expect((await echoed(socket, "in")).toString()).toBe("in");
});

test("metrics count the tunnel while it is open, and the access log has one line at its end", async () => {
  const seen = mesh.orders.accesses().length;
  const socket = await open("/echo?secret=1");
  routee.ends[0]?.on("message", () => routee.ends[0]?.send("x".repeat(1_000)));
  expect([gauge(mesh.web), gauge(mesh.orders)]).toEqual([1, 1]);
  expect(sum(mesh.orders, "hauberk_requests_open")).toBe(0);
  expect(mesh.orders.accesses()).toHaveLength(seen);
  const came = once(socket, "message");
  socket.send("y".repeat(100));
  await came;
  socket.close();
  await until(() => gauge(mesh.orders) === 0 && gauge(mesh.web) === 0);
  for (const side of [mesh.web, mesh.orders]) {
    const line = side.accesses().at(-1);
    expect(line).toMatchObject({ method: "GET", path: "/echo", status: 101, service: "orders.default" });
    expect(line?.["principal"]).toBe(idText("web"));
    expect(line?.["bytesIn"]).toBeGreaterThan(100);
    expect(line?.["bytesOut"]).toBeGreaterThan(1_000);
    expect(line?.["code"]).toBeUndefined();
  }
});

test("a server that never answers costs the handshake its deadline, and nothing else", async () => {
  const hurried = await twoProxies(pki, { routee: routee.port, options: { proxy: { requestTimeoutMs: 200 } } });
  try {
    const socket = new WebSocket(`ws://127.0.0.1:${hurried.web.proxy.outboundPort}/never`, {
      headers: { host: "orders" },
    });
    keep(socket);
    expect(await refusal(socket)).toEqual([504, "DEADLINE_EXCEEDED"]);
    // A tunnel that is open has none.
    const living = new WebSocket(`ws://127.0.0.1:${hurried.web.proxy.outboundPort}/echo`, {
      headers: { host: "orders" },
    });
    keep(living);
    await once(living, "open");
    const openedMs = performance.now();
    while (performance.now() < openedMs + 400) expect((await echoed(living, "still")).toString()).toBe("still");
    living.terminate();
  } finally {
    await hurried.end();
  }
});

test.each([
  ["the client", "/silent", "client"],
  ["the routee", "/silent", "routee"],
])("%s that does not read stops the other end, and everything arrives once it reads", async (_, path, slow) => {
  const socket = await open(path);
  const end = routee.ends[0] as WebSocket;
  const [writer, reader] = slow === "client" ? [end, socket] : [socket, end];
  reader.pause();
  let received = 0;
  reader.on("message", (data: Buffer) => (received += data.length));
  const chunk = Buffer.alloc(65_536, "z");
  const count = 400;
  let sent = 0;
  for (let i = 0; i < count; i++) writer.send(chunk, () => sent++);
  // Whoever writes stands still: what the kernel and the sidecars hold is full.
  let movedMs = performance.now();
  let before = -1;
  await until(() => {
    if (sent !== before) movedMs = performance.now();
    before = sent;
    return performance.now() > movedMs + 200;
  });
  expect(sent).toBeLessThan(count);
  expect(received).toBe(0);
  reader.resume();
  await until(() => received === count * chunk.length);
  expect(sent).toBe(count);
});

test("an end that vanishes is seen by the other as lost, not as closed", async () => {
  const socket = await open("/silent");
  const end = routee.ends[0] as WebSocket;
  const closed = once(end, "close");
  socket.terminate();
  expect(((await closed) as [number])[0]).toBe(1006);
  const second = await open("/silent");
  const lost = once(second, "close");
  second.on("error", () => undefined);
  (routee.ends[1] as WebSocket).terminate();
  expect(((await lost) as [number])[0]).toBe(1006);
});

test("a drain lets a socket live until its time is over", async () => {
  const draining = await twoProxies(pki, { routee: routee.port });
  const url = `ws://127.0.0.1:${draining.web.proxy.outboundPort}/echo`;
  const socket = new WebSocket(url, { headers: { host: "orders" } });
  keep(socket);
  await once(socket, "open");
  const closed = once(socket, "close");
  socket.on("error", () => undefined);
  const drained = draining.orders.proxy.drain(400);
  expect((await echoed(socket, "still")).toString()).toBe("still");
  expect(((await closed) as [number])[0]).toBe(1006);
  await drained;
  await draining.end();
});

test("a peer without a sidecar opens a WebSocket over TLS straight at the inbound listener", async () => {
  const identity = pki.issue(idText("web"));
  const tls = {
    key: toPem("PRIVATE KEY", identity.key.export({ type: "pkcs8", format: "der" })),
    cert: identity.chain.map(({ der }) => toPem("CERTIFICATE", der)).join(""),
    ca: [toPem("CERTIFICATE", pki.root.der)],
    checkServerIdentity: () => undefined,
  };
  const url = `wss://127.0.0.1:${mesh.orders.proxy.inboundPort}/echo`;
  const socket = new WebSocket(url, { headers: { host: "orders.default.mesh" }, ...tls });
  keep(socket);
  await once(socket, "open");
  const large = randomBytes(1_048_576);
  expect((await echoed(socket, large)).equals(large)).toBe(true);
  expect(routee.asked[0]?.headers["x-forwarded-client-cert"]).toBe(`By=${idText("orders")};URI=${idText("web")}`);
  const closed = once(socket, "close");
  (routee.ends[0] as WebSocket).close(1000, "bye");
  const [code, reason] = (await closed) as [number, Buffer];
  expect([code, reason.toString()]).toEqual([1000, "bye"]);
  const stranger = pki.issue(idText("stranger"));
  const refused = new WebSocket(url, {
    headers: { host: "orders.default.mesh" },
    ...tls,
    key: toPem("PRIVATE KEY", stranger.key.export({ type: "pkcs8", format: "der" })),
    cert: stranger.chain.map(({ der }) => toPem("CERTIFICATE", der)).join(""),
  });
  keep(refused);
  expect(await refusal(refused)).toEqual([404, "SERVICE_UNKNOWN"]);
});

test("a page of another site opens no WebSocket at a port of one service, and a program does", async () => {
  const free = createServer();
  free.listen(0, "127.0.0.1");
  await once(free, "listening");
  const { port } = free.address() as AddressInfo;
  await new Promise((resolve) => free.close(resolve));
  const guarded = await twoProxies(pki, {
    routee: routee.port,
    to: [{ service: { service: "orders", namespace: "default" }, address: { host: "127.0.0.1", port } }],
  });
  try {
    const through = (options: ClientOptions): WebSocket => {
      const socket = new WebSocket(`ws://127.0.0.1:${port}/echo`, options);
      keep(socket);
      return socket;
    };
    expect(await refusal(through({ origin: "https://evil.example" }))).toEqual([403, "CROSS_SITE"]);
    const program = through({});
    await once(program, "open");
    expect((await echoed(program, "in")).toString()).toBe("in");
    program.terminate();
  } finally {
    await guarded.end();
  }
});
