import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer, type Server as HttpServer } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { credentials, makeGenericClientConstructor, Server as GrpcServer, ServerCredentials } from "@grpc/grpc-js";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { toPem } from "../../src/x509/pem.ts";
import { eventually } from "../support/mesh.ts";
import { makeTestPki, type TestPki } from "../support/pki.ts";
import { idText, twoProxies, webMay, type TwoProxies } from "../support/two-proxies.ts";

/** Raw TCP through two sidecars, over real sockets: what a program sees that speaks its own protocol. */
let pki: TestPki;
let mesh: TwoProxies;
let folder: string;
let http: HttpServer;
let grpc: GrpcServer;
let tcp: Server;
/** What the TCP routee does with each connection. */
let serve: (socket: Socket) => void;
let arrivals = 0;
const clients: Socket[] = [];
const run = promisify(execFile);
const at = (name: string): string => join(folder, `${name}.sock`);
const portOf = (server: { address(): unknown }): number => (server.address() as AddressInfo).port;

beforeAll(async () => {
  pki = await makeTestPki({ wallMs: Date.now() });
  folder = mkdtempSync(join(tmpdir(), "hauberk-tcp-"));
  http = createHttpServer((request, response) => response.end(`http ${request.method} ${request.url}`));
  tcp = createServer({ allowHalfOpen: true }, (socket) => {
    arrivals++;
    socket.on("error", () => undefined);
    serve(socket);
  });
  http.listen(0, "127.0.0.1");
  tcp.listen(0, "127.0.0.1");
  await Promise.all([once(http, "listening"), once(tcp, "listening")]);
  grpc = new GrpcServer();
  const orders = { service: "orders", namespace: "default" };
  mesh = await twoProxies(pki, {
    routee: portOf(http),
    tcpPorts: [portOf(tcp)],
    // The sidecar looks whether the routee accepts: once, so that who arrives there later is somebody else.
    options: { proxy: { tunnelIdleMs: 60_000, healthIntervalMs: 600_000 } },
    to: [
      { service: orders, port: portOf(tcp), address: { path: at("tcp") } },
      { service: orders, address: { path: at("first") } },
      { service: orders, port: 1, address: { path: at("none") } },
      { service: { service: "ghost", namespace: "default" }, address: { path: at("ghost") } },
    ],
  });
});

afterEach(() => {
  for (const client of clients.splice(0)) client.destroy();
  mesh.publish(webMay);
  arrivals = 0;
});

afterAll(async () => {
  await mesh.end();
  grpc.forceShutdown();
  http.close();
  tcp.close();
  rmSync(folder, { recursive: true, force: true });
});

function open(name: string): Socket {
  const client = connect({ path: at(name), allowHalfOpen: true });
  client.on("error", () => undefined);
  clients.push(client);
  return client;
}

function openOutbound(): Socket {
  const client = connect({ host: "127.0.0.1", port: mesh.web.proxy.outboundPort, allowHalfOpen: true });
  client.on("error", () => undefined);
  clients.push(client);
  return client;
}

/** All that comes until the other side ends, or resets. */
function untilEnd(client: Socket): Promise<string> {
  return new Promise((resolve) => {
    let text = "";
    client.on("data", (chunk) => (text += String(chunk)));
    client.resume();
    client.once("end", () => resolve(text));
    client.once("close", () => resolve(text));
  });
}

function untilText(client: Socket, wanted: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    const take = (chunk: Buffer): void => {
      text += String(chunk);
      if (!text.includes(wanted)) return;
      client.off("data", take);
      client.pause();
      resolve(text);
    };
    client.on("data", take);
    client.resume();
    client.once("close", () => reject(new Error(`closed after ${JSON.stringify(text)}`)));
  });
}

const echo = (socket: Socket): void => void socket.pipe(socket);

test("a server may speak first, each side ends its own direction, and the log has the tunnel's line at its end", async () => {
  serve = (socket) => {
    socket.write("220 ready\r\n");
    let got = "";
    socket.on("data", (chunk) => (got += String(chunk)));
    socket.on("end", () => socket.end(`got ${got}`));
  };
  const client = open("tcp");
  await untilText(client, "ready");
  client.end("QUIT");
  expect(await untilEnd(client)).toBe("got QUIT");
  const line = await eventually("the line", 2_000, () =>
    mesh.web.accesses().find(({ method }) => method === "CONNECT"),
  );
  expect(line).toMatchObject({ status: 200, service: "orders.default", bytesIn: 4, bytesOut: 19, attempts: 1 });
});

test("8 MiB go through whole in each direction at once", async () => {
  serve = echo;
  const bytes = 8 * 1_048_576;
  const client = open("tcp");
  const chunk = Buffer.alloc(65_536, 3);
  let sent = 0;
  const go = (): void => {
    while (sent < bytes) {
      sent += chunk.length;
      if (!client.write(chunk)) return;
    }
    client.end();
  };
  client.on("drain", go);
  go();
  let got = 0;
  for await (const data of client) got += (data as Buffer).length;
  expect(got).toBe(bytes);
});

test("eight clients that do not read stop their routees, and not a ninth on the same hop", async () => {
  let written = 0;
  const chunk = Buffer.alloc(65_536);
  serve = (socket) => {
    const pump = (): void => {
      while (!socket.destroyed && socket.write(chunk)) written += chunk.length;
    };
    socket.on("drain", pump);
    pump();
  };
  const stalled = Array.from({ length: 8 }, () => open("tcp").pause());
  let last = 0;
  let looks = 0;
  await eventually("nobody writes any more", 10_000, () => {
    looks = last === written ? looks + 1 : 0;
    last = written;
    return (looks >= 15 && written > 0) || undefined;
  });
  // Mostly in the kernel's buffers, of three sockets for each.
  expect(last / stalled.length).toBeLessThan(16 * 1_048_576);
  serve = echo;
  const ninth = open("tcp");
  ninth.write("still here");
  expect(await untilText(ninth, "still here")).toBe("still here");
});

test("without a port the listener leads to the first that was registered, which is HTTP here", async () => {
  const client = open("first");
  client.end("GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  expect(await untilEnd(client)).toContain("http GET /a");
});

test("a connection that no rule allows is reset, and the routee hears nothing", async () => {
  serve = echo;
  for (const rules of [[], [{ ...webMay[0], to: [{ ports: [1] }] }], [{ ...webMay[0], to: [{ methods: ["GET"] }] }]]) {
    mesh.publish(rules);
    const client = open("tcp");
    client.write("hello");
    expect(await untilEnd(client)).toBe("");
  }
  expect(arrivals).toBe(0);
});

test("a service that is unknown, or has no such port, is said in HTTP to who speaks HTTP, and is a reset to others", async () => {
  for (const [name, status] of [
    ["ghost", "404"],
    ["none", "503"],
  ] as const) {
    const asking = open(name);
    asking.write("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    expect(await untilEnd(asking)).toContain(`HTTP/1.1 ${status}`);
    for (const first of ["*1\r\n$4\r\nPING\r\n", "EHLO x\r\n", "\x16\x03\x01"]) {
      const other = open(name);
      other.write(first);
      expect(await untilEnd(other)).toBe("");
    }
  }
  const silent = open("ghost");
  expect(await untilEnd(silent)).toBe("");
});

test("CONNECT at the outbound listener is a tunnel to a TCP port", async () => {
  serve = echo;
  const client = openOutbound();
  client.write(`CONNECT orders:${portOf(tcp)} HTTP/1.1\r\nHost: orders:${portOf(tcp)}\r\n\r\nearly `);
  expect(await untilText(client, "early")).toMatch(/^HTTP\/1\.1 200 [^]*\r\n\r\nearly $/);
  client.end("late");
  expect(await untilEnd(client)).toBe("late");
});

test("CONNECT to an HTTP port carries HTTP/1.1 inside, kept alive, decided request by request", async () => {
  mesh.publish([{ ...webMay[0], to: [{ methods: ["GET"] }] }]);
  const client = openOutbound();
  client.write(`CONNECT orders:${portOf(http)} HTTP/1.1\r\nHost: orders:${portOf(http)}\r\n\r\n`);
  await untilText(client, "200");
  client.write("GET /one HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
  await untilText(client, "http GET /one");
  client.write("DELETE /two HTTP/1.1\r\nHost: orders\r\n\r\n");
  expect(await untilText(client, "requestId")).toContain("403");
  client.end("GET /three HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n");
  expect(await untilEnd(client)).toContain("http GET /three");
  await eventually(
    "no tunnel is left",
    2_000,
    () => mesh.web.metrics.renderPrometheus().includes('hauberk_tunnels_open{side="outbound"} 0') || undefined,
  );
});

for (const authority of ["127.0.0.1:22", "localhost:80", "169.254.169.254:80", "example.org.invalid:80"]) {
  test(`CONNECT to ${authority} is refused with 421`, async () => {
    const client = openOutbound();
    client.write(`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n\r\n`);
    const answer = await untilText(client, "requestId");
    expect(answer).toMatch(/^HTTP\/1\.1 421 /);
    expect(answer).toContain("NOT_IN_MESH");
  });
}

test("a drain lets a tunnel live until its time is over", async () => {
  serve = echo;
  const socket = at("drained");
  const orders = { service: "orders", namespace: "default" };
  const second = await twoProxies(pki, {
    routee: portOf(http),
    tcpPorts: [portOf(tcp)],
    to: [{ service: orders, port: portOf(tcp), address: { path: socket } }],
  });
  const client = open("drained");
  client.write("a");
  await untilText(client, "a");
  const drained = second.orders.proxy.drain(1_000);
  client.write("b");
  expect(await untilText(client, "b")).toBe("b");
  let over = false;
  // A Unix socket knows no reset.
  client.once("end", () => (over = true));
  client.resume();
  await new Promise((resolve) => setImmediate(resolve));
  expect(over).toBe(false);
  await drained;
  if (!over) await once(client, "end");
  await second.end();
});

/** A tunnel to `authority` from a peer that holds an SVID and is no sidecar; its status, and what an echo gives back. */
async function foreignTunnel(service: string, authority: string): Promise<{ status: number; echoed: string }> {
  const identity = pki.issue(idText(service));
  const session = connectHttp2(`https://127.0.0.1:${mesh.orders.proxy.inboundPort}`, {
    ca: toPem("CERTIFICATE", pki.root.der),
    cert: identity.chain.map(({ der }) => toPem("CERTIFICATE", der)).join(""),
    key: identity.key.export({ type: "pkcs8", format: "pem" }),
    servername: "orders.default.mesh",
  });
  const stream = session.request({ ":method": "CONNECT", ":authority": authority }, { endStream: false });
  const [fields] = (await once(stream, "response")) as [{ ":status": number }];
  stream.end("abc");
  let echoed = "";
  for await (const chunk of stream) echoed += String(chunk);
  session.close();
  return { status: fields[":status"], echoed };
}

test("a peer with an SVID and no sidecar opens a tunnel to a declared TCP port, and to nothing else", async () => {
  serve = echo;
  const host = "orders.default.mesh";
  expect(await foreignTunnel("web", `${host}:${portOf(tcp)}`)).toEqual({ status: 200, echoed: "abc" });
  arrivals = 0;
  for (const authority of [
    `${host}:${portOf(http)}`,
    `${host}:${mesh.orders.proxy.inboundPort}`,
    `${host}:22`,
    `127.0.0.1:${portOf(tcp)}`,
    `localhost:${portOf(tcp)}`,
    `[::1]:${portOf(tcp)}`,
    `169.254.169.254:80`,
    `ledger:${portOf(tcp)}`,
  ]) {
    const { status, echoed } = await foreignTunnel("web", authority);
    expect({ authority, status }).toEqual({ authority, status: 421 });
    expect(echoed).toContain("NOT_IN_MESH");
  }
  const stranger = await foreignTunnel("billing", `${host}:${portOf(tcp)}`);
  expect([stranger.status, stranger.echoed.includes("SERVICE_UNKNOWN")]).toEqual([404, true]);
  expect(arrivals).toBe(0);
});

test("curl with an SVID goes through the inbound listener as through a proxy, to a TCP port", async () => {
  const identity = pki.issue(idText("web"));
  const files = { "ca.crt": toPem("CERTIFICATE", pki.root.der), "web.crt": "", "web.key": "" };
  files["web.crt"] = identity.chain.map(({ der }) => toPem("CERTIFICATE", der)).join("");
  files["web.key"] = identity.key.export({ type: "pkcs8", format: "pem" });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text, { mode: 0o600 });
  serve = (socket) =>
    socket.once("data", (head) => socket.end(`HTTP/1.0 200 OK\r\n\r\n${String(head).split("\r")[0]}`));
  const { inboundPort } = mesh.orders.proxy;
  const proxy = ["--proxytunnel", "--proxy", `https://orders.default.mesh:${inboundPort}`];
  const tls = ["--proxy-cacert", "ca.crt", "--proxy-cert", "web.crt", "--proxy-key", "web.key"];
  const resolve = ["--resolve", `orders.default.mesh:${inboundPort}:127.0.0.1`];
  const url = `http://orders.default.mesh:${portOf(tcp)}/through`;
  const { stdout } = await run("curl", ["--silent", "--max-time", "8", ...proxy, ...tls, ...resolve, url], {
    cwd: folder,
  });
  expect(stdout).toBe("GET /through HTTP/1.1");
});

test("grpc-js, which goes through a proxy by CONNECT and speaks h2c inside, reaches its service", async () => {
  const service = {
    shout: {
      path: "/t.T/Shout",
      requestStream: false,
      responseStream: false,
      requestSerialize: (text: string) => Buffer.from(text),
      requestDeserialize: String,
      responseSerialize: (text: string) => Buffer.from(text),
      responseDeserialize: String,
    },
  } as const;
  grpc.addService(service, {
    shout: (call: { request: string }, done: (error: null, answer: string) => void) =>
      done(null, call.request.toUpperCase()),
  });
  const port = await new Promise<number>((resolve, reject) =>
    grpc.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  );
  const second = await twoProxies(pki, { routee: port, protocol: "h2" });
  process.env["grpc_proxy"] = `http://127.0.0.1:${second.web.proxy.outboundPort}`;
  const Client = makeGenericClientConstructor(service, "T");
  const client = new Client(`orders.default.mesh:${port}`, credentials.createInsecure());
  try {
    const answers = await Promise.all(
      ["a", "b", "c"].map(
        (text) =>
          new Promise((resolve, reject) =>
            (client["shout"] as (text: string, done: (error: Error | null, answer: string) => void) => void).call(
              client,
              text,
              (error, answer) => (error === null ? resolve(answer) : reject(error)),
            ),
          ),
      ),
    );
    expect(answers).toEqual(["A", "B", "C"]);
  } finally {
    delete process.env["grpc_proxy"];
    client.close();
    await second.end();
  }
});
