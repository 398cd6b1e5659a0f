import { afterEach, expect, test } from "vitest";
import { defaultsOf } from "../base/options.ts";
import { limits } from "../contract/limits.ts";
import type { Registration } from "../contract/watch.ts";
import type { RegistrationRow } from "../storage/rows.ts";
import type { Store, StoreTx } from "../storage/store.ts";
import { silent } from "../telemetry/logger.ts";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { isLoopback, machineOf } from "./machine.ts";
import { registryOptions } from "./options.ts";
import { Registry, type Registrant } from "./registry.ts";

const options = defaultsOf(registryOptions);
const orders = "orders.default";

/** The part of a store that the registry uses, with a disk that can fail. */
class Rows {
  readonly rows = new Map<string, RegistrationRow>();
  broken = false;
  writes = 0;
  slowly: (() => Promise<void>) | undefined;

  /** From now on whoever writes waits; says how many do. */
  slow(): { asked(): number; answer(): void } {
    const gate = Promise.withResolvers<void>();
    let asked = 0;
    this.slowly = () => {
      asked++;
      return gate.promise;
    };
    return { asked: () => asked, answer: () => gate.resolve() };
  }

  get store(): Store {
    const tx = {
      putRegistration: async (row: RegistrationRow) => {
        this.rows.set(row.instance, JSON.parse(JSON.stringify(row)) as RegistrationRow);
        return true;
      },
      removeRegistration: async (instance: string) => this.rows.delete(instance),
    } as unknown as StoreTx;
    return {
      registrations: async () => [...this.rows.values()],
      write: async (work: (tx: StoreTx) => Promise<unknown>) => {
        if (this.slowly !== undefined) await this.slowly();
        if (this.broken) throw new Error("the disk is full");
        this.writes++;
        return work(tx);
      },
    } as unknown as Store;
  }
}

const opened: Registry[] = [];
afterEach(() => Promise.all(opened.splice(0).map((registry) => registry.close())));

async function open(rows: Rows, clock: ManualClock, over: Partial<typeof options> = {}): Promise<Registry> {
  const registry = await Registry.open({ store: rows.store, clock, log: silent, options: { ...options, ...over } });
  opened.push(registry);
  return registry;
}

function registration(over: Partial<Registration> = {}): Registration {
  const ports = [{ name: "http", port: 8080, protocol: "http" }] as const;
  return { address: "10.0.0.1", port: 15443, ports, healthy: true, draining: false, ...over };
}

function who(instance: string, over: Partial<Registrant> = {}): Registrant {
  return { instance, name: { service: "orders", namespace: "default" }, machine: "10.0.0.1", ...over };
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function advance(clock: ManualClock, ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= 1_000) {
    clock.advance(Math.min(left, 1_000));
    await settled();
  }
}

async function enter(registry: Registry, ...instances: string[]): Promise<void> {
  for (const instance of instances) {
    registry.streamOpened(instance);
    await registry.offer(who(instance), registration());
  }
}

const instances = (registry: Registry, machine = "10.9.9.9"): string[] =>
  registry.endpointsFor(orders, machine).map((endpoint) => `${endpoint.instance}${endpoint.stale ? " stale" : ""}`);

test("the control plane down for three grace periods, then up: no endpoint is removed", async () => {
  const rows = new Rows();
  const clock = new ManualClock();
  const names = Array.from({ length: 20 }, (_, index) => `i${String(index).padStart(2, "0")}`);
  await enter(await open(rows, clock), ...names);
  // Killed without a word; the world goes on.
  clock.advance(3 * options.graceMs);
  const registry = await open(rows, clock);
  const removed: string[] = [];
  registry.onChange(() => removed.push(...names.filter((name) => !instances(registry).includes(name))));
  expect(instances(registry)).toEqual(names);
  // The sidecars find their way back one by one, the last ones just in time.
  for (const name of names) {
    await advance(clock, 2_900);
    await enter(registry, name);
  }
  await advance(clock, 10 * options.graceMs);
  expect(instances(registry)).toEqual(names);
  expect(removed).toEqual([]);
});

test("who does not come back within the reconnect window is removed when others did", async () => {
  const rows = new Rows();
  const clock = new ManualClock();
  await enter(await open(rows, clock), "a", "b");
  const registry = await open(rows, clock);
  await enter(registry, "a");
  await advance(clock, options.reconnectWindowMs - 1_000);
  expect(instances(registry)).toEqual(["a", "b"]);
  await advance(clock, 2_000);
  expect(instances(registry)).toEqual(["a"]);
  expect([...rows.rows.keys()]).toEqual(["a"]);
});

async function calm(count: number): Promise<{ registry: Registry; clock: ManualClock; rows: Rows; names: string[] }> {
  const rows = new Rows();
  const clock = new ManualClock();
  const registry = await open(rows, clock);
  const names = Array.from({ length: count }, (_, index) => `i${String(index).padStart(2, "0")}`);
  await enter(registry, ...names);
  await advance(clock, options.reconnectWindowMs + options.graceMs);
  return { registry, clock, rows, names };
}

test("one stream of many that ends takes its endpoint after the grace period, not before", async () => {
  const { registry, clock, names } = await calm(20);
  registry.streamEnded("i00", { deliberate: false });
  await advance(clock, options.graceMs - 1_000);
  expect(instances(registry)).toEqual(names);
  await advance(clock, 2_000);
  expect(instances(registry)).toEqual(names.slice(1));
});

test("a stream that comes back within the grace period loses nothing", async () => {
  const { registry, clock, names } = await calm(20);
  registry.streamEnded("i00", { deliberate: false });
  await advance(clock, options.graceMs - 1_000);
  registry.streamOpened("i00");
  await advance(clock, 10 * options.graceMs);
  expect(instances(registry)).toEqual(names);
});

test("when a fifth of the streams end at once, no lease ends until the reconnect window has passed", async () => {
  const { registry, clock, names } = await calm(20);
  for (const name of names.slice(0, 4)) registry.streamEnded(name, { deliberate: false });
  await advance(clock, options.reconnectWindowMs - 1_000);
  expect(instances(registry)).toEqual(names);
  await advance(clock, 2_000);
  expect(instances(registry)).toEqual(names.slice(4));
});

test("a sidecar whose stream ends again and again is one loss: it keeps nobody's lease from ending", async () => {
  const { registry, clock, names } = await calm(4);
  registry.streamEnded("i03", { deliberate: false });
  for (let passedMs = 0; passedMs < options.graceMs + options.reconnectWindowMs; passedMs += 2_000) {
    registry.streamEnded("i00", { deliberate: false });
    await enter(registry, "i00");
    await advance(clock, 2_000);
  }
  expect(instances(registry)).toEqual(names.slice(0, 3));
});

test("the last endpoints of a service are kept, marked stale, until another one comes", async () => {
  const { registry, clock, rows } = await calm(2);
  registry.streamEnded("i00", { deliberate: false });
  registry.streamEnded("i01", { deliberate: false });
  await advance(clock, 10 * options.reconnectWindowMs);
  expect(instances(registry)).toEqual(["i00 stale", "i01 stale"]);
  expect(rows.rows.get("i00")?.stale).toBe(true);
  await enter(registry, "new");
  await advance(clock, options.reconnectWindowMs + 2_000);
  expect(instances(registry)).toEqual(["new"]);
});

test("a stale endpoint that comes back is not stale", async () => {
  const { registry, clock } = await calm(1);
  registry.streamEnded("i00", { deliberate: false });
  await advance(clock, 10 * options.reconnectWindowMs);
  await enter(registry, "i00");
  expect(instances(registry)).toEqual(["i00"]);
});

test("an explicit deregistration removes also the last endpoint, at once", async () => {
  const { registry, rows } = await calm(1);
  await registry.offer(who("i00"), null);
  expect(instances(registry)).toEqual([]);
  expect(rows.rows.size).toBe(0);
});

test("a draining registration is not offered", async () => {
  const { registry } = await calm(2);
  await registry.offer(who("i00"), registration({ draining: true }));
  expect(instances(registry)).toEqual(["i01"]);
});

test("a loopback address is offered only to the same machine, also after a restart", async () => {
  const rows = new Rows();
  const clock = new ManualClock();
  const before = await open(rows, clock);
  before.streamOpened("a");
  await before.offer(who("a", { machine: "here" }), registration({ address: "127.0.0.1" }));
  await before.offer(who("b", { machine: "10.0.0.2" }), registration({ address: "::1" }));
  const after = await open(rows, clock);
  for (const registry of [before, after]) {
    expect(instances(registry, "here")).toEqual(["a"]);
    expect(instances(registry, "10.0.0.2")).toEqual(["b"]);
    expect(instances(registry, "10.0.0.3")).toEqual([]);
    expect(registry.hasLoopback(orders)).toBe(true);
  }
});

test("the same registration again writes nothing and tells nobody", async () => {
  const { registry, rows } = await calm(1);
  const writes = rows.writes;
  let told = 0;
  registry.onChange(() => told++);
  await registry.offer(who("i00"), registration());
  expect({ writes: rows.writes - writes, told }).toEqual({ writes: 0, told: 0 });
  await registry.offer(who("i00"), registration({ healthy: false }));
  expect({ writes: rows.writes - writes, told }).toEqual({ writes: 1, told: 1 });
});

test("a store that fails keeps no endpoint from its callers, and gets it later", async () => {
  const { registry, rows, clock } = await calm(1);
  rows.broken = true;
  await enter(registry, "b");
  expect(instances(registry)).toEqual(["b", "i00"]);
  expect(rows.rows.has("b")).toBe(false);
  rows.broken = false;
  await advance(clock, 1_000);
  expect(rows.rows.has("b")).toBe(true);
});

test("a stored row that is damaged is left out, and the others count", async () => {
  const rows = new Rows();
  const clock = new ManualClock();
  await enter(await open(rows, clock), "a", "b");
  rows.rows.set("a", {
    ...(rows.rows.get("a") as RegistrationRow),
    registration: { address: 7 } as unknown as Registration,
  });
  expect(instances(await open(rows, clock))).toEqual(["b"]);
});

test.each([
  ["127.0.0.1", "127.0.0.1", "here"],
  ["::1", "::1", "here"],
  ["::ffff:127.0.0.1", "::ffff:127.0.0.1", "here"],
  ["10.0.0.5", "10.0.0.5", "here"],
  ["::ffff:10.0.0.6", "10.0.0.5", "10.0.0.6"],
  ["fe80::1%eth0", "fe80::2%eth0", "fe80::1"],
])("a stream from %s to %s comes from the machine %s", (remote, local, machine) => {
  expect(machineOf({ remote, local })).toBe(machine);
});

test.each([
  "127.0.0.1",
  "127.9.9.9",
  "::1",
  "0:0:0:0:0:0:0:1",
  "::ffff:127.0.0.1",
  "0:0:0:0:0:ffff:127.0.0.1",
  "0::ffff:7f00:1",
  "localhost",
  "a.localhost",
])("%s is loopback", (address) => {
  expect(isLoopback(address)).toBe(true);
});

test.each(["10.0.0.1", "::2", "fd00::1", "localhost.example", "128.0.0.1", "2001:db8::1"])(
  "%s is not loopback",
  (address) => {
    expect(isLoopback(address)).toBe(false);
  },
);

test("a service takes so many endpoints and no more, and one that leaves makes room", async () => {
  const registry = await open(new Rows(), new ManualClock(), { endpointsMax: 2 });
  await enter(registry, "a", "b", "c");
  expect(instances(registry)).toEqual(["a", "b"]);
  expect(await registry.offer(who("c"), registration())).toMatchObject({ code: "LIMIT_ENDPOINTS" });
  const billing = { name: { service: "billing", namespace: "default" } };
  expect(await registry.offer(who("d", billing), registration())).toBeUndefined();
  expect(await registry.offer(who("b"), registration({ draining: true }))).toBeUndefined();
  expect(await registry.offer(who("b"), null)).toBeUndefined();
  expect(await registry.offer(who("c"), registration())).toBeUndefined();
  expect(instances(registry)).toEqual(["a", "c"]);
});

test("endpoints that come at the same moment count while the store still works: the limit holds for all of them", async () => {
  const rows = new Rows();
  const registry = await open(rows, new ManualClock(), { endpointsMax: 2 });
  const slow = rows.slow();
  const offers = ["a", "b", "c", "d"].map((instance) => registry.offer(who(instance), registration()));
  await settled();
  slow.answer();
  const refused = (await Promise.all(offers)).map((refusal) => refusal?.code);
  expect(refused).toEqual([undefined, undefined, "LIMIT_ENDPOINTS", "LIMIT_ENDPOINTS"]);
  expect(instances(registry)).toEqual(["a", "b"]);
});

test("large registrations are counted by their bytes: the list of a service fits into a message", async () => {
  const registry = await open(new Rows(), new ManualClock());
  const ports = Array.from({ length: 32 }, (_, index) => ({
    name: `p${index}${"x".repeat(60)}`.slice(0, 63),
    port: index + 1,
    protocol: "http" as const,
  }));
  const large = registration({ address: `${"a".repeat(60)}.${"b".repeat(60)}`, ports });
  let taken = 0;
  while (taken < limits.endpointsMax && (await registry.offer(who(`i${taken}`), large)) === undefined) taken++;
  const bytes = JSON.stringify(registry.endpointsFor(orders, "10.0.0.1")).length;
  expect(bytes).toBeLessThanOrEqual(limits.endpointBytesMax);
  expect(bytes + 2 * (bytes / taken)).toBeGreaterThan(limits.endpointBytesMax);
  // Of the same size it may say what it wants.
  expect(await registry.offer(who("i0"), { ...large, healthy: false, draining: true })).toBeUndefined();
});

test("a store that takes its time is asked once for what was not saved, not once for each sweep", async () => {
  const rows = new Rows();
  const clock = new ManualClock();
  const registry = await open(rows, clock);
  rows.broken = true;
  await registry.offer(who("a"), registration());
  const slow = rows.slow();
  await advance(clock, 10 * options.sweepEveryMs);
  slow.answer();
  for (let turn = 0; turn < 10; turn++) await settled();
  expect(slow.asked()).toBe(1);
});
