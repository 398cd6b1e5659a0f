import { once } from "node:events";
import { createServer, request, type IncomingMessage, type Server as HttpServer } from "node:http";
import { connect, createServer as createTcpServer, type AddressInfo, type Server, type Socket } from "node:net";
import { networkInterfaces } from "node:os";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { WebSocket, WebSocketServer } from "ws";
import type { Resolve } from "../../src/proxy/outside-hosts.ts";
import { makeTestPki, type TestPki } from "../support/pki.ts";
import { twoProxies, type TwoProxies } from "../support/two-proxies.ts";

/** Hosts outside of the mesh, over real sockets: they are this machine's own, by an address that is not loopback. */
const own = Object.values(networkInterfaces())
  .flatMap((all) => all ?? [])
  .find(({ family, internal, address }) => family === "IPv4" && !internal && !address.startsWith("169.254."))?.address;
const address = own ?? "";

const secret = "s3cret";
const authorization = `Basic ${Buffer.from(`hauberk:${secret}`).toString("base64")}`;
let pki: TestPki;
let mesh: TwoProxies;
let http: HttpServer;
let tcp: Server;
let loopback: HttpServer;
const seen: IncomingMessage["headers"][] = [];
const arrived = { http: 0, tcp: 0, loopback: 0 };
const clients: Socket[] = [];
const portOf = (server: { address(): unknown }): number => (server.address() as AddressInfo).port;
/** What names lead to; the second answer is for whoever looks a second time. */
const names = new Map<string, readonly string[]>();
let looks = 0;
const resolve: Resolve = (host, _options, found) => {
  const addresses = names.get(host);
  if (addresses === undefined) return found(new Error("there is no such host"), []);
  const answer = looks++ === 0 ? addresses.slice(0, 1) : addresses.slice(-1);
  found(
    null,
    answer.map((one) => ({ address: one, family: one.includes(":") ? 6 : 4 })),
  );
};

async function listen(server: Server | HttpServer, host: string): Promise<void> {
  server.listen(0, host);
  await once(server, "listening");
}

beforeAll(async () => {
  if (own === undefined) return;
  pki = await makeTestPki({ wallMs: Date.now() });
  http = createServer((incoming, response) => {
    seen.push(incoming.headers);
    response.setHeader("X-Hauberk-Code", "DENIED");
    response.setHeader("X-Url", incoming.url ?? "");
    incoming.pipe(response);
  });
  http.on("connection", () => arrived.http++);
  new WebSocketServer({ server: http }).on("connection", (socket) => {
    socket.on("message", (data) => socket.send(`echo ${(data as Buffer).toString()}`));
  });
  tcp = createTcpServer({ allowHalfOpen: true }, (socket) => {
    arrived.tcp++;
    socket.on("error", () => undefined);
    socket.pipe(socket);
  });
  loopback = createServer((_, response) => response.end("inside"));
  loopback.on("connection", () => arrived.loopback++);
  await listen(http, address);
  await listen(tcp, address);
  await listen(loopback, "127.0.0.1");
  const egress = [address, "*.example.com", "api.example.com:80"];
  mesh = await twoProxies(pki, {
    routee: portOf(loopback),
    web: {
      egress,
      resolve,
      inbound: { host: "0.0.0.0", port: 0 },
      outbound: { address: { host: "127.0.0.1", port: 0 }, secret },
    },
  });
});
afterEach(() => {
  for (const client of clients.splice(0)) client.destroy();
  seen.length = 0;
  looks = 0;
  names.clear();
});
afterAll(async () => {
  if (own === undefined) return;
  await mesh.end();
  http.closeAllConnections();
  for (const server of [http, tcp, loopback]) server.close();
});

interface Got {
  readonly status: number | undefined;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

/** Asks the sidecar as a client of a proxy does: in the absolute form. */
async function ask(
  url: string,
  use: { method?: string; body?: string; headers?: Record<string, string> } = {},
): Promise<Got> {
  const asked = request({
    host: "127.0.0.1",
    port: mesh.web.proxy.outboundPort,
    method: use.method ?? "GET",
    path: url,
    // As it was written: a URL would put it into another spelling.
    headers: { host: url.split("/")[2] ?? "", "proxy-authorization": authorization, ...use.headers },
  });
  asked.end(use.body);
  const [response] = (await once(asked, "response")) as [IncomingMessage];
  let body = "";
  for await (const chunk of response) body += String(chunk);
  return { status: response.statusCode, headers: response.headers, body };
}

/** Asks for a tunnel; gives the socket and the head of the answer. */
async function tunnel(authority: string, credentials = authorization): Promise<{ socket: Socket; head: string }> {
  const socket = connect({ host: "127.0.0.1", port: mesh.web.proxy.outboundPort, allowHalfOpen: true });
  clients.push(socket);
  socket.on("error", () => undefined);
  socket.write(`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\nProxy-Authorization: ${credentials}\r\n\r\n`);
  const [first] = (await once(socket, "data")) as [Buffer];
  return { socket, head: first.toString("latin1") };
}

// Without one there is nothing that could stand for the outside.
const why = own === undefined ? " (skipped: this machine has no IPv4 address but loopback)" : "";

describe.skipIf(own === undefined)(`a host outside of the mesh${why}`, () => {
  test("is called in plain HTTP, on connections that are kept, and sees nothing of the mesh", async () => {
    const before = arrived.http;
    for (let i = 0; i < 3; i++) {
      const got = await ask(`http://${address}:${portOf(http)}/a/../b?x=%2e`, {
        method: "PUT",
        body: "x".repeat(100_000),
        headers: { "x-hauberk-timeout-ms": "5000", "x-forwarded-client-cert": "URI=spiffe://x" },
      });
      expect([got.status, got.body.length, got.headers["x-url"]]).toEqual([200, 100_000, "/a/../b?x=%2e"]);
      expect(got.headers["x-hauberk-code"]).toBeUndefined();
    }
    expect(arrived.http - before).toBe(1);
    expect(Object.keys(seen[0] ?? {}).toSorted()).toEqual(["content-length", "host", "via"]);
    expect(seen[0]?.host).toBe(`${address}:${portOf(http)}`);
    expect(mesh.web.metrics.renderPrometheus()).toContain(
      'hauberk_requests_total{side="outbound",service="egress",status="200",reason=""}',
    );
  });

  test("is called by a name, which is looked up once for a connection", async () => {
    names.set("once.example.com", [address, "127.0.0.1"]);
    const got = await ask(`http://once.example.com:${portOf(http)}/`, { headers: { connection: "close" } });
    expect([got.status, looks, seen[0]?.host]).toEqual([200, 1, `once.example.com:${portOf(http)}`]);
  });

  test("is reached through a tunnel, whose halves end by themselves", async () => {
    const { socket, head } = await tunnel(`${address}:${portOf(tcp)}`);
    expect(head).toMatch(/^HTTP\/1\.1 200 /);
    const sent = Buffer.alloc(1_000_000, "0123456789");
    const chunks: Buffer[] = [];
    socket.on("data", (chunk: Buffer) => chunks.push(chunk));
    socket.end(sent);
    await once(socket, "end");
    expect(Buffer.concat(chunks).equals(sent)).toBe(true);
  });

  test("speaks WebSocket", async () => {
    const socket = new WebSocket(`ws://127.0.0.1:${mesh.web.proxy.outboundPort}/chat`, {
      headers: { host: `${address}:${portOf(http)}`, "proxy-authorization": authorization },
    });
    await once(socket, "open");
    socket.send("hello");
    const [data] = (await once(socket, "message")) as [Buffer];
    expect(String(data)).toBe("echo hello");
    socket.close();
    await once(socket, "close");
  });

  test("that does not accept is CONNECT_FAILED, and one that has no address too", async () => {
    const free = createTcpServer();
    await listen(free, address);
    const port = portOf(free);
    await new Promise((done) => free.close(done));
    for (const url of [`http://${address}:${port}/`, "http://nowhere.example.com/"]) {
      const got = await ask(url);
      expect([got.status, got.headers["x-hauberk-code"]], url).toEqual([503, "CONNECT_FAILED"]);
    }
    expect((await tunnel(`${address}:${port}`)).head).toContain("CONNECT_FAILED");
  });
});

describe.skipIf(own === undefined)(`nothing goes to what is not outside${why}`, () => {
  const rows = (): (readonly [what: string, authority: string, leadsTo?: string[]])[] => {
    const inside = portOf(loopback);
    return [
      [`a host that is not listed`, `api.example.org:${inside}`],
      ["loopback", `127.0.0.1:${inside}`],
      ["loopback in IPv6", `[::1]:${inside}`],
      ["loopback mapped to IPv6", `[::ffff:127.0.0.1]:${inside}`],
      ["localhost", `localhost:${inside}`],
      ["the metadata service", "169.254.169.254:80"],
      ["the unspecified address", `0.0.0.0:${inside}`],
      ["a name that leads to loopback", `evil.example.com:${inside}`, ["127.0.0.1"]],
      ["a name that leads to mapped loopback", `evil.example.com:${inside}`, ["::ffff:127.0.0.1"]],
      ["a name that leads to IPv6 loopback", `evil.example.com:${inside}`, ["::1"]],
      ["a name that leads to the metadata service", "evil.example.com:80", ["169.254.169.254"]],
      ["a name that leads to no address at all", `evil.example.com:${inside}`, ["0.0.0.0"]],
      ["the sidecar's own inbound port", `${address}:${mesh.web.proxy.inboundPort}`],
      ["the same by a name", `evil.example.com:${mesh.web.proxy.inboundPort}`, [address]],
    ];
  };

  test("by a request, by a tunnel, in any spelling", async () => {
    for (const [what, authority, leadsTo] of rows()) {
      looks = 0;
      names.clear();
      if (leadsTo !== undefined) names.set("evil.example.com", leadsTo);
      const before = { ...arrived };
      const got = await ask(`http://${authority}/`);
      expect([got.status, got.headers["x-hauberk-code"]], what).toEqual([421, "NOT_IN_MESH"]);
      expect((await tunnel(authority)).head, what).toContain("NOT_IN_MESH");
      expect(arrived, what).toEqual(before);
    }
  });

  test("without the secret", async () => {
    const before = { ...arrived };
    const got = await ask(`http://${address}:${portOf(http)}/`, { headers: { "proxy-authorization": "Basic eDp5" } });
    expect([got.status, got.headers["x-hauberk-code"]]).toEqual([407, "PROXY_SECRET_WRONG"]);
    expect((await tunnel(`${address}:${portOf(tcp)}`, "Basic eDp5")).head).toContain("PROXY_SECRET_WRONG");
    expect(arrived).toEqual(before);
  });

  test("for https in the absolute form, which would go out as plain text", async () => {
    const before = { ...arrived };
    const got = await ask(`https://${address}:${portOf(http)}/`);
    expect([got.status, got.headers["x-hauberk-code"]]).toEqual([400, "REQUEST_INVALID"]);
    expect(got.body).toContain("CONNECT");
    expect(arrived).toEqual(before);
  });
});
