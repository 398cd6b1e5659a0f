import { once } from "node:events";
import { Agent, request, type IncomingMessage } from "node:http";
import { connect, createServer } from "node:http2";
import type { AddressInfo } from "node:net";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { makeTestPki } from "../support/pki.ts";
import { ok, RawPeer, RawRoutee } from "../support/raw-routee.ts";
import { dialInbound, twoProxies, type TwoProxies } from "../support/two-proxies.ts";

/** HTTP/1.1 on both sides of a mesh, byte by byte. */
let routee: RawRoutee;
let mesh: TwoProxies;
const clients: RawPeer[] = [];

beforeAll(async () => {
  routee = await RawRoutee.start();
  mesh = await twoProxies(await makeTestPki({ wallMs: Date.now() }), { routee: routee.port });
});

afterEach(() => {
  for (const client of clients.splice(0)) client.socket.destroy();
  routee.forget();
  routee.answer = () => ok("ok");
});

afterAll(async () => {
  await mesh.end();
  routee.close();
});

function client(text = ""): RawPeer {
  const peer = RawPeer.to(mesh.web.proxy.outboundPort);
  clients.push(peer);
  if (text !== "") peer.send(text);
  return peer;
}

function get(path = "/", more = ""): string {
  return `GET ${path} HTTP/1.1\r\nHost: orders\r\n${more}\r\n`;
}

/** The names and values of the head that the routee saw, without what the sidecars write. */
function fieldsOf(head: string): string[] {
  const own = /^(via|x-forwarded-client-cert|x-request-id|traceparent): /i;
  return head
    .slice(0, head.indexOf("\r\n\r\n"))
    .split("\r\n")
    .slice(1)
    .filter((line) => !own.test(line));
}

test("requests of one connection are answered in their order, and connections are kept on both sides", async () => {
  routee.answer = (head) => ok(/ (\S+) /.exec(head)?.[1] ?? "");
  const one = client([0, 1, 2, 3, 4].map((i) => get(`/${i}`)).join(""));
  const text = await one.until((seen) => seen.includes("/4"));
  expect(text.match(/\r\n\r\n\/\d/g)).toEqual([0, 1, 2, 3, 4].map((i) => `\r\n\r\n/${i}`));
  one.send(get("/5"));
  await one.until((seen) => seen.includes("/5"));
  expect(routee.asked).toHaveLength(1);
  expect(text).not.toMatch(/connection:/i);
});

test("Connection: close ends the client's connection and not the routee's", async () => {
  const one = client(get("/", "Connection: close\r\n"));
  expect(await one.over()).toMatch(/\r\nConnection: close\r\n\r\nok$/);
  const two = client(get("/2"));
  await two.until((seen) => seen.endsWith("ok"));
  expect(routee.asked).toHaveLength(1);
  expect(routee.text).not.toMatch(/connection:/i);
});

test("HTTP/1.0 is answered as such, and the routee sees HTTP/1.1", async () => {
  routee.answer = () => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
  const text = await client("GET / HTTP/1.0\r\nHost: orders\r\n\r\n").over();
  expect(text).toMatch(/^HTTP\/1.1 200 OK\r\n[^]*\r\n\r\nabcde$/);
  expect(text).not.toMatch(/transfer-encoding/i);
  expect(routee.text).toMatch(/^GET \/ HTTP\/1\.1\r\n/);
});

test("bodies are chunked anew on each side, and trailers cross both ways", async () => {
  routee.answer = () => undefined;
  const one = client(
    "POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n" +
      "3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\nAuthorization: Bearer x\r\nX-Hauberk-Code: DENIED\r\n\r\n",
  );
  while (routee.asked.length === 0) await new Promise((resolve) => setImmediate(resolve));
  const peer = routee.asked[0] as RawPeer;
  const seen = await peer.until((text) => /\r\n0\r\n[^]*\r\n\r\n$/.test(text));
  const body = seen.slice(seen.indexOf("\r\n\r\n") + 4);
  expect(seen).toMatch(/\r\nTransfer-Encoding: chunked\r\n\r\n/);
  expect(body.replaceAll(/(^|\r\n)[0-9a-f]+\r\n/g, "")).toMatch(/^abcde/);
  expect(body).toMatch(/0\r\nx-sum: 5\r\n\r\n$/);
  expect(body).not.toMatch(/ext|authorization|hauberk/i);
  peer.send(
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwxyz\r\n0\r\nX-Check: 4\r\nSet-Cookie: a=b\r\n\r\n",
  );
  const answer = await one.until((text) => text.endsWith("0\r\nx-check: 4\r\n\r\n"));
  expect(answer).toMatch(/\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwxyz\r\n0\r\nx-check: 4\r\n\r\n$/);
});

test.each<[string, string, string, RegExp]>([
  ["HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", /^HTTP\/1.1 200 OK\r\ncontent-length: 5\r\n\r\n$/i],
  ["HEAD without a length", "HEAD", "HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n", /^HTTP\/1.1 200 OK\r\nX-A: b\r\n\r\n$/],
  ["204", "GET", "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n", /^HTTP\/1.1 204 No Content\r\nX-A: b\r\n\r\n$/],
  [
    "304",
    "GET",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n",
    /^HTTP\/1.1 304 Not Modified\r\nETag: x\r\ncontent-length: 5\r\n\r\n$/i,
  ],
  ["an empty body", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", /\r\nContent-Length: 0\r\n\r\n$/],
])("an answer without a body leaves the connection usable: %s", async (_, method, answer, seen) => {
  routee.answer = (head) => (head.includes("/next") ? ok("next") : answer);
  const one = client(`${method} / HTTP/1.1\r\nHost: orders\r\n\r\n`);
  const text = await one.until((so) => so.includes("\r\n\r\n"));
  expect(text).toMatch(seen);
  one.send(get("/next"));
  expect((await one.until((so) => so.endsWith("next"))).slice(text.length)).toMatch(/^HTTP\/1.1 200 OK/);
  expect(routee.asked).toHaveLength(1);
});

test("Expect: 100-continue is the routee's to answer, with 100 or with a refusal", async () => {
  routee.answer = (head) =>
    head.includes("/no") ? "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno" : undefined;
  const expecting = (path: string): string =>
    `POST ${path} HTTP/1.1\r\nHost: orders\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n`;
  const one = client(expecting("/yes"));
  while (!routee.text.includes("/yes")) await new Promise((resolve) => setImmediate(resolve));
  expect(routee.text).toMatch(/\r\nExpect: 100-continue\r\n/);
  expect(routee.text.endsWith("\r\n\r\n")).toBe(true);
  expect(one.text).toBe("");
  const peer = routee.asked[0] as RawPeer;
  peer.send("HTTP/1.1 100 Continue\r\n\r\n");
  expect(await one.until((text) => text !== "")).toBe("HTTP/1.1 100 Continue\r\n\r\n");
  one.send("hello");
  await peer.until((text) => text.endsWith("hello"));
  peer.send(ok("thanks"));
  await one.until((text) => text.endsWith("thanks"));
  expect(await client(expecting("/no")).over()).toMatch(/^HTTP\/1.1 417 [^]*\r\nConnection: close\r\n\r\nno$/);
});

test("early hints cross", async () => {
  routee.answer = () => `HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n${ok("ok")}`;
  const text = await client(get()).until((seen) => seen.endsWith("ok"));
  expect(text).toMatch(/^HTTP\/1.1 103 Early Hints\r\nlink: <\/a.css>\r\n\r\nHTTP\/1.1 200 OK\r\n/i);
});

test.each<[string, string[]]>([
  ["canonical case", ["User-Agent: curl", "Accept: */*", "X-Foo: 1", "Content-Type: a/b", "Authorization: Bearer x"]],
  ["lower case", ["user-agent: curl", "accept: */*", "x-foo: 1"]],
  ["a mixture", ["User-Agent: curl", "accept: */*", "ETag: x", "X-FOO-bar: 1", "SOAPAction: y", "cookie: a=b"]],
])("names arrive at a routee, and at a client, as they were written: %s", async (_, lines) => {
  routee.answer = () => ok("ok", lines.map((line) => `${line}\r\n`).join(""));
  const one = client(get("/", lines.map((line) => `${line}\r\n`).join("")));
  const text = await one.until((seen) => seen.endsWith("ok"));
  expect(fieldsOf(routee.text)).toEqual(["Host: orders", ...lines]);
  expect(fieldsOf(text)).toEqual([...lines, "Content-Length: 2"]);
  // Said once on the hop, and nowhere else.
  expect(routee.text + text).not.toMatch(/hauberk-case/i);
});

test("names cross one sidecar as they were written, where a peer speaks HTTP/1.1 to it", async () => {
  routee.answer = () => ok("ok", "ETag: x\r\nx-low: 1\r\n");
  const peer = new RawPeer(await dialInbound(mesh, "web", "http/1.1"));
  clients.push(peer);
  peer.send(get("/", "SOAPAction: y\r\nx-low: 1\r\n"));
  const text = await peer.until((seen) => seen.endsWith("ok"));
  expect(fieldsOf(routee.text)).toEqual(["Host: orders", "SOAPAction: y", "x-low: 1"]);
  expect(fieldsOf(text)).toEqual(["ETag: x", "x-low: 1", "Content-Length: 2"]);
});

test.each(["a workload", "a peer"])("%s that speaks HTTP/2 is told nothing of case", async (who) => {
  routee.answer = () => ok("ok", "ETag: x\r\n");
  const socket = who === "a peer" ? await dialInbound(mesh, "web", "h2") : undefined;
  const url = `http://127.0.0.1:${mesh.web.proxy.outboundPort}`;
  const session = socket === undefined ? connect(url) : connect(url, { createConnection: () => socket });
  const stream = session.request({ ":authority": "orders", ":path": "/", via: "1.1 other" });
  const [headers] = (await once(stream, "response")) as [Record<string, string>];
  expect(headers).toMatchObject({ ":status": 200, etag: "x" });
  expect(Object.keys(headers).filter((name) => name.startsWith("x-hauberk"))).toEqual([]);
  session.destroy();
});

test("a routee that speaks HTTP/2 gets lower case, and its answer arrives in lower case", async () => {
  const seen: string[] = [];
  const server = createServer((received, response) => {
    seen.push(...Object.keys(received.headers));
    response.setHeader("ETag", "x");
    response.end("ok");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const other = await twoProxies(mesh.pki, { routee: (server.address() as AddressInfo).port, protocol: "h2" });
  try {
    const peer = RawPeer.to(other.web.proxy.outboundPort);
    clients.push(peer);
    const text = await peer.send(get("/", "SOAPAction: y\r\nX-A: 1\r\n")).until((so) => so.endsWith("\r\n0\r\n\r\n"));
    expect(text).toMatch(/^HTTP\/1.1 200 OK\r\netag: x\r\n/);
    expect(seen).toEqual(expect.arrayContaining(["soapaction", "x-a"]));
  } finally {
    await other.end();
    server.close();
  }
});

test("what a workload or a routee says of spelling itself is not believed", async () => {
  routee.answer = () => ok("ok", "x-hauberk-case: X-KEPT\r\nx-kept: 1\r\n");
  const text = await client(get("/", "x-hauberk-case: X-MINE\r\nx-mine: 1\r\n")).until((seen) => seen.endsWith("ok"));
  expect(fieldsOf(routee.text)).toEqual(["Host: orders", "x-mine: 1"]);
  expect(fieldsOf(text)).toEqual(["x-kept: 1", "Content-Length: 2"]);
});

test("node:http keeps its connection alive through the mesh", async () => {
  routee.answer = (head) => ok(/ (\S+) /.exec(head)?.[1] ?? "");
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const ask = (path: string): Promise<[string, boolean]> =>
    new Promise((resolve, reject) => {
      const sent = request(
        { host: "127.0.0.1", port: mesh.web.proxy.outboundPort, path, agent, headers: { host: "orders" } },
        (response: IncomingMessage) => {
          let text = "";
          response.on("data", (chunk: Buffer) => (text += chunk.toString()));
          response.on("end", () => resolve([text, sent.reusedSocket]));
        },
      );
      sent.on("error", reject);
      sent.end();
    });
  expect(await ask("/1")).toEqual(["/1", false]);
  expect(await ask("/2")).toEqual(["/2", true]);
  agent.destroy();
});

test("a peer without a sidecar opens a TCP port by CONNECT in HTTP/1.1, and each direction ends by itself, over TLS too", async () => {
  const server = await RawRoutee.start();
  server.answer = () => undefined;
  const tcp = await twoProxies(mesh.pki, { routee: server.port, protocol: "tcp" });
  try {
    const socket = await dialInbound(tcp, "web", "http/1.1");
    const peer = new RawPeer(socket);
    clients.push(peer);
    const authority = `orders.default.mesh:${server.port}`;
    peer.send(`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n\r\nearly`);
    expect(await peer.until((text) => text.includes("\r\n\r\n"))).toBe("HTTP/1.1 200 OK\r\n\r\n");
    while (server.asked.length === 0) await new Promise((resolve) => setImmediate(resolve));
    const routeeEnd = server.asked[0] as RawPeer;
    await routeeEnd.until((text) => text === "early");
    peer.send(", late").socket.end();
    expect(await routeeEnd.over()).toBe("early, late");
    routeeEnd.send("after your end").socket.end();
    expect(await peer.over()).toBe("HTTP/1.1 200 OK\r\n\r\nafter your end");
  } finally {
    await tcp.end();
    server.close();
  }
});
