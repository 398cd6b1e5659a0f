import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually, Mesh, metricsOf, serialOf, type Started } from "../support/mesh.ts";
import { mqtt, nats, postgres, redis, type RunningBroker, type Stream } from "./brokers.ts";
import { allow, applyText, freePort } from "./routees.ts";

/**
 * Message queues and databases that know nothing of the mesh, through two sidecars: every message is counted while all
 * certificates change twice, and while the sidecar in front of the brokers is stopped.
 */
const brokers = [mqtt, redis, postgres, nats];
const present = brokers.filter(({ missing }) => missing === undefined);
/** Long enough for a machine that has much else to do: an end that comes before its renewal cuts what it carries. */
const leafMs = 12_000;
const drainMs = 3_000;
const running = new Map<string, RunningBroker>();
const streams = new Map<string, Stream>();

let mesh: Mesh;
let app: Started;
let beganMs = 0;
/** Two sidecars in front of the same brokers. */
const stores: Started[] = [];

beforeAll(async () => {
  mesh = await Mesh.create({ config: `lifetimes: { leaf: ${leafMs / 1_000}s, allowSeconds: true }` });
  await mesh.control();
  for (const broker of present) running.set(broker.name, await broker.start());
  const ports = [...running.values()].map(({ port }) => `tcp:${port}`).flatMap((port) => ["--app", port]);
  for (const instance of ["1", "2"]) {
    const environment = { HAUBERK_DRAIN_MS: String(drainMs) };
    stores.push(await mesh.sidecar("stores", ["--instance", instance, ...ports], environment));
  }
  const local = new Map<string, number>();
  for (const { name } of present) local.set(name, await freePort());
  const to = [...running].flatMap(([name, { port }]) => ["--to", `stores:${port}=${local.get(name)}`]);
  app = await mesh.sidecar("app", to);
  await applyText(mesh, allow("app", "stores"));
  beganMs = Date.now();
  for (const [name, broker] of running)
    streams.set(name, await eventually(name, 10_000, () => begun(broker, local.get(name))));
});

/** The first connections may come before the word of the policy. */
function begun(broker: RunningBroker, port: number | undefined): Promise<Stream | undefined> {
  return broker.begin(port as number).catch(() => undefined);
}

afterAll(async () => {
  for (const broker of running.values()) await broker.stop();
  await mesh.end();
});

for (const { name, missing } of brokers) {
  test(`${name} carries messages through two sidecars`, async (context) => {
    if (missing !== undefined) context.skip(missing);
    const stream = streamOf(name);
    await eventually("fifty messages", 10_000, () => stream.arrived() >= 50 || undefined);
    expect(stream.cuts()).toBe(0);
  });
}

test("two rotations at every sidecar cut no connection and lose no message", async () => {
  const sidecars = [app, ...stores];
  const serials = sidecars.map(() => new Set<string>());
  await eventually(
    "every leaf was replaced twice, and those that the streams began with have ended",
    60_000,
    async () => {
      for (const [i, sidecar] of sidecars.entries()) serials[i]?.add(await serialOf(sidecar));
      const rotated = serials.every((seen) => seen.size >= 3);
      return (rotated && Date.now() > beganMs + leafMs) || undefined;
    },
  );
  const metrics = await metricsOf(app);
  expect([...metrics.entries()].find(([key]) => key.startsWith('hauberk_tunnels_open{side="outbound"'))?.[1]).toBe(
    2 * present.length,
  );
  for (const { name } of present) {
    const stream = streamOf(name);
    const before = stream.arrived();
    expect({ name, cuts: stream.cuts() }).toEqual({ name, cuts: 0 });
    // Sent one after the other: at most one is under way, but for what a consumer that had no time yet has not taken.
    await eventually(`${name} has lost nothing`, 5_000, () => stream.sent() - stream.arrived() <= 1 || undefined);
    await eventually(`${name} goes on`, 5_000, () => stream.arrived() > before + 10 || undefined);
  }
});

test("a sidecar that is stopped lets connections live for its drain, then they come back through the other, and no message is lost", async () => {
  const [leaving] = stores;
  const before = new Map(present.map(({ name }) => [name, streamOf(name).arrived()]));
  const stoppedMs = Date.now();
  const exited = leaving?.kill("SIGTERM");
  await eventually(
    "everything goes on during the drain",
    drainMs,
    () => present.every(({ name }) => streamOf(name).arrived() > (before.get(name) ?? 0) + 20) || undefined,
  );
  for (const { name } of present) expect({ name, cuts: streamOf(name).cuts() }).toEqual({ name, cuts: 0 });
  await exited;
  expect(Date.now() - stoppedMs).toBeGreaterThan(drainMs);
  for (const { name } of present) {
    const stream = streamOf(name);
    const after = stream.arrived();
    await eventually(
      `${name} goes on through the other sidecar`,
      10_000,
      () => stream.arrived() > after + 20 || undefined,
    );
    await stream.end();
    expect({ name, arrived: stream.arrived() }).toEqual({ name, arrived: stream.sent() });
  }
  // Each broker's two connections were spread over both sidecars.
  expect(present.map(({ name }) => streamOf(name).cuts()).some((cuts) => cuts > 0)).toBe(true);
});

function streamOf(name: string): Stream {
  const stream = streams.get(name);
  if (stream === undefined) throw new Error(`${name} was not started`);
  return stream;
}
