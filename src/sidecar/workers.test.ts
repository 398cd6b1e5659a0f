import { duplexPair, type Duplex } from "node:stream";
import { createInterface } from "node:readline";
import { afterEach, beforeAll, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { makeTestPki, type TestPki } from "../../test/support/pki.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { HauberkError } from "../base/errors.ts";
import { defaultsOf } from "../base/options.ts";
import { Published } from "../base/published.ts";
import type { StateValue } from "../contract/watch.ts";
import type { Ask } from "../proxy/discovery.ts";
import { proxyOptions } from "../proxy/options.ts";
import type { ProxyContext } from "../proxy/proxy.ts";
import { emptySnapshot } from "../proxy/snapshot.ts";
import { resilienceOptions } from "../resilience/options.ts";
import { silent } from "../telemetry/logger.ts";
import { Metrics } from "../telemetry/metrics.ts";
import { http2Options } from "../transport/http2-options.ts";
import { http1Options, tlsOptions } from "../transport/options.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { sidecarOptions } from "./options.ts";
import { claimPort } from "./shared-port.ts";
import { wireFamilies, type FromWorker, type ToWorker } from "./worker-messages.ts";
import { shareOf } from "./worker-share.ts";
import { Workers } from "./workers.ts";

/** The sidecar's side, with workers that the test plays. */
const options = {
  proxy: defaultsOf(proxyOptions),
  resilience: defaultsOf(resilienceOptions),
  http1: defaultsOf(http1Options),
  http2: defaultsOf(http2Options),
  tls: defaultsOf(tlsOptions),
};
const service = { service: "orders", namespace: "default" };
let pki: TestPki;
let bench: Bench;
beforeAll(async () => {
  pki = await makeTestPki();
});
afterEach(async () => {
  for (const player of bench.players) player.exit("SIGKILL");
  await bench.workers.stop();
});

class Player {
  readonly heard: ToWorker[] = [];
  readonly exited: Promise<string>;
  readonly #stream: Duplex;
  #exit: (how: string) => void = () => undefined;
  /** What it does at what it hears. */
  act: (message: ToWorker) => void = (message) => {
    if (message.type === "start") this.say({ type: "listening", inboundPort: this.port, outboundPort: 0 });
    if (message.type === "ping") this.say({ type: "pong" });
    if (message.type === "measure") this.say({ type: "measured", number: message.number, families: [] });
    if (message.type === "drain") this.say({ type: "drained" });
    if (message.type === "stop") this.exit("code 0");
  };

  constructor(stream: Duplex) {
    this.#stream = stream;
    this.exited = new Promise((resolve) => {
      this.#exit = resolve;
    });
    createInterface({ input: stream }).on("line", (line) => {
      const message = JSON.parse(line) as ToWorker;
      this.heard.push(message);
      this.act(message);
    });
  }

  get port(): number {
    const [start] = this.of("start");
    return start?.settings.proxy.inbound?.port ?? 0;
  }

  of<T extends ToWorker["type"]>(type: T): Extract<ToWorker, { type: T }>[] {
    return this.heard.filter((message): message is Extract<ToWorker, { type: T }> => message.type === type);
  }

  say(message: FromWorker | object): void {
    this.#stream.write(`${JSON.stringify(message)}\n`);
  }

  exit(how: string): void {
    this.#stream.destroy();
    this.#exit(how);
  }
}

interface Bench {
  readonly workers: Workers;
  readonly players: Player[];
  readonly clock: ManualClock;
  readonly identity: Published<TlsIdentity | undefined>;
  readonly entries: Published<ReadonlyMap<string, StateValue>>;
}

function benchOf(
  more: { count?: number; ask?: Ask; prepare?: (player: Player) => void; mayStart?: (before: number) => void } = {},
): Bench {
  const clock = new ManualClock();
  const identity = new Published<TlsIdentity | undefined>(pki.issue("spiffe://mesh.local/ns/default/sa/orders"));
  const entries = new Published<ReadonlyMap<string, StateValue>>(new Map([["own", { policies: [] }]]));
  const players: Player[] = [];
  const context: ProxyContext = {
    service,
    trustDomain: "mesh.local",
    identity,
    snapshot: new Published(emptySnapshot),
    ask: more.ask ?? (() => Promise.resolve(null)),
    clock,
    random: new SeededRandom(1),
    log: silent,
    metrics: new Metrics(),
    options,
    egress: [],
    routee: { host: "127.0.0.1", ports: [] },
    inbound: { host: "127.0.0.1", port: 0 },
    to: [
      { service, address: { path: "/nowhere/orders.sock" } },
      { service, port: 6379, address: { host: "127.0.0.1", port: 0 }, origins: ["https://shop.example"] },
    ],
  };
  const workers = new Workers(context, {
    count: more.count ?? 2,
    logLevel: "info",
    entries,
    accessLog: false,
    options: defaultsOf(sidecarOptions),
    spawn: () => {
      more.mayStart?.(players.length);
      const [ours, theirs] = duplexPair();
      const player = new Player(theirs);
      more.prepare?.(player);
      players.push(player);
      return { pid: 1_000 + players.length, stream: ours, exited: player.exited, kill: () => player.exit("SIGKILL") };
    },
  });
  return (bench = { workers, players, clock, identity, entries });
}

/** Lets what was sent arrive and be answered. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
}

async function started(more: Parameters<typeof benchOf>[0] = {}): Promise<Bench & { one: Player; two: Player }> {
  const made = benchOf(more);
  await made.workers.start();
  const [one, two] = made.players as [Player, Player];
  return { ...made, one, two };
}

test("every worker is told the same ports, its number and its share; a Unix socket is the first one's alone", async () => {
  const { one, two, workers } = await started();
  const [first, second] = [one, two].map((player) => player.of("start")[0]?.settings);
  expect([first?.worker, second?.worker]).toEqual([1, 2]);
  expect(first?.proxy.inbound?.port).toBeGreaterThan(0);
  expect(second?.proxy.inbound).toEqual(first?.proxy.inbound);
  expect(first?.proxy.to).toHaveLength(2);
  expect(second?.proxy.to).toEqual(first?.proxy.to.slice(1));
  expect(second?.proxy.to).toMatchObject([{ service, port: 6379, origins: ["https://shop.example"] }]);
  expect(workers.inboundPort).toBe(first?.proxy.inbound?.port);
  expect(second?.proxy.options).toEqual(shareOf(options, 2));
});

test("limits are divided so that all workers together hold what one process would, and none is left without any", () => {
  const half = shareOf(options, 2);
  expect(half.tls.tlsConnectionsMax).toBe(options.tls.tlsConnectionsMax / 2);
  expect(half.proxy.inboundRequestsMax).toBe(options.proxy.inboundRequestsMax / 2);
  expect(half.proxy.requestTimeoutMs).toBe(options.proxy.requestTimeoutMs);
  const tiny = shareOf({ ...options, proxy: { ...options.proxy, tunnelsMax: 3 } }, 64);
  expect(tiny.proxy.tunnelsMax).toBe(1);
});

test("a renewed identity and what changed of the state reach every worker, and nothing else of the state does", async () => {
  const { one, two, identity, entries } = await started();
  const renewed = pki.issue("spiffe://mesh.local/ns/default/sa/orders");
  identity.publish(renewed);
  const own = entries.read().get("own") as StateValue;
  entries.publish(
    new Map<string, StateValue>([
      ["own", own],
      ["service/ledger.default", null],
    ]),
  );
  entries.publish(new Map([["own", own]]));
  identity.publish(undefined);
  await settle();
  for (const player of [one, two]) {
    expect(player.of("identity").map((message) => message.identity?.chain[0] ?? null)).toEqual([
      renewed.chain[0]?.der.toString("base64"),
      null,
    ]);
    expect(player.of("state")).toEqual([
      { type: "state", set: [["service/ledger.default", null]], gone: [] },
      { type: "state", set: [], gone: ["service/ledger.default"] },
    ]);
  }
});

test("a worker's question is asked once and answered, or refused in the same words", async () => {
  const unreachable = new HauberkError("CONTROL_UNREACHABLE", "Cannot find out", "Wait");
  const { one } = await started({
    ask: (name) => (name === "orders.default" ? Promise.resolve(null) : Promise.reject(unreachable)),
  });
  one.say({ type: "ask", number: 7, service: "orders.default" });
  one.say({ type: "ask", number: 8, service: "ledger.default" });
  await settle();
  expect(one.of("answer")).toEqual([{ type: "answer", number: 7, view: null }]);
  const { code, message, hint } = unreachable;
  expect(one.of("unanswered")).toEqual([{ type: "unanswered", number: 8, code, message, hint }]);
});

test("a worker that ends is replaced after a wait, knows what is true now, and the other is left alone", async () => {
  const { one, two, players, clock, identity, workers } = await started();
  one.exit("SIGSEGV");
  await settle();
  expect(workers.running).toBe(1);
  const renewed = pki.issue("spiffe://mesh.local/ns/default/sa/orders");
  identity.publish(renewed);
  clock.advance(100);
  await settle();
  expect(workers.running).toBe(2);
  expect(players).toHaveLength(3);
  const start = players[2]?.of("start")[0];
  expect(start?.settings.worker).toBe(1);
  expect(start?.settings.proxy.inbound?.port).toBe(two.port);
  expect(start?.identity?.chain[0]).toBe(renewed.chain[0]?.der.toString("base64"));
  expect(two.of("start")).toHaveLength(1);
  expect(await metricsOf(workers)).toContain("hauberk_worker_restarts_total 1\n");
});

test("one that ends again and again is started ever more seldom", async () => {
  let failing = false;
  const { one, players, clock } = await started({
    prepare: (player) => {
      const act = player.act;
      player.act = (message) => (failing ? player.exit("code 1") : act(message));
    },
  });
  failing = true;
  one.exit("SIGKILL");
  await settle();
  for (let second = 0; second < 120; second++) {
    clock.advance(1_000);
    await settle();
  }
  expect(players.length).toBeGreaterThan(12);
  expect(players.length).toBeLessThan(60);
});

test("a system that starts no process is asked again later, and that ends nothing", async () => {
  let memory = true;
  const { clock, one, players, workers } = await started({
    mayStart: () => {
      if (!memory) throw new Error("spawn ENOMEM");
    },
  });
  memory = false;
  one.exit("SIGKILL");
  await settle();
  clock.advance(1_000);
  await settle();
  expect(players).toHaveLength(2);
  expect(workers.running).toBe(1);
  memory = true;
  for (let second = 0; second < 30; second++) {
    clock.advance(1_000);
    await settle();
  }
  expect(players).toHaveLength(3);
  expect(workers.running).toBe(2);
});

test("one that answers nothing is killed and replaced; one that answers is not", async () => {
  const { one, two, players, clock } = await started();
  one.act = () => undefined;
  for (let second = 0; second < 21; second++) {
    clock.advance(1_000);
    await settle();
  }
  expect(await one.exited).toBe("SIGKILL");
  expect(players.length).toBeGreaterThan(2);
  expect(two.of("ping").length).toBeGreaterThan(2);
  expect(players.filter((player) => player.of("start")[0]?.settings.worker === 2)).toHaveLength(1);
});

test("one that says what cannot be read is killed: it may be somebody else's by now", async () => {
  const { one, two, workers } = await started();
  one.say({ type: "measured", number: 1, families: [{ name: "x y" }] });
  await settle();
  expect(await one.exited).toBe("SIGKILL");
  expect(workers.running).toBe(1);
  expect(two.of("start")).toHaveLength(1);
});

test("counts of all workers add up, and none goes down when one is silent or gone", async () => {
  const { one, two, players, workers, clock } = await started();
  one.act = counting(one, { requests: 3, open: 2 });
  two.act = counting(two, { requests: 4, open: 5 });
  expect(await metricsOf(workers)).toContain('hauberk_requests_total{to="x"} 7\n');
  two.act = counting(two, { requests: 6, open: 5 });
  const text = await metricsOf(workers);
  expect(text).toContain('hauberk_requests_total{to="x"} 9\n');
  expect(text).toContain("open 7\n");
  expect(text).toContain('hauberk_worker_requests_total{worker="1"} 3\nhauberk_worker_requests_total{worker="2"} 6\n');

  two.act = () => undefined;
  const waiting = workers.renderPrometheus();
  expect(workers.renderPrometheus()).toBe(waiting);
  await settle();
  clock.advance(1_000);
  const without = await waiting;
  expect(without).toContain('hauberk_requests_total{to="x"} 9\n');
  expect(without).toContain("open 2\n");
  expect(without).toContain("hauberk_worker_silences_total 1\n");

  two.exit("SIGKILL");
  await settle();
  clock.advance(100);
  await settle();
  const next = players[2] as Player;
  next.act = counting(next, { requests: 1, open: 1 });
  const after = await metricsOf(workers);
  expect(after).toContain('hauberk_requests_total{to="x"} 10\n');
  expect(after).toContain('hauberk_worker_requests_total{worker="2"} 7\n');
  expect(after).toContain("open 3\n");
});

test("descriptions add up what is open, and keep each worker's breaker", async () => {
  const { one, two, workers } = await started();
  one.act = describing(one, { open: 1, connections: 1, breaker: "closed" });
  two.act = describing(two, { open: 2, connections: 3, breaker: "open" });
  expect(await workers.describe()).toMatchObject({
    healthy: true,
    workers: [
      { worker: 1, pid: 1_001, answers: true },
      { worker: 2, pid: 1_002, answers: true },
    ],
    services: [
      {
        service: "orders.default",
        endpoints: [{ open: 3, connections: 4, breaker: "open", breakers: { "1": "closed", "2": "open" } }],
      },
    ],
  });
});

test("draining waits for every worker, kills one that is stuck when its time is over, and starts none anew", async () => {
  const { one, two, players, workers, clock } = await started();
  two.act = () => undefined;
  let drained = false;
  const draining = workers.drain(5_000).then(() => (drained = true));
  await settle();
  expect(one.of("drain")).toEqual([{ type: "drain", withinMs: 5_000 }]);
  clock.advance(5_999);
  await settle();
  expect(drained).toBe(false);
  clock.advance(1);
  await draining;
  expect(await two.exited).toBe("SIGKILL");
  const stopping = workers.stop();
  await settle();
  clock.advance(60_000);
  await stopping;
  expect(await one.exited).toBe("code 0");
  expect(players).toHaveLength(2);
});

test("a worker that cannot listen ends the start with its reason, and no other stays behind", async () => {
  const failed = {
    type: "failed",
    code: "UNAVAILABLE",
    message: "Cannot listen on 10.9.9.9:1",
    hint: "Choose another",
  };
  const made = benchOf({
    prepare: (player) => {
      const act = player.act;
      player.act = (message) => {
        const [start] = player.of("start");
        if (message.type === "start" && start?.settings.worker === 2) player.say(failed);
        else act(message);
      };
    },
  });
  await expect(made.workers.start()).rejects.toMatchObject({ code: "UNAVAILABLE", message: failed.message });
  expect(await Promise.all(made.players.map(({ exited }) => exited))).toEqual(["code 0", "code 0"]);
});

test("a worker that ends at once ends the start too", async () => {
  const made = benchOf({ prepare: (player) => (player.act = () => player.exit("code 70")) });
  await expect(made.workers.start()).rejects.toMatchObject({
    code: "UNAVAILABLE",
    message: "Cannot start worker 1: it ended with code 70",
  });
});

test("a port that workers share is claimed: another sidecar's workers get another one, or are told", async () => {
  const { workers } = await started();
  const port = workers.inboundPort;
  await expect(claimPort({ host: "127.0.0.1", port })).rejects.toMatchObject({ code: "PORT_TAKEN" });
  const other = await claimPort({ host: "127.0.0.1", port, orFree: true });
  expect(other.port).not.toBe(port);
  other.release();
  await workers.stop();
  const again = await claimPort({ host: "127.0.0.1", port });
  expect(again.port).toBe(port);
  again.release();
});

function counting(player: Player, of: { requests: number; open: number }): (message: ToWorker) => void {
  const metrics = new Metrics();
  metrics
    .counter({ name: "hauberk_requests_total", help: "R.", labels: ["to"] })
    .with("x")
    .add(of.requests);
  metrics.gauge({ name: "open", help: "O." }).with().set(of.open);
  return (message) => {
    if (message.type === "ping") player.say({ type: "pong" });
    if (message.type !== "measure") return;
    player.say({ type: "measured", number: message.number, families: wireFamilies(metrics.view()) });
  };
}

function describing(
  player: Player,
  of: { open: number; connections: number; breaker: "open" | "closed" },
): (message: ToWorker) => void {
  const endpoint = { instance: "a", address: "127.0.0.1:1", healthy: true, stale: false, ...of };
  const services = [{ service: "orders.default", endpoints: [endpoint] }];
  const description = { inboundPort: 1, outboundPort: 1, healthy: true, services };
  return (message) => {
    if (message.type === "describe") player.say({ type: "described", number: message.number, description });
  };
}

async function metricsOf(workers: Workers): Promise<string> {
  return workers.renderPrometheus();
}
