import { once } from "node:events";
import { createServer, request, type IncomingMessage, type RequestListener, type Server } from "node:http";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, type AddressInfo, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeAll, expect, onTestFinished, test } from "vitest";
import { makeTestPki, type TestPki } from "../../test/support/pki.ts";
import { allow, endpoint } from "../../test/support/outbound.ts";
import { tokenIssuer } from "../../test/support/token-issuer.ts";
import { systemClock, systemRandom } from "../cli/system.ts";
import { HauberkError, isRefusal } from "../base/errors.ts";
import { defaultsOf } from "../base/options.ts";
import { Published } from "../base/published.ts";
import type { Rule } from "../base/resource.ts";
import type { RouteePort, StateEntry } from "../contract/watch.ts";
import { resilienceOptions } from "../resilience/options.ts";
import { silent, type LogFields, type Logger } from "../telemetry/logger.ts";
import { Metrics } from "../telemetry/metrics.ts";
import { http2Options } from "../transport/http2-options.ts";
import { http1Options, tlsOptions } from "../transport/options.ts";
import { dialMutualTls } from "../transport/tls-dial.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { proxyOptions } from "./options.ts";
import { Proxy, type ProxyContext } from "./proxy.ts";
import { buildSnapshot, emptySnapshot } from "./snapshot.ts";

/** Two proxies in this process, over real sockets, real mutual TLS and the real clock. */
const options = {
  proxy: defaultsOf(proxyOptions),
  resilience: defaultsOf(resilienceOptions),
  http1: defaultsOf(http1Options),
  http2: defaultsOf(http2Options),
  tls: defaultsOf(tlsOptions),
};
let pki: TestPki;
const ends: (() => void | Promise<void>)[] = [];
beforeAll(async () => {
  pki = await makeTestPki({ wallMs: Date.now() });
});
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const idText = (service: string): string => `spiffe://mesh.local/ns/default/sa/${service}`;
const webMay: Rule[] = [{ from: [{ services: ["web.default"] }] }];

interface Running {
  readonly proxy: Proxy;
  readonly identity: Published<TlsIdentity | undefined>;
  readonly snapshot: ProxyContext["snapshot"];
  readonly metrics: Metrics;
}

async function run(
  service: string,
  more: Partial<ProxyContext> = {},
  identity = pki.issue(idText(service)),
): Promise<Running> {
  const published = new Published<TlsIdentity | undefined>(identity);
  const snapshot = new Published(emptySnapshot);
  const metrics = new Metrics();
  const proxy = new Proxy({
    service: { service, namespace: "default" },
    trustDomain: "mesh.local",
    identity: published,
    snapshot,
    ask: () => Promise.resolve(null),
    clock: systemClock,
    random: systemRandom,
    log: silent,
    metrics,
    options,
    egress: [],
    routee: { host: "127.0.0.1", ports: [] },
    outbound: { address: { host: "127.0.0.1", port: 0 } },
    to: [],
    ...more,
  });
  ends.push(() => proxy.stop());
  await proxy.start();
  return { proxy, identity: published, snapshot, metrics };
}

async function serve(listener: RequestListener): Promise<{ server: Server; port: number; ports: RouteePort[] }> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  ends.push(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return { server, port, ports: [{ name: "http", port, protocol: "http" }] };
}

/** `orders` with its routee. */
async function orders(listener: RequestListener, rules: Rule[] = webMay): Promise<Running & { ports: RouteePort[] }> {
  const { ports } = await serve(listener);
  const running = await run("orders", {
    routee: { host: "127.0.0.1", ports },
    inbound: { host: "127.0.0.1", port: 0 },
  });
  running.snapshot.publish(buildSnapshot([["own", { policies: [allow("orders", rules)] }]]));
  return { ...running, ports };
}

function known(
  callees: { running: Running; ports: RouteePort[] }[],
  rules: Rule[] = webMay,
  id = idText("orders"),
): StateEntry[] {
  const endpoints = callees.map(({ running, ports }, i) =>
    endpoint(`i${i}`, { address: "127.0.0.1", port: running.proxy.inboundPort, ports }),
  );
  return [["service/orders.default", { id, policies: [allow("orders", rules)], endpoints }]];
}

interface Got {
  status: number;
  headers: IncomingMessage["headers"];
  body: string;
}

function call(
  port: number,
  use: { path?: string; method?: string; headers?: Record<string, string>; body?: string | Buffer } = {},
): Promise<Got> {
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        host: "127.0.0.1",
        port,
        path: use.path ?? "/",
        method: use.method ?? "GET",
        headers: { host: "orders", connection: "close", ...use.headers },
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("end", () =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: Buffer.concat(chunks).toString(),
          }),
        );
        response.on("error", reject);
      },
    );
    sent.on("error", reject);
    sent.end(use.body);
  });
}

test("a request crosses two sidecars, and the routee learns who called", async () => {
  const callee = await orders((request, response) => {
    response.setHeader("x-hauberk-code", "FORGED");
    response.setHeader("x-kept", "1");
    response.end(JSON.stringify({ url: request.url, headers: request.headers }));
  });
  const web = await run("web");
  web.snapshot.publish(buildSnapshot(known([{ running: callee, ports: callee.ports }])));
  const got = await call(web.proxy.outboundPort, {
    path: "/a/./b?x=%2e",
    headers: {
      "x-forwarded-client-cert": "URI=spiffe://mesh.local/ns/default/sa/admin",
      "x-request-id": "r-1",
      authorization: "Bearer x",
    },
  });
  expect(got.status).toBe(200);
  expect(got.headers["x-kept"]).toBe("1");
  expect(got.headers["x-hauberk-code"]).toBeUndefined();
  const seen = JSON.parse(got.body) as { url: string; headers: Record<string, string> };
  expect(seen.url).toBe("/a/b?x=%2e");
  expect(seen.headers).toMatchObject({
    host: "orders",
    "x-forwarded-client-cert": `By=${idText("orders")};URI=${idText("web")}`,
    "x-request-id": "r-1",
    authorization: "Bearer x",
    via: "1.1 hauberk, 2 hauberk",
  });
  expect(seen.headers["traceparent"]).toMatch(/^00-/);
  expect(Object.keys(seen.headers).filter((name) => name.startsWith("x-hauberk-"))).toEqual([]);
  expect(callee.metrics.renderPrometheus()).toMatch(
    /hauberk_requests_total\{side="inbound",service="orders.default",status="200",reason=""\} 1/,
  );
});

test("a hundred calls at once share one connection, and large bodies cross whole in both directions", async () => {
  const callee = await orders((request, response) => request.pipe(response));
  const web = await run("web");
  web.snapshot.publish(buildSnapshot(known([{ running: callee, ports: callee.ports }])));
  const large = Buffer.alloc(3_000_000, "0123456789");
  const [whole, ...small] = await Promise.all([
    call(web.proxy.outboundPort, { method: "POST", body: large }),
    ...Array.from({ length: 100 }, (_, i) => call(web.proxy.outboundPort, { method: "PUT", body: `body ${i}` })),
  ]);
  expect(whole?.body.length).toBe(large.length);
  expect(whole?.body === large.toString()).toBe(true);
  expect(small.map(({ body }) => body)).toEqual(Array.from({ length: 100 }, (_, i) => `body ${i}`));
  expect(web.metrics.renderPrometheus()).toMatch(
    /hauberk_connections_opened_total\{side="outbound",serial="[0-9a-f]+"\} 1\n/,
  );
});

test("the callee decides again: what a caller's stale policies allow it refuses", async () => {
  let reached = 0;
  const callee = await orders(
    (_, response) => {
      reached++;
      response.end();
    },
    [{ ...webMay[0], to: [{ methods: ["GET"], paths: ["/open/*"] }] }],
  );
  const web = await run("web");
  web.snapshot.publish(buildSnapshot(known([{ running: callee, ports: callee.ports }])));
  const refused = await call(web.proxy.outboundPort, { path: "/closed" });
  expect([refused.status, refused.headers["x-hauberk-code"]]).toEqual([403, "DENIED"]);
  expect(JSON.parse(refused.body)).toMatchObject({ code: "DENIED" });
  expect((await call(web.proxy.outboundPort, { path: "/open/x" })).status).toBe(200);
  callee.snapshot.publish(
    buildSnapshot([["own", { policies: [allow("orders", [{ from: [{ services: ["other.default"] }] }])] }]]),
  );
  const unknown = await call(web.proxy.outboundPort, { path: "/open/x" });
  expect([unknown.status, unknown.headers["x-hauberk-code"]]).toEqual([404, "SERVICE_UNKNOWN"]);
  expect(reached).toBe(1);
});

test("a source address is decided by the callee", async () => {
  const rule = (address: string): Rule[] => [{ from: [{ services: ["web.default"], addresses: [address] }] }];
  const callee = await orders((_, response) => response.end("in"), rule("127.0.0.0/8"));
  const web = await run("web");
  web.snapshot.publish(buildSnapshot(known([{ running: callee, ports: callee.ports }], rule("10.0.0.0/8"))));
  expect((await call(web.proxy.outboundPort)).body).toBe("in");
  callee.snapshot.publish(buildSnapshot([["own", { policies: [allow("orders", rule("10.0.0.0/8"))] }]]));
  expect((await call(web.proxy.outboundPort)).headers["x-hauberk-code"]).toBe("DENIED");
});

test("an impostor at a registered address gets not a byte", async () => {
  let reached = 0;
  const { ports } = await serve((_, response) => {
    reached++;
    response.end();
  });
  const impostor = await run("web", { routee: { host: "127.0.0.1", ports }, inbound: { host: "127.0.0.1", port: 0 } });
  impostor.snapshot.publish(buildSnapshot([["own", { policies: [allow("orders", webMay)] }]]));
  const caller = await run("web");
  caller.snapshot.publish(buildSnapshot(known([{ running: impostor, ports }])));
  const got = await call(caller.proxy.outboundPort);
  expect([got.status, got.headers["x-hauberk-code"]]).toEqual([503, "PEER_NOT_THE_SERVICE"]);
  expect(reached).toBe(0);
  expect(impostor.metrics.renderPrometheus()).not.toMatch(/hauberk_requests_total\{side="inbound"/);
});

test("a renewal under load loses no request, and the old connection is seen drained", async () => {
  const callee = await orders((_, response) => response.end("ok"));
  const web = await run("web");
  web.snapshot.publish(buildSnapshot(known([{ running: callee, ports: callee.ports }])));
  const statuses = new Map<number, number>();
  for (let round = 0; round < 6; round++) {
    const calls = Array.from({ length: 30 }, () => call(web.proxy.outboundPort));
    if (round === 2) web.identity.publish({ ...pki.issue(idText("web")), generation: 100 });
    if (round === 4) callee.identity.publish({ ...pki.issue(idText("orders")), generation: 100 });
    for (const { status } of await Promise.all(calls)) statuses.set(status, (statuses.get(status) ?? 0) + 1);
  }
  expect([...statuses]).toEqual([[200, 180]]);
  const text = web.metrics.renderPrometheus();
  expect(text.match(/hauberk_connections_opened_total\{side="outbound"/g)).toHaveLength(2);
  expect(text.match(/hauberk_connections_drained_total\{side="outbound"/g)).toHaveLength(1);
});

test("a routee that is killed while it serves costs no GET, and a POST is told that it was lost", async () => {
  const dying = await orders((request, response) => {
    if (request.url === "/die") response.socket?.destroy();
    else response.end("a");
  });
  const living = await orders((_, response) => response.end("b"));
  const web = await run("web");
  web.snapshot.publish(
    buildSnapshot(
      known([
        { running: dying, ports: dying.ports },
        { running: living, ports: living.ports },
      ]),
    ),
  );
  const gets = await Promise.all(Array.from({ length: 8 }, () => call(web.proxy.outboundPort, { path: "/die" })));
  expect(gets.map(({ status, body }) => `${status} ${body}`)).toEqual(Array.from({ length: 8 }, () => "200 b"));
  const posts = await Promise.all(
    [1, 2].map(() => call(web.proxy.outboundPort, { path: "/die", method: "POST", body: "x" })),
  );
  expect(posts.map(({ status }) => status).sort((a, b) => a - b)).toEqual([200, 502]);
  expect(posts.find(({ status }) => status === 502)?.headers["x-hauberk-code"]).toBe("UPSTREAM_LOST");
});

test("a stopped callee is CONNECT_FAILED, then BREAKER_OPEN at once", async () => {
  const callee = await orders((_, response) => response.end("ok"));
  const web = await run("web");
  web.snapshot.publish(buildSnapshot(known([{ running: callee, ports: callee.ports }])));
  expect((await call(web.proxy.outboundPort)).status).toBe(200);
  await callee.proxy.stop();
  const codes: unknown[] = [];
  for (let i = 0; i < 6; i++) codes.push((await call(web.proxy.outboundPort)).headers["x-hauberk-code"]);
  expect(codes[0]).toBe("CONNECT_FAILED");
  expect(codes.at(-1)).toBe("BREAKER_OPEN");
  expect(web.metrics.renderPrometheus()).toMatch(
    /hauberk_breaker_transitions_total\{service="orders.default",instance="i0",to="open"\} 1/,
  );
});

test("drain lets what is under way end", async () => {
  const arrived = Promise.withResolvers<() => void>();
  const callee = await orders((_, response) => arrived.resolve(() => response.end("late")));
  const web = await run("web");
  web.snapshot.publish(buildSnapshot(known([{ running: callee, ports: callee.ports }])));
  const got = call(web.proxy.outboundPort);
  const answer = await arrived.promise;
  const drained = Promise.all([web.proxy.drain(5_000), callee.proxy.drain(5_000)]);
  answer();
  expect((await got).body).toBe("late");
  await drained;
});

test("the secret of the listener, a listener for one service, and a taken port", async () => {
  const callee = await orders((_, response) => response.end("ok"));
  const web = await run("web", {
    outbound: { address: { host: "127.0.0.1", port: 0 }, secret: "s3cret" },
    to: [
      {
        service: { service: "orders", namespace: "default" },
        address: { host: "127.0.0.1", port: callee.proxy.outboundPort, orFree: true },
      },
    ],
  });
  web.snapshot.publish(buildSnapshot(known([{ running: callee, ports: callee.ports }])));
  expect((await call(web.proxy.outboundPort)).status).toBe(407);
  const secret = `Basic ${Buffer.from("hauberk:s3cret").toString("base64")}`;
  expect((await call(web.proxy.outboundPort, { headers: { "proxy-authorization": secret } })).status).toBe(200);
  expect(
    (await call(web.proxy.outboundPort, { path: "http://orders/x", headers: { "proxy-authorization": secret } }))
      .status,
  ).toBe(200);
  const second = run("other", { outbound: { address: { host: "127.0.0.1", port: web.proxy.outboundPort } } });
  await expect(second).rejects.toMatchObject({ code: "PORT_TAKEN" });
});

test("a client that waits for 100 gets it from the routee", async () => {
  const callee = await orders((request, response) => request.pipe(response));
  const web = await run("web");
  web.snapshot.publish(buildSnapshot(known([{ running: callee, ports: callee.ports }])));
  const got = await new Promise<string>((resolve, reject) => {
    const sent = request({
      host: "127.0.0.1",
      port: web.proxy.outboundPort,
      method: "POST",
      headers: { host: "orders", expect: "100-continue", connection: "close" },
    });
    sent.on("error", reject);
    sent.on("continue", () => sent.end("after 100"));
    sent.on("response", (response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => (text += chunk.toString()));
      response.on("end", () => resolve(text));
    });
    sent.flushHeaders();
  });
  expect(got).toBe("after 100");
});

test("a token is judged at both ends, and known from then on", async () => {
  const { entry, bearer } = tokenIssuer();
  const wanted: Rule[] = [{ ...webMay[0], jwt: { provider: "corp", claims: { scope: ["read"] } } }];
  const callee = await orders((_, response) => response.end("ok"), wanted);
  callee.snapshot.publish(buildSnapshot([["own", { policies: [allow("orders", wanted)] }], entry]));
  const web = await run("web");
  web.snapshot.publish(buildSnapshot([...known([{ running: callee, ports: callee.ports }], wanted), entry]));
  const ask = async (headers: Record<string, string>) => {
    const got = await call(web.proxy.outboundPort, { headers });
    return got.headers["x-hauberk-code"] ?? got.status;
  };
  expect(await ask({})).toBe("JWT_MISSING");
  expect(await ask({ authorization: bearer({ scope: "write" }) })).toBe("DENIED");
  expect(await ask({ authorization: `${bearer({ scope: "read" })}x` })).toBe("JWT_INVALID");
  for (let i = 0; i < 3; i++) expect(await ask({ authorization: bearer({ scope: "read" }) })).toBe(200);
});

test("bytes that are no request end nothing but their connection", async () => {
  const callee = await orders((_, response) => response.end("ok"));
  const web = await run("web");
  web.snapshot.publish(buildSnapshot(known([{ running: callee, ports: callee.ports }])));
  for (const junk of [
    "\0\0\0\0",
    "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\n\r\n12",
  ]) {
    await new Promise<void>((resolve) => {
      const socket = connect(web.proxy.outboundPort, "127.0.0.1", () => {
        socket.write(junk);
        socket.end();
      });
      socket.on("error", () => resolve());
      socket.on("close", () => resolve());
      socket.resume();
    });
  }
  await new Promise<void>((resolve) => {
    const socket = connect(callee.proxy.inboundPort, "127.0.0.1", () => socket.end("GET / HTTP/1.1\r\n\r\n"));
    socket.on("error", () => resolve());
    socket.on("close", () => resolve());
    socket.resume();
  });
  expect((await call(web.proxy.outboundPort)).status).toBe(200);
});

test("a stranger who is refused a hundred times causes two lines: the first, and how many more there were", async () => {
  const lines: { message: string; fields: LogFields | undefined }[] = [];
  const log: Logger = { ...silent, warn: (message, fields) => lines.push({ message, fields }), child: () => log };
  const { proxy, metrics } = await run("orders", {
    log,
    routee: { host: "127.0.0.1", ports: [{ name: "http", port: 1, protocol: "http" }] },
    inbound: { host: "127.0.0.1", port: 0 },
  });
  for (let i = 0; i < 100; i++) {
    const stranger = connect(proxy.inboundPort, "127.0.0.1");
    stranger.on("error", () => undefined);
    stranger.write("GET / HTTP/1.1\r\n\r\n");
    await once(stranger, "close");
  }
  await proxy.stop();
  const refused = lines.filter(({ message }) => message === "a connection was refused");
  expect(refused.map(({ fields }) => [fields?.["code"], fields?.["more"]])).toEqual([
    ["PEER_UNTRUSTED", undefined],
    ["PEER_UNTRUSTED", 99],
  ]);
  expect(metrics.renderPrometheus()).toMatch(/hauberk_handshakes_refused_total\{[^}]*PEER_UNTRUSTED[^}]*\} 100/);
});

test("connections above either cap are closed, counted, and said with what raises the cap; those below go on", async () => {
  const lines: LogFields[] = [];
  const log: Logger = { ...silent, warn: (_, fields) => void lines.push(fields ?? {}), child: () => log };
  const capped = {
    ...options,
    proxy: { ...options.proxy, outboundConnectionsMax: 2, peerShareRatio: 1 },
    tls: { ...options.tls, tlsConnectionsMax: 2 },
  };
  const { ports } = await serve((_, response) => response.end("fine"));
  const { proxy, metrics, snapshot } = await run("orders", {
    log,
    options: capped,
    routee: { host: "127.0.0.1", ports },
    inbound: { host: "127.0.0.1", port: 0 },
  });
  snapshot.publish(buildSnapshot([["own", { policies: [allow("orders", webMay)] }]]));
  const overCap = async (port: number, open: () => Promise<Socket>): Promise<void> => {
    const opened = [await open(), await open()];
    const over = connect(port, "127.0.0.1").on("error", () => undefined);
    await once(over.resume(), "close");
    expect(opened.map(({ closed }) => closed)).toEqual([false, false]);
    for (const socket of opened) socket.destroy();
  };
  await overCap(proxy.outboundPort, async () => {
    const socket = connect(proxy.outboundPort, "127.0.0.1").on("error", () => undefined);
    await once(socket, "connect");
    return socket;
  });
  await overCap(proxy.inboundPort, async () => {
    const socket = await dialMutualTls({
      address: "127.0.0.1",
      port: proxy.inboundPort,
      identity: pki.issue(idText("web")),
      expect: idText("orders"),
      clock: systemClock,
      timeoutMs: 10_000,
      alpn: ["h2"],
    });
    if (isRefusal(socket)) throw HauberkError.from(socket);
    await once(socket, "data"); // Only now it is known that the other end is through with the handshake.
    return socket;
  });
  const text = metrics.renderPrometheus();
  for (const side of ["outbound", "inbound"])
    expect(text).toContain(`hauberk_handshakes_refused_total{side="${side}",code="LIMIT_CONNECTIONS"} 1`);
  expect(lines.map(({ code, hint }) => [code, hint])).toEqual([
    ["LIMIT_CONNECTIONS", expect.stringContaining("HAUBERK_OUTBOUND_CONNECTIONS_MAX")],
    ["LIMIT_CONNECTIONS", expect.stringContaining("HAUBERK_TLS_CONNECTIONS_MAX")],
  ]);
});

test("a web page of another site gets nothing through a port of --to, and programs and sockets go on as ever", async () => {
  const seen: string[] = [];
  const callee = await orders((incoming, response) => {
    seen.push(String(incoming.headers["x-case"]));
    response.end("ok");
  });
  const free = await serve(() => undefined);
  free.server.close();
  const folder = mkdtempSync(join(tmpdir(), "hauberk-to-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, "orders.sock");
  const service = { service: "orders", namespace: "default" };
  const web = await run("web", {
    to: [
      { service, address: { host: "127.0.0.1", port: free.port } },
      { service, address: { path } },
    ],
  });
  web.snapshot.publish(buildSnapshot(known([{ running: callee, ports: callee.ports }])));
  const cases: [string, Record<string, string>, number][] = [
    ["program", { host: `127.0.0.1:${free.port}` }, 200],
    ["name", { host: "orders" }, 200],
    ["rebound", { host: `attacker.example:${free.port}` }, 403],
    ["image", { host: `127.0.0.1:${free.port}`, "sec-fetch-site": "cross-site" }, 403],
    ["form", { host: `localhost:${free.port}`, origin: "https://attacker.example" }, 403],
  ];
  for (const [name, headers, status] of cases) {
    const got = await call(free.port, { headers: { ...headers, "x-case": name } });
    expect([name, got.status, got.headers["x-hauberk-code"]]).toEqual([
      name,
      status,
      status === 403 ? "CROSS_SITE" : undefined,
    ]);
  }
  const socket = await new Promise<number>((resolve, reject) => {
    request({ socketPath: path, headers: { host: "anything", "x-case": "socket" } }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    })
      .once("error", reject)
      .end();
  });
  expect(socket).toBe(200);
  expect(seen).toEqual(["program", "name", "socket"]);
});
