import { once } from "node:events";
import { Agent, request, type IncomingMessage, type ServerResponse } from "node:http";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ask, eventually, Mesh, metricsOf, sumOf, type Started } from "../support/mesh.ts";
import { allow, applyText, openRoutee, type Routee } from "./routees.ts";

let mesh: Mesh;
let web: Started;
let orders: Started;
let routee: Routee;
/** The answers under way, by path: the test says when their next part comes. */
const streams = new Map<string, ServerResponse>();
const agent = new Agent({ keepAlive: true, maxSockets: 1 });

beforeAll(async () => {
  mesh = await Mesh.create();
  await mesh.control();
  routee = await openRoutee({
    answer: ({ path }, response) => {
      if (!path.startsWith("/stream")) {
        response.end("orders");
        return;
      }
      streams.set(path, response);
      response.write("first\n");
    },
  });
  [web, orders] = await Promise.all([
    mesh.sidecar("web"),
    mesh.sidecar("orders", ["--app", `http:${routee.port}`]),
    applyText(mesh, allow("web", "orders")),
  ]);
  await eventually("web may call orders", 5_000, async () => ((await statusOf("/")) === 200 ? true : undefined));
});

afterAll(async () => {
  agent.destroy();
  await mesh.end();
  await routee.close();
});

test("a configuration change never cuts a connection: a streaming answer goes on, on the connection that it began on", async () => {
  const stream = await open("/stream/1");
  const opened = sumOf(await metricsOf(orders), "hauberk_connections_opened_total");

  // Both ends are told: web of somebody whom it may call, orders of somebody who may call it.
  const version = await versionOf(orders);
  await applyText(mesh, allow("web", "orders") + allow("web", "ledger") + allow("shop", "orders"));
  await ledgerIs("NO_ENDPOINT");
  await eventually("orders has taken it", 5_000, async () => ((await versionOf(orders)) > version ? true : undefined));
  await next("/stream/1", stream, "after a policy was added");

  // An endpoint more, and then one less, of the service that is being called.
  const second = await mesh.sidecar("orders", ["--instance", "2", "--app", `http:${routee.port}`]);
  await eventually("web knows both endpoints", 5_000, async () => ((await endpoints()) === 2 ? true : undefined));
  await next("/stream/1", stream, "after an endpoint came");
  await second.kill("SIGTERM");
  await eventually("web knows one endpoint", 5_000, async () => ((await endpoints()) === 1 ? true : undefined));
  await next("/stream/1", stream, "after an endpoint went");

  await applyText(mesh, allow("web", "orders"));
  await ledgerIs("SERVICE_UNKNOWN");
  await next("/stream/1", stream, "after a policy was removed");
  streams.get("/stream/1")?.end();
  await once(stream.incoming, "end");
  expect(stream.incoming.complete).toBe(true);
  expect(stream.socketsUsed()).toBe(1);
  expect(sumOf(await metricsOf(orders), "hauberk_connections_opened_total")).toBe(opened);
});

test("a policy that now denies refuses new requests at both ends, and ends the streams that it once allowed", async () => {
  expect(await statusOf("/")).toBe(200);
  const stream = await open("/stream/denied");
  await next("/stream/denied", stream, "while it is allowed");
  const deny = allow("web", "orders").replace("ALLOW", "DENY").replace("web-calls", "web-never-calls");
  await applyText(mesh, allow("web", "orders") + deny);
  await eventually("web is denied", 5_000, async () => ([403, 404].includes(await statusOf("/")) ? true : undefined));
  const before = routee.requests.length;
  expect(await statusOf("/again")).not.toBe(200);
  expect(routee.requests.length).toBe(before);
  await eventually("the stream is cut", 5_000, async () => (stream.text().startsWith("cut:") ? true : undefined));
  // The refusal came over the very connection that was served before: it was refused, not cut.
  expect(kept.size).toBe(1);
});

interface Stream {
  readonly incoming: IncomingMessage;
  text(): string;
  /** Each time that the client had to connect anew. */
  socketsUsed(): number;
}

/** Begins an answer that stays open, and waits for its first part. */
async function open(path: string): Promise<Stream> {
  let sockets = 0;
  const outgoing = request({
    host: "127.0.0.1",
    port: Number(web.ready["outbound"]),
    path,
    headers: { host: "orders" },
  });
  outgoing.on("socket", () => sockets++);
  outgoing.end();
  const [incoming] = (await once(outgoing, "response")) as [IncomingMessage];
  let text = "";
  let because: string | undefined;
  incoming.setEncoding("utf8");
  incoming.on("data", (chunk: string) => (text += chunk));
  incoming.on("error", (error) => (because = error.message));
  const stream = {
    incoming,
    text: () => (because === undefined ? text : `cut: ${because}`),
    socketsUsed: () => sockets,
  };
  await eventually("the stream began", 5_000, () => (stream.text().startsWith("first\n") ? true : undefined));
  return stream;
}

async function next(path: string, stream: Stream, part: string): Promise<void> {
  streams.get(path)?.write(`${part}\n`);
  await eventually(`the part ${part}, instead of: ${stream.text()}`, 5_000, () =>
    stream.text().endsWith(`${part}\n`) ? true : undefined,
  );
}

/** The sockets that the one-socket agent has used. */
const kept = new Set<unknown>();

function statusOf(path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      { host: "127.0.0.1", port: Number(web.ready["outbound"]), path, agent, headers: { host: "orders" } },
      (incoming) => {
        incoming.resume();
        incoming.once("end", () => resolve(incoming.statusCode ?? 0));
      },
    );
    outgoing.once("socket", (socket) => kept.add(socket));
    outgoing.once("error", reject);
    outgoing.end();
  });
}

/** What web hears of ledger, for whom nobody listens: NO_ENDPOINT where a policy lets it in, else SERVICE_UNKNOWN. */
async function ledgerIs(code: string): Promise<void> {
  await eventually(`ledger is ${code}`, 5_000, async () => {
    const answer = await ask({ port: Number(web.ready["outbound"]), host: "ledger", path: "/" });
    return answer.headers["x-hauberk-code"] === code ? true : undefined;
  });
}

/** Counts up with each state that a sidecar took from its control plane. */
async function versionOf(sidecar: Started): Promise<number> {
  const { body } = await ask({ socketPath: String(sidecar.ready["admin"]), path: "/status" });
  return (JSON.parse(body) as { version: { counter: number } }).version.counter;
}

async function endpoints(): Promise<number> {
  const { body } = await ask({ socketPath: String(web.ready["admin"]), path: "/snapshot" });
  const { services } = JSON.parse(body) as { services: { service: string; endpoints: unknown[] }[] };
  return services.find(({ service }) => service === "orders.default")?.endpoints.length ?? 0;
}
