import { connect as connectTcp } from "node:net";
import { connect, type ConnectionOptions } from "node:tls";
import { afterEach, expect, test } from "vitest";
import {
  administrator,
  anybody,
  ask,
  certain,
  enrolled,
  registration,
  startControl,
  TestWatch,
  type TestControl,
  type TestControlWish,
} from "../../test/support/control.ts";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { HauberkError } from "../base/errors.ts";
import type { ServiceView } from "../contract/watch.ts";

const planes: TestControl[] = [];
afterEach(() => Promise.all(planes.splice(0).map((plane) => plane.close())));

async function start(
  wish: Omit<TestControlWish, "clock"> & { clock?: ManualClock } = {},
): Promise<{ plane: TestControl; clock: ManualClock }> {
  const clock = wish.clock ?? new ManualClock(Date.now());
  const plane = await startControl({ ...wish, clock });
  planes.push(plane);
  return { plane, clock };
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await settled();
}

test("a restart tells every sidecar goodbye, keeps the endpoints, and a sidecar comes back to them", async () => {
  const { plane, clock } = await start();
  const orders = await enrolled(plane, "orders");
  const web = await enrolled(plane, "web");
  const admin = await administrator(plane);
  const rules = [{ from: [{ services: ["web.default"] }] }];
  const policy = {
    kind: "AuthorizationPolicy",
    name: "p",
    namespace: "default",
    target: { service: "orders", namespace: "default" },
    action: "ALLOW",
    mode: "ENFORCE",
    rules,
  };
  await ask({
    port: plane.control.addresses.mesh.port,
    tls: admin.tls,
    path: "/v1/policies",
    method: "PUT",
    body: { revision: 0, resources: [policy] },
  });
  const offered = await TestWatch.open(plane, orders);
  offered.hello({ registration: registration() });
  const before = await offered.next("full");
  planes.pop();
  const again = await plane.restart();
  planes.push(again);
  expect(await offered.next("goodbye")).toMatchObject({ because: expect.stringContaining("stops") });
  await offered.closed;
  clock.advance(3_000);
  const seen = await TestWatch.open(again, web);
  seen.hello({ subscriptions: ["orders.default"], version: before?.version ?? null });
  const full = await seen.next("full");
  expect(full?.version.epoch).toBe(before?.version.epoch);
  const view = seen.state().get("service/orders.default") as ServiceView;
  expect(view.endpoints).toEqual([expect.objectContaining({ instance: orders.issued.instance, stale: false })]);
  seen.close();
});

test("the control plane renews its own certificate, new connections get it, and the ones that stand go on", async () => {
  // Behind the real time, which TLS goes by, so that what is made later is valid there too.
  const { plane, clock } = await start({
    clock: new ManualClock(Date.now() - 420_000),
    authority: { controlLifetimeMs: 600_000 },
    options: { silenceMs: 600_000 },
  });
  const admin = await administrator(plane);
  const web = await enrolled(plane, "web");
  const seen = await TestWatch.open(plane, web);
  seen.hello();
  await seen.next("full");
  const first = await serialAt(plane, admin.tls);
  clock.advance(451_000);
  let second = first;
  while (second === first) second = await serialAt(plane, admin.tls);
  expect(seen.request.closed).toBe(false);
  seen.send({ type: "subscribe", service: "x.default" });
  expect(await seen.next("delta")).toBeDefined();
  // The stream was made with the first certificate: it is asked to move, and does not outlive it.
  clock.advance(130_000);
  expect(await seen.next("goodbye")).toMatchObject({ because: expect.stringContaining("about to end") });
  expect(seen.request.closed).toBe(false);
  clock.advance(20_000);
  await seen.closed;
});

function serialAt(plane: TestControl, tls: object): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(
      { host: "127.0.0.1", port: plane.control.addresses.mesh.port, checkServerIdentity: () => undefined, ...tls },
      () => {
        resolve(socket.getPeerX509Certificate()?.serialNumber ?? "");
        socket.destroy();
      },
    );
    socket.on("error", reject);
  });
}

test("policies that cannot be read at once when they changed are in force as soon as they can", async () => {
  const { plane, clock } = await start();
  const { store } = plane;
  const seen = await TestWatch.open(plane, await enrolled(plane, "orders"));
  seen.hello();
  await seen.next("full");
  const failed = Promise.withResolvers<void>();
  const read = store.policies.bind(store);
  store.policies = () => {
    failed.resolve();
    return Promise.reject(new HauberkError("STORE_FAILED", "Cannot read the store: the disk stands still", "Wait"));
  };
  const target = { service: "orders", namespace: "default" };
  const policy = {
    kind: "AuthorizationPolicy",
    name: "p",
    namespace: "default",
    target,
    action: "DENY",
    mode: "ENFORCE",
  };
  const json = JSON.stringify([{ ...policy, rules: [] }]);
  await store.write((tx) => tx.putPolicies({ json, atMs: 0, by: "another process" }));
  await settled();
  clock.advance(1_000);
  await failed.promise;
  store.policies = read;
  await settled();
  clock.advance(1_000);
  expect(await seen.next("delta")).toMatchObject({ set: [["own", { policies: [policy] }]] });
});

test("everything that is old is deleted, also where it is more than one portion, and nothing else", async () => {
  const { plane, clock } = await start();
  const { authority, store } = plane;
  const { row } = certain(
    await authority.createToken({ service: { service: "web", namespace: "default" }, by: "test" }),
  );
  await store.write(async (tx) => {
    for (let i = 0; i < 2_500; i++) await tx.insertToken({ ...row, id: `old${i}`, expiresAtMs: 1 });
  });
  const portions: number[] = [];
  const prune = authority.prune.bind(authority);
  authority.prune = async (limits) => {
    const pruned = await prune(limits);
    portions.push(pruned.tokens);
    return pruned;
  };
  clock.advance(600_000);
  while (portions.at(-1) !== 500) await settled();
  expect(portions).toEqual([1_000, 1_000, 500]);
  expect(await store.tokens()).toEqual([row]);
});

test("no connection outlives the peer's certificate", async () => {
  const { plane, clock } = await start({ authority: { leafLifetimeMs: 300_000 } });
  const seen = await TestWatch.open(plane, await enrolled(plane, "web"));
  seen.hello();
  await seen.next("full");
  clock.advance(299_000);
  await settled();
  expect(seen.request.closed).toBe(false);
  clock.advance(2_000);
  await seen.closed;
});

test("a connection that is kept open does not outlive its certificate either", async () => {
  const { plane, clock } = await start({ authority: { leafLifetimeMs: 300_000 } });
  const web = await enrolled(plane, "web");
  const socket = connect({
    host: "127.0.0.1",
    port: plane.control.addresses.mesh.port,
    checkServerIdentity: () => undefined,
    ...web.tls,
  });
  socket.on("error", () => undefined);
  const answered = new Promise((resolve) => socket.once("data", resolve));
  socket.write("GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n");
  await answered;
  const closed = new Promise((resolve) => socket.once("close", resolve));
  clock.advance(299_000);
  await settled();
  expect(socket.destroyed).toBe(false);
  clock.advance(2_000);
  await closed;
});

test("a deregistration right before the end counts, however much was said before it", async () => {
  const { plane } = await start();
  const admin = await administrator(plane);
  const seen = await TestWatch.open(plane, await enrolled(plane, "orders"));
  seen.hello({ registration: registration() });
  await seen.next("full");
  for (let index = 0; index < 20; index++)
    seen.send({ type: "register", registration: registration({ healthy: index % 2 === 0 }) });
  seen.send({ type: "register", registration: null });
  seen.request.end(() => seen.request.destroy());
  await seen.closed;
  for (;;) {
    const { json } = await ask({ port: plane.control.addresses.mesh.port, tls: admin.tls, path: "/v1/services" });
    if (json.sidecars.length > 0) continue;
    expect(json.services).toEqual([]);
    break;
  }
});

test("an expired workload is refused", async () => {
  const { plane, clock } = await start({ authority: { leafLifetimeMs: 300_000 } });
  const web = await enrolled(plane, "web");
  clock.advance(301_000);
  const answer = await ask({ port: plane.control.addresses.mesh.port, tls: web.tls, path: "/v1/health" });
  expect({ status: answer.status, code: answer.json.code, connection: answer.headers.connection }).toEqual({
    status: 403,
    code: "PEER_EXPIRED",
    connection: "close",
  });
});

test("a slow reader is disconnected, and holds up nobody", async () => {
  const { plane, clock } = await start({ options: { slowReaderMs: 5_000 } });
  const slow = await TestWatch.open(plane, await enrolled(plane, "slow"));
  slow.hello();
  await slow.next("full");
  slow.response?.pause();
  const other = await TestWatch.open(plane, await enrolled(plane, "slow"));
  other.hello();
  await other.next("full");
  const gone = new Promise((resolve) => slow.response?.once("close", resolve));
  // Each set is two megabytes for both; another process stores it, so it is noticed by the store's version.
  for (let round = 1; round <= 8; round++) {
    const rules = Array.from({ length: 1_000 }, () => ({ to: [{ paths: [`/${String(round).repeat(2_000)}`] }] }));
    const policy = {
      kind: "AuthorizationPolicy",
      name: "big",
      namespace: "default",
      target: { service: "slow", namespace: "default" },
      action: "ALLOW",
      mode: "ENFORCE",
      rules,
    };
    await plane.store.write((tx) =>
      tx.putPolicies({ json: JSON.stringify([policy]), atMs: clock.wallMs(), by: "test" }),
    );
    await settled();
    clock.advance(1_000);
    expect((await other.next("delta"))?.set[0]?.[0]).toBe("own");
  }
  clock.advance(5_000);
  slow.response?.resume();
  await gone;
  expect(slow.downs.filter((down) => down.type === "delta").length).toBeLessThan(8);
  expect(other.request.closed).toBe(false);
  other.close();
});

test("an address that asks too often is told so, and another identity on it is not shut out of TLS", async () => {
  const { plane, clock } = await start({ options: { addressBurstMax: 5, addressPerSecond: 1 } });
  const { port } = plane.control.addresses.enrollment;
  const statuses: number[] = [];
  for (let index = 0; index < 8; index++)
    statuses.push((await ask({ port, tls: anybody(plane), path: "/v1/health" })).status);
  expect(statuses).toEqual([200, 200, 200, 200, 200, 429, 429, 429]);
  clock.advance(1_000);
  expect((await ask({ port, tls: anybody(plane), path: "/v1/health" })).status).toBe(200);
});

test("an identity that asks too often is told so, and others are not", async () => {
  const { plane } = await start({ options: { identityBurstMax: 3, identityPerSecond: 1 } });
  const { port } = plane.control.addresses.mesh;
  const web = await enrolled(plane, "web");
  const statuses: number[] = [];
  for (let index = 0; index < 5; index++) statuses.push((await ask({ port, tls: web.tls, path: "/v1/health" })).status);
  expect(statuses).toEqual([200, 200, 200, 429, 429]);
  expect((await ask({ port, tls: (await enrolled(plane, "web")).tls, path: "/v1/health" })).status).toBe(200);
});

test("one address that connects and says nothing leaves room for others, and gets its own back", async () => {
  const { plane } = await start({ options: { enrollmentConnectionsMax: 8 } });
  const { port } = plane.control.addresses.enrollment;
  const health = (localAddress: string): Promise<boolean> =>
    new Promise((resolve) => {
      const socket = connect({
        host: "127.0.0.1",
        port,
        localAddress,
        checkServerIdentity: () => undefined,
        ...anybody(plane),
      } as ConnectionOptions);
      socket.once("secureConnect", () => {
        resolve(true);
        socket.destroy();
      });
      socket.on("error", () => resolve(false));
      socket.once("close", () => resolve(false));
    });
  const idle = Array.from({ length: 8 }, () => connectTcp({ host: "127.0.0.1", port, localAddress: "127.0.0.2" }));
  for (const socket of idle) socket.on("error", () => undefined);
  await until(() => idle.filter((socket) => socket.destroyed).length === 4);
  expect(await health("127.0.0.2")).toBe(false);
  expect(await health("127.0.0.3")).toBe(true);
  for (const socket of idle) socket.destroy();
  let again = false;
  while (!again) again = await health("127.0.0.2");
});

test.each([
  ["a body that was asked for", "POST /v1/enroll", "application/json"],
  ["a body of the watch's type where there is no watch", "POST /v1/enroll", "application/x-ndjson"],
  ["a body that no route takes", "GET /v1/health", "application/json"],
  ["a body for nobody", "POST /nowhere", "application/x-ndjson"],
])("%s and does not come in time ends its connection", async (_, line, type) => {
  const { plane, clock } = await start();
  const { port } = plane.control.addresses.enrollment;
  const socket = connect({ host: "127.0.0.1", port, checkServerIdentity: () => undefined, ...anybody(plane) });
  const closed = new Promise((resolve) => socket.once("close", resolve));
  socket.on("error", () => undefined);
  socket.resume();
  const waiting = clock.waiting;
  socket.write(`${line} HTTP/1.1\r\nhost: x\r\ncontent-type: ${type}\r\ncontent-length: 100\r\n\r\n{`);
  await until(() => clock.waiting > waiting);
  clock.advance(10_001);
  await closed;
});

test("a stream that says more than its rate is ended", async () => {
  const { plane } = await start({ options: { messagesBurstMax: 10, messagesPerSecond: 1 } });
  const seen = await TestWatch.open(plane, await enrolled(plane, "web"));
  seen.hello();
  await seen.next("full");
  for (let index = 0; index < 20; index++) seen.send({ type: "pong", number: index });
  expect(await seen.next("refused")).toMatchObject({ code: "RATE_LIMITED" });
  await seen.closed;
});

test("a stream with more subscriptions than the limit is refused", async () => {
  const { plane } = await start({ options: { subscriptionsMax: 2 } });
  const seen = await TestWatch.open(plane, await enrolled(plane, "web"));
  seen.hello({ subscriptions: ["a.default", "b.default"] });
  await seen.next("full");
  seen.send({ type: "subscribe", service: "c.default" });
  expect(await seen.next("refused")).toMatchObject({ code: "RATE_LIMITED" });
});

test("garbage instead of TLS, and garbage instead of HTTP, ends nothing but its connection", async () => {
  const { plane } = await start();
  const admin = await administrator(plane);
  for (const { port } of Object.values(plane.control.addresses)) {
    for (const bytes of [
      "GET / HTTP/1.0\r\n\r\n\0\0\0",
      "\x01\x02\r\n\r\n",
      "POST /v1/enroll HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\nzz",
    ]) {
      const socket = connect({ host: "127.0.0.1", port, checkServerIdentity: () => undefined, ...admin.tls });
      socket.on("error", () => undefined);
      const closed = new Promise((resolve) => socket.once("close", resolve));
      socket.resume();
      socket.write(bytes);
      socket.end();
      await closed;
    }
  }
  expect((await ask({ port: plane.control.addresses.mesh.port, tls: admin.tls, path: "/v1/health" })).status).toBe(200);
});

test("a port that is taken is named, and nothing is left behind", async () => {
  const { plane, clock } = await start();
  const waiting = clock.waiting;
  const { ControlPlane } = await import("./control-plane.ts");
  const { defaultsOf } = await import("../base/options.ts");
  const { controlOptions } = await import("./options.ts");
  const { registryOptions } = await import("../registry/options.ts");
  const { storageOptions } = await import("../storage/options.ts");
  const { silent } = await import("../telemetry/logger.ts");
  const { SeededRandom } = await import("../../test/support/seeded-random.ts");
  const { store, authority } = plane;
  const taken = plane.control.addresses.mesh;
  const options = {
    control: defaultsOf(controlOptions),
    registry: defaultsOf(registryOptions),
    storage: defaultsOf(storageOptions),
  };
  const second = ControlPlane.start({
    store,
    authority,
    clock,
    options,
    random: new SeededRandom(1),
    log: silent,
    release: "0",
    listen: { mesh: taken, enrollment: { host: "127.0.0.1", port: 0 } },
  });
  await expect(second).rejects.toThrow(HauberkError);
  await expect(second).rejects.toMatchObject({ code: "PORT_TAKEN" });
  expect(clock.waiting).toBe(waiting);
});

test("an endpoint above the limit is not registered: its sidecar is told, and goes on", async () => {
  const { plane } = await start({ registry: { endpointsMax: 1 } });
  const first = await TestWatch.open(plane, await enrolled(plane, "orders"));
  first.hello({ registration: registration() });
  await first.next("full");
  const second = await TestWatch.open(plane, await enrolled(plane, "orders"));
  second.hello({ registration: registration({ port: 2 }) });
  expect(await second.next("notice", "refused")).toMatchObject({
    type: "notice",
    code: "LIMIT_ENDPOINTS",
    message: expect.stringContaining('"orders.default"') as string,
    hint: expect.any(String) as string,
  });
  expect(await second.next("full")).toBeDefined();
  first.send({ type: "register", registration: null });
  second.send({ type: "subscribe", service: "orders.default" });
  await second.next("delta");
  second.send({ type: "register", registration: registration({ port: 2 }) });
  const admin = await administrator(plane);
  const listed = async (): Promise<number[]> => {
    const { port } = plane.control.addresses.mesh;
    const { json } = await ask({ port, tls: admin.tls, path: "/v1/services" });
    const services = json.services as { endpoints: { port: number }[] }[];
    return services.flatMap(({ endpoints }) => endpoints.map((endpoint) => endpoint.port));
  };
  await expect.poll(listed).toEqual([2]);
  first.close();
  second.close();
});
