import { existsSync, readFileSync } from "node:fs";
import { request } from "node:https";
import { connect } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Down, StateEntry } from "../../src/contract/watch.ts";
import { ask, eventually, Mesh, metricsOf, sumOf, type Started } from "../support/mesh.ts";
import {
  allow,
  applyText,
  exportIdentity,
  freePort,
  hear,
  openRoutee,
  recordTls,
  speakTls,
  type Routee,
} from "./routees.ts";
import { enrollStranger, type Stranger } from "./stranger.ts";

let mesh: Mesh;
let web: Started;
let orders: Started;
let ledger: Started;
let shop: Started;
const routees: Routee[] = [];

beforeAll(async () => {
  mesh = await Mesh.create();
  await mesh.control();
  const [ordersApp, ledgerApp] = [await openRoutee({ name: "orders" }), await openRoutee({ name: "ledger" })];
  const inbound = await freePort();
  routees.push(ordersApp, ledgerApp);
  [web, orders, ledger, shop] = await Promise.all([
    mesh.sidecar("web"),
    // Not the default port, which another mesh's sidecar might take as soon as it is free.
    mesh.sidecar("orders", ["--app", `http:${ordersApp.port}`, "--inbound-port", String(inbound)]),
    mesh.sidecar("ledger", ["--app", `http:${ledgerApp.port}`]),
    mesh.sidecar("shop"),
    applyText(mesh, allow("web", "orders") + allow("orders", "ledger") + allow("shop", "orders")),
  ]);
  await eventually(
    "orders calls ledger",
    5_000,
    async () => (await call(orders, "ledger")).startsWith("HTTP/1.1 200") || undefined,
  );
  await eventually(
    "web calls orders",
    5_000,
    async () => (await call(web, "orders")).startsWith("HTTP/1.1 200") || undefined,
  );
});

afterAll(async () => {
  await mesh.end();
  for (const routee of routees) await routee.close();
});

test("a service that no policy lets you call does not exist for you: not a byte tells it from one that is not there", async () => {
  // "ledger" exists and is forbidden; "lodger" was never there.
  const forbidden = await call(web, "ledger");
  const absent = await call(web, "lodger");
  expect(forbidden).toMatch(/^HTTP\/1\.1 404 /);
  expect(forbidden).toContain("SERVICE_UNKNOWN");
  expect(forbidden.replaceAll("ledger", "lodger")).toBe(absent);
  // The callee says the same to whoever goes there without a sidecar, as it would for a name that it does not know.
  const direct = await speakTls(
    { port: Number(ledger.ready["inbound"]), identity: await exportIdentity(mesh, "web") },
    requestOf("ledger"),
  );
  expect(direct.received.toString("latin1")).toContain("SERVICE_UNKNOWN");
  expect(bodyOf(direct.received.toString("latin1")).replaceAll("ledger", "lodger")).toBe(bodyOf(absent));
  expect(requestsFrom("web", 1)).toBe(0);
});

test("a forbidden sidecar never receives an endpoint or a policy of the service, neither in memory nor on disk", async () => {
  const secrets = [
    `:${Number(ledger.ready["inbound"])}`,
    String(ledger.ready["inbound"]),
    String(ledger.ready["instance"]),
    "orders-calls-ledger",
  ];
  await call(web, "ledger");
  const snapshot = (await ask({ socketPath: String(web.ready["admin"]), path: "/snapshot" })).body;
  // The caller that may call holds all of it: what is looked for is really what would be sent.
  const allowed = (await ask({ socketPath: String(orders.ready["admin"]), path: "/snapshot" })).body;
  expect(allowed).toContain(secrets[0]);
  expect(allowed).toContain(secrets[2]);
  const stored = await eventually("web wrote its snapshot", 5_000, () => {
    const text = storedSnapshot("web");
    return text.includes("service/orders.default") ? text : undefined;
  });
  const storedByOrders = await eventually("orders wrote its snapshot", 5_000, () => {
    const text = storedSnapshot("orders");
    return text.includes("orders-calls-ledger") ? text : undefined;
  });
  for (const secret of secrets.slice(1)) expect(storedByOrders).toContain(secret);
  for (const secret of secrets) {
    expect(snapshot).not.toContain(secret);
    expect(stored).not.toContain(secret);
    expect(web.output()).not.toContain(secret);
  }
});

test("all that the control plane ever sends to a forbidden identity is one word, the same for every name", async () => {
  const heard = await watchAs(await enrollStranger(mesh, "web"), [
    "ledger.default",
    "lodger.default",
    "orders.default",
  ]);
  const views = new Map(heard.entries.filter(([key]) => key.startsWith("service/")));
  expect([...views.keys()].sort()).toEqual([
    "service/ledger.default",
    "service/lodger.default",
    "service/orders.default",
  ]);
  expect([views.get("service/ledger.default"), views.get("service/lodger.default")]).toEqual([null, null]);
  expect(JSON.stringify(views.get("service/orders.default"))).toContain("web-calls-orders");
  // Of orders, too, only the rules that can match web: shop's are no business of web's.
  expect(heard.text).not.toContain("shop-calls-orders");
  for (const secret of [
    String(ledger.ready["instance"]),
    `"port":${Number(ledger.ready["inbound"])}`,
    "orders-calls-ledger",
  ]) {
    expect(heard.text).not.toContain(secret);
  }
});

test("a request is authenticated, then authorized, and only then discovered, balanced and forwarded", async () => {
  const opened = async (): Promise<number> =>
    sumOf(await metricsOf(ledger), "hauberk_connections_opened_total", ['side="inbound"']);
  const before = await opened();
  const outbound = async (): Promise<number> =>
    sumOf(await metricsOf(web), "hauberk_connections_opened_total", ['side="outbound"']);
  const dialledBefore = await outbound();
  for (let count = 0; count < 5; count++) expect(await call(web, "ledger")).toContain("SERVICE_UNKNOWN");
  // A method that the policy of a known service does not allow: refused at the caller, with the endpoint at hand.
  await applyText(
    mesh,
    allow("orders", "ledger") +
      allow("shop", "orders") +
      allow("web", "orders").replace("services: [web] }]", "services: [web] }], to: [{ methods: [GET] }]"),
  );
  const answer = await eventually("only GET is allowed", 5_000, async () => {
    const denied = await call(web, "orders", "DELETE");
    return denied.includes("DENIED") ? denied : undefined;
  });
  expect(answer).toMatch(/^HTTP\/1\.1 403 /);
  const inboundBefore = sumOf(await metricsOf(orders), "hauberk_requests_total", ['side="inbound"']);
  for (let count = 0; count < 5; count++) expect(await call(web, "orders", "DELETE")).toMatch(/^HTTP\/1\.1 403 /);
  expect(sumOf(await metricsOf(orders), "hauberk_requests_total", ['side="inbound"'])).toBe(inboundBefore);
  expect([await opened(), await outbound()]).toEqual([before, dialledBefore]);
  // The callee trusts no caller: who comes past its own sidecar is refused there, before the routee hears of it.
  const heardBefore = routees[0]?.requests.length;
  const identity = await exportIdentity(mesh, "web");
  const direct = await speakTls({ port: Number(orders.ready["inbound"]), identity }, requestOf("orders", "DELETE"));
  expect(direct.received.toString("latin1")).toMatch(/^HTTP\/1\.1 403 /);
  expect(routees[0]?.requests.length).toBe(heardBefore);
});

test("the caller knows whom it called: web at the address registered for orders gets not a byte (PEER_NOT_THE_SERVICE)", async () => {
  const identity = await exportIdentity(mesh, "web");
  const port = Number(orders.ready["inbound"]);
  await orders.kill("SIGKILL");
  const rogue = await recordTls(identity, { port, alpn: ["h2"] });
  const answer = await call(shop, "orders", "POST", "the body is a secret too");
  expect(answer).toMatch(/^HTTP\/1\.1 503 /);
  expect(answer).toContain("PEER_NOT_THE_SERVICE");
  // It was really there, and shop's sidecar really came; it left before the rogue could even know who it was.
  expect(rogue.arrivals()).toBeGreaterThan(0);
  for (const connection of rogue.connections) {
    expect(connection.peer).toBe("spiffe://mesh.local/ns/default/sa/shop");
    await connection.ended;
  }
  expect(rogue.bytes().length).toBe(0);
  await rogue.close();
});

/** The last good snapshot on disk; "" before the first. */
function storedSnapshot(service: string): string {
  const file = join(mesh.home, "certs", service, "1", "snapshot.json");
  return existsSync(file) ? readFileSync(file, "utf8") : "";
}

/** Exactly what the workload gets on its own listener, with the moment and the request's id taken out. */
async function call(from: Started, service: string, method = "GET", body = ""): Promise<string> {
  const { received } = await hear(
    connect(Number(from.ready["outbound"]), "127.0.0.1"),
    requestOf(service, method, body),
  );
  return received.toString("latin1").replace(/^date: .*$/im, "date: -");
}

function requestOf(service: string, method = "GET", body = ""): string {
  const length = method === "GET" ? "" : `Content-Length: ${body.length}\r\n`;
  return `${method} / HTTP/1.1\r\nHost: ${service}\r\nX-Request-Id: the-same\r\n${length}Connection: close\r\n\r\n${body}`;
}

function bodyOf(answer: string): string {
  return answer.slice(answer.indexOf("\r\n\r\n"));
}

/** How many requests the routee at `index` got from `service`, as its sidecar told it. */
function requestsFrom(service: string, index: number): number {
  const own = `URI=spiffe://mesh.local/ns/default/sa/${service}`;
  return (routees[index]?.requests ?? []).filter((seen) =>
    String(seen.headers["x-forwarded-client-cert"]).includes(own),
  ).length;
}

/** Opens the watch by hand, subscribes to these services, and gives all that was ever sent until each was answered. */
function watchAs(stranger: Stranger, services: readonly string[]): Promise<{ text: string; entries: StateEntry[] }> {
  return new Promise((resolve, reject) => {
    const up = (message: object): void => void watch.write(`${JSON.stringify(message)}\n`);
    const watch = request(
      {
        host: "127.0.0.1",
        port: mesh.ports.mesh,
        path: "/v1/watch",
        method: "POST",
        agent: false,
        key: stranger.key,
        cert: stranger.cert,
        ca: stranger.ca,
        checkServerIdentity: () => undefined, // A control plane is known by its SPIFFE ID, and a test by its port.
        headers: { "content-type": "application/x-ndjson" },
      },
      (answer) => {
        let text = "";
        const entries: StateEntry[] = [];
        let open = "";
        answer.on("data", (chunk: Buffer) => {
          text += chunk.toString("utf8");
          open += chunk.toString("utf8");
          const lines = open.split("\n");
          open = lines.pop() ?? "";
          for (const line of lines) {
            const message = JSON.parse(line) as Down;
            if (message.type === "full") entries.push(...message.entries);
            if (message.type === "delta") entries.push(...message.set);
            if (message.type === "full" || message.type === "delta") up({ type: "ack", version: message.version });
          }
          if (services.every((service) => entries.some(([key]) => key === `service/${service}`))) {
            watch.destroy();
            resolve({ text, entries });
          }
        });
        answer.once("end", () => reject(new Error(`the watch ended with ${answer.statusCode}: ${text}`)));
      },
    );
    watch.once("error", reject);
    up({ type: "hello", protocol: 1, release: "0.0.0", version: null, subscriptions: [], registration: null });
    for (const service of services) up({ type: "subscribe", service });
  });
}
