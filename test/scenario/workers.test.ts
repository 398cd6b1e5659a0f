import { readFileSync } from "node:fs";
import { join } from "node:path";
import { connect } from "node:tls";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ask, eventually, Mesh, metricsOf, says, sumOf, serialOf, type Started } from "../support/mesh.ts";
import { beginLoad } from "./load.ts";
import { allow, applyText, exportIdentity, freePort, openRoutee, speakTls, type Routee } from "./routees.ts";

/** Several processes carry one sidecar's traffic: to everybody else they are one. */
let mesh: Mesh;
let routee: Routee;
let orders: Started;
let web: Started;

beforeAll(async () => {
  mesh = await Mesh.create({ config: "lifetimes: { leaf: 8s, allowSeconds: true }" });
  await mesh.control();
  // Slow enough that at every moment some requests are under way.
  routee = await openRoutee({ answer: (_seen, response) => void setTimeout(() => response.end("orders"), 20) });
  [orders, web] = await Promise.all([
    mesh.sidecar("orders", [...app(), "--workers", "2"]),
    mesh.sidecar("web", ["--workers", "2"], { HAUBERK_WORKER_SILENCE_MS: "3000" }),
  ]);
  await applyText(mesh, allow("web", "orders"));
  await reaches(web);
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

test("requests are spread over both workers, and the sidecar counts each once", async () => {
  const before = sumOf(await metricsOf(web), "hauberk_requests_total");
  const load = beginLoad(web, { host: "orders", perSecond: 200, connections: 24 });
  await eventually("200 answers", 10_000, () => (load.seen().done >= 200 ? true : undefined));
  const result = await load.end();
  expect(result.answers).toEqual({ "200": result.sent });
  const metrics = await metricsOf(web);
  expect(sumOf(metrics, "hauberk_requests_total") - before).toBe(result.sent);
  const [one, two] = ["1", "2"].map((worker) => metrics.get(`hauberk_worker_requests_total{worker="${worker}"}`) ?? 0);
  expect(one).toBeGreaterThan(0);
  expect(two).toBeGreaterThan(0);
  expect((one as number) + (two as number)).toBe(sumOf(metrics, "hauberk_requests_total"));
  expect(metrics.get("hauberk_workers")).toBe(2);
});

test("a renewed certificate is shown by both workers, and the renewal loses no request", async () => {
  const load = beginLoad(web, { host: "orders", perSecond: 150 });
  const first = await serialOf(orders);
  const second = await eventually("a renewal", 10_000, async () => {
    const now = await serialOf(orders);
    return now === first ? undefined : now;
  });
  const identity = await exportIdentity(mesh, "web");
  const shown = await Promise.all(
    Array.from({ length: 24 }, () => shownSerial(Number(orders.ready["inbound"]), identity)),
  );
  expect(new Set(shown)).toEqual(new Set([second]));
  const result = await load.end();
  expect(result.answers).toEqual({ "200": result.sent });
});

test("a worker that is killed under load is replaced; what fails is what was under way on it", async () => {
  const connections = 16;
  const load = beginLoad(web, { host: "orders", perSecond: 200, connections });
  await eventually("a load", 5_000, () => (load.seen().done > 100 ? true : undefined));
  const before = await metricsOf(web);
  const [victim] = await workersOf(web);
  process.kill(victim as number, "SIGKILL");
  const doneAt = load.seen().done;
  await eventually("the load goes on", 10_000, () => (load.seen().done > doneAt + 200 ? true : undefined));
  const now = await eventually("another worker", 10_000, async () => {
    const pids = await workersOf(web);
    return pids.length === 2 && !pids.includes(victim as number) ? pids : undefined;
  });
  const result = await load.end();
  const { "200": good = 0 } = result.answers;
  // At most one request is under way on a connection.
  expect(result.sent - good, JSON.stringify(result.answers)).toBeLessThanOrEqual(connections);
  expect(now).toHaveLength(2);
  const metrics = await metricsOf(web);
  const counted = (name: string): number => sumOf(metrics, name) - sumOf(before, name);
  expect(counted("hauberk_worker_restarts_total")).toBe(1);
  // What the dead one had said is not forgotten: no count goes down.
  expect(counted("hauberk_requests_total")).toBeGreaterThan(0);
  await says(web, "a worker ended; the others go on, and another takes its place");
});

test("a callee's worker that is killed costs no safe request", async () => {
  const load = beginLoad(web, { host: "orders", perSecond: 150 });
  await eventually("a load", 5_000, () => (load.seen().done > 50 ? true : undefined));
  for (const victim of await workersOf(orders)) {
    process.kill(victim, "SIGKILL");
    await eventually("another worker", 10_000, async () => {
      const pids = await workersOf(orders);
      return pids.length === 2 && !pids.includes(victim) ? true : undefined;
    });
    await reaches(web);
  }
  const result = await load.end();
  // What was under way on it is sent again, and one broken connection does not open the breaker of the endpoint.
  expect(result.answers).toEqual({ "200": result.sent });
});

test("a worker that answers nothing is counted, then replaced", async () => {
  const [stuck] = await workersOf(web);
  const restarts = sumOf(await metricsOf(web), "hauberk_worker_restarts_total");
  process.kill(stuck as number, "SIGSTOP");
  await eventually("another worker", 20_000, async () =>
    sumOf(await metricsOf(web), "hauberk_worker_restarts_total") > restarts ? true : undefined,
  );
  expect(isAlive(stuck as number)).toBe(false);
  await says(web, "it answers nothing");
  await eventually("two workers", 5_000, async () => ((await workersOf(web)).length === 2 ? true : undefined));
  await reaches(web);
});

test("a policy that denies takes effect on every connection of every worker, at both ends", async () => {
  const load = beginLoad(web, { host: "orders", perSecond: 100, connections: 24 });
  await eventually("a load", 5_000, () => (load.seen().done > 50 ? true : undefined));
  const identity = await exportIdentity(mesh, "web");
  await applyText(mesh, allow("ledger", "orders"));
  await eventually("both of the caller's workers deny", 5_000, async () =>
    (await answers(web, 24)).every((status) => status === 404) ? true : undefined,
  );
  const text = "GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
  const port = Number(orders.ready["inbound"]);
  await eventually("both of the callee's workers deny", 5_000, async () => {
    const direct = await Promise.all(Array.from({ length: 24 }, () => speakTls({ port, identity }, text)));
    return direct.every(({ received }) => received.toString("latin1").startsWith("HTTP/1.1 404")) || undefined;
  });
  const { answers: seen } = await load.end();
  expect(Object.keys(seen).toSorted()).toEqual(["200", "404 SERVICE_UNKNOWN"]);
  await applyText(mesh, allow("web", "orders"));
  await reaches(web);
});

test("SIGTERM to a sidecar and its workers alike drains once, in order, and loses no request", async () => {
  const other = await mesh.start([
    "proxy",
    "--service",
    "orders",
    "--instance",
    "2",
    "--token-file",
    await mesh.token("orders"),
    "--inbound-host",
    "127.0.0.1",
    "--workers",
    "2",
    ...app(),
  ]);
  // Both started with the same wish for a port; workers of two sidecars never share one.
  expect(other.ready["inbound"]).not.toBe(orders.ready["inbound"]);
  await eventually("both instances serve", 10_000, async () => {
    await answers(web, 8);
    const metrics = await metricsOf(other);
    return sumOf(metrics, "hauberk_requests_total", ['side="inbound"']) > 0 ? true : undefined;
  });
  const load = beginLoad(web, { host: "orders", perSecond: 150 });
  await eventually("a load", 5_000, () => (load.seen().done > 50 ? true : undefined));
  const workers = await workersOf(other);
  for (const pid of workers) process.kill(pid, "SIGTERM");
  expect(await other.kill("SIGTERM")).toBe(0);
  expect(workers.filter(isAlive)).toEqual([]);
  const result = await load.end();
  expect(result.answers).toEqual({ "200": result.sent });
});

test("a --to port is every worker's, and a Unix socket the first one's or that of its successor", async () => {
  const [port, socketPath] = [await freePort(), join(mesh.folder, "to-orders.sock")];
  const to = ["--to", `orders=${port}`, "--to", `orders=${socketPath}`];
  const client = await mesh.sidecar("web", ["--instance", "3", "--workers", "2", ...to]);
  await reaches(client);
  const byPort = await Promise.all(Array.from({ length: 16 }, () => ask({ port, path: "/" })));
  expect(byPort.map(({ status }) => status)).toEqual(byPort.map(() => 200));
  const metrics = await metricsOf(client);
  for (const worker of [1, 2])
    expect(metrics.get(`hauberk_worker_requests_total{worker="${worker}"}`)).toBeGreaterThan(0);
  expect(await ask({ socketPath, path: "/" })).toMatchObject({ status: 200 });
  const [first] = await workersOf(client);
  process.kill(first as number, "SIGKILL");
  await eventually("the socket is served again", 10_000, () =>
    ask({ socketPath, path: "/" }).then(
      ({ status }) => (status === 200 ? true : undefined),
      () => undefined,
    ),
  );
  expect(await client.kill("SIGTERM")).toBe(0);
});

test("nothing that a worker was told stands where others may read it", async () => {
  for (const pid of await workersOf(web)) {
    expect(readFileSync(`/proc/${pid}/environ`, "utf8")).not.toContain("HAUBERK_");
    const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").filter(Boolean);
    expect(words).toHaveLength(2);
    expect(words[1]).toMatch(/cli\/worker\.[jt]s$/);
  }
  expect(`${web.output()}${orders.output()}`).not.toMatch(/PRIVATE KEY|MIGHAgEA/);
});

test("run with workers gives the program's exit code and leaves nothing behind", async () => {
  const port = ["--workers", "2", "--token-file", await mesh.token("web")];
  const program = [
    "--",
    process.execPath,
    "-e",
    "fetch('http://orders/').then(({status}) => process.exit(status - 193))",
  ];
  const done = await mesh.run(["run", "--service", "web", "--instance", "2", ...port, ...program]);
  expect(done, done.err).toMatchObject({ code: 7 });
});

test("status, check and services say how many workers run, and a sidecar that is killed takes its workers along", async () => {
  const { body } = await ask({ socketPath: String(web.ready["admin"]), path: "/status" });
  expect(JSON.parse(body)).toMatchObject({ workers: { wanted: 2, running: 2 } });
  const { sidecars } = await mesh.json<{ sidecars: { id: string; workers: number }[] }>([
    "services",
    ...mesh.controlFlag,
  ]);
  expect(sidecars.find(({ id }) => id.endsWith("/sa/web"))?.workers).toBe(2);
  const check = await mesh.run(["check", ...mesh.controlFlag]);
  expect(check.out).toContain(`the sidecar of web.default (pid ${web.pid}) runs 2 workers`);
  const workers = await workersOf(web);
  expect(workers).toHaveLength(2);
  await web.kill("SIGKILL");
  await eventually("no worker is left", 15_000, () => (workers.some(isAlive) ? undefined : true));
});

function app(): string[] {
  return ["--app", `http:${routee.port}`];
}

async function reaches(sidecar: Started): Promise<void> {
  await eventually("web may call orders", 10_000, async () =>
    (await answers(sidecar, 8)).every((status) => status === 200) ? true : undefined,
  );
}

/** Statuses of so many calls, each on a connection of its own. */
async function answers(sidecar: Started, count: number): Promise<number[]> {
  const port = Number(sidecar.ready["outbound"]);
  const one = async (): Promise<number> => (await ask({ port, host: "orders", path: "/" })).status;
  return Promise.all(Array.from({ length: count }, () => one().catch(() => 0)));
}

/** Process numbers of the workers that answer. */
async function workersOf(sidecar: Started): Promise<number[]> {
  const { body } = await ask({ socketPath: String(sidecar.ready["admin"]), path: "/snapshot" });
  const { workers } = JSON.parse(body) as { workers: { pid: number; answers: boolean }[] };
  return workers.filter((worker) => worker.answers).map(({ pid }) => pid);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    // Killed, but not yet waited for by its parent or init.
    return !/^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

/** The serial that a new connection is shown. */
function shownSerial(port: number, identity: { key: string; cert: string }): Promise<string> {
  return new Promise((resolve, reject) => {
    const { key, cert } = identity;
    const socket = connect({ host: "127.0.0.1", port, key, cert, ALPNProtocols: ["h2"], rejectUnauthorized: false });
    socket.once("error", reject);
    socket.once("secureConnect", () => {
      const serial = socket.getPeerCertificate().serialNumber.toLowerCase();
      socket.destroy();
      resolve(serial);
    });
  });
}
