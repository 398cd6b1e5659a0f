import { expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { HauberkError } from "../base/errors.ts";
import { defaultsOf } from "../base/options.ts";
import { Published } from "../base/published.ts";
import type { Down, ServiceView, StateEntry, Up } from "../contract/watch.ts";
import type { WatchEvents } from "../identity/control-client.ts";
import { silent, type LogFields, type Logger } from "../telemetry/logger.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { sidecarOptions } from "./options.ts";
import { WatchClient } from "./watch-client.ts";
import { nothingYet, type WatchState } from "./watch-state.ts";

const options = defaultsOf(sidecarOptions);
const identity = { generation: 1 } as TlsIdentity;
const view: ServiceView = { id: "spiffe://t/ns/default/sa/orders", policies: [], endpoints: [] };

interface Opened {
  readonly sent: Up[];
  readonly events: WatchEvents;
  closed: string | undefined;
}

function setUp(use: { reachable?: boolean; accept?: (state: WatchState) => void; log?: Logger } = {}) {
  const faults: unknown[] = [];
  const clock = new ManualClock();
  const streams: Opened[] = [];
  const network = { reachable: use.reachable ?? true, attempts: 0, because: new Error("refused") };
  const published = new Published<TlsIdentity | undefined>(identity);
  const client = new WatchClient({
    open: (_identity, events) => {
      network.attempts++;
      if (!network.reachable) return Promise.reject(network.because);
      const opened: Opened = { sent: [], events, closed: undefined };
      streams.push(opened);
      return Promise.resolve({
        localAddress: "127.0.0.1",
        send: (message) => void opened.sent.push(message),
        close: (because) => {
          opened.closed = because;
        },
      });
    },
    identity: published,
    clock,
    random: new SeededRandom(1),
    log: use.log ?? silent,
    options,
    release: "0.0.0",
    name: "blue",
    workers: 2,
    initial: nothingYet,
    accept: use.accept ?? (() => undefined),
    onFault: (thrown) => faults.push(thrown),
  });
  return { clock, streams, network, published, client, faults };
}

/** Lets promises settle: nothing here waits for anything else. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await Promise.resolve();
}

const full = (counter: number, entries: StateEntry[] = []): Down => ({
  type: "full",
  version: { epoch: "e", counter },
  entries,
});

const delta = (counter: number, set: StateEntry[]): Down => ({
  type: "delta",
  version: { epoch: "e", counter },
  set,
  gone: [],
});

test("a stream starts with hello, and a full state is acknowledged", async () => {
  const { streams, client } = setUp();
  client.start();
  await settled();
  expect(streams[0]?.sent[0]).toMatchObject({
    type: "hello",
    name: "blue",
    workers: 2,
    version: null,
    registration: null,
  });
  streams[0]?.events.down(full(1));
  expect(streams[0]?.sent[1]).toEqual({ type: "ack", version: { epoch: "e", counter: 1 } });
  expect(client.connected.read()).toBe(true);
});

test("one question is asked for a service, however many wait for its answer", async () => {
  const { streams, client } = setUp();
  client.start();
  await settled();
  streams[0]?.events.down(full(1));
  const answers = Promise.all([client.ask("orders.default"), client.ask("orders.default")]);
  expect(streams[0]?.sent.filter((message) => message.type === "subscribe")).toHaveLength(1);
  streams[0]?.events.down({
    type: "delta",
    version: { epoch: "e", counter: 2 },
    set: [["service/orders.default", view]],
    gone: [],
  });
  expect(await answers).toEqual([view, view]);
});

test("a question that nobody answers in time fails with CONTROL_UNREACHABLE and leaves no subscription behind", async () => {
  const { streams, clock, client } = setUp();
  client.start();
  await settled();
  streams[0]?.events.down(full(1));
  const question = client.ask("orders.default");
  clock.advance(options.askMs);
  await expect(question).rejects.toMatchObject({ code: "CONTROL_UNREACHABLE" });
  expect(streams[0]?.sent.at(-1)).toEqual({ type: "unsubscribe", service: "orders.default" });
});

test("invented names are forgotten, and refused above the limit", async () => {
  const { streams, clock, client } = setUp();
  client.start();
  await settled();
  streams[0]?.events.down(full(1));
  const asked: Promise<unknown>[] = [];
  for (let index = 0; index < options.subscriptionsMax; index++) asked.push(client.ask(`n${index}.default`));
  await expect(client.ask("one-more.default")).rejects.toMatchObject({ code: "LIMIT_REQUESTS" });
  const set = Array.from({ length: options.subscriptionsMax }, (_, index): StateEntry => [
    `service/n${index}.default`,
    null,
  ]);
  streams[0]?.events.down({ type: "delta", version: { epoch: "e", counter: 2 }, set, gone: [] });
  await Promise.all(asked);
  clock.advance(options.unknownMs);
  expect(streams[0]?.sent.filter((message) => message.type === "unsubscribe")).toHaveLength(options.subscriptionsMax);
});

test("a delta of another epoch is not applied: the stream is opened anew", async () => {
  const { streams, clock, client } = setUp();
  client.start();
  await settled();
  streams[0]?.events.down(full(5));
  streams[0]?.events.down({ type: "delta", version: { epoch: "other", counter: 6 }, set: [], gone: [] });
  expect(streams[0]?.closed).toContain("Cannot apply the delta");
  clock.advance(options.reconnectMaxMs);
  await settled();
  expect(streams).toHaveLength(2);
});

test("a state that cannot be used is rejected with its reason, and the next one still counts", async () => {
  let good = false;
  const accepted: (number | undefined)[] = [];
  const { streams, client } = setUp({
    accept: (state) => {
      if (!good) throw new Error("no root in it");
      accepted.push(state.version?.counter);
    },
  });
  client.start();
  await settled();
  streams[0]?.events.down(full(1, [["own", { policies: [] }]]));
  expect(streams[0]?.sent.at(-1)).toEqual({
    type: "reject",
    version: { epoch: "e", counter: 1 },
    because: "no root in it",
  });
  good = true;
  streams[0]?.events.down({ type: "delta", version: { epoch: "e", counter: 2 }, set: [], gone: [] });
  expect(accepted).toEqual([2]);
});

test("a renewed identity opens its stream before the old one is closed", async () => {
  const { streams, published, client } = setUp();
  client.start();
  await settled();
  streams[0]?.events.down(full(1));
  published.publish({ generation: 2 } as TlsIdentity);
  expect(streams[0]?.closed).toBeUndefined();
  await settled();
  expect(streams[1]?.sent[0]).toMatchObject({ type: "hello", version: { counter: 1 } });
  expect(streams[0]?.closed).toBe("a newer stream was opened");
});

test("an old stream stays when the newer one cannot be opened", async () => {
  const { streams, network, published, client } = setUp();
  client.start();
  await settled();
  streams[0]?.events.down(full(1));
  network.reachable = false;
  published.publish({ generation: 2 } as TlsIdentity);
  await settled();
  expect(streams[0]?.closed).toBeUndefined();
  expect(client.connected.read()).toBe(true);
});

test("attempts never stop and never come faster than the longest wait says, once the first ones have failed", async () => {
  const { clock, network, client } = setUp({ reachable: false });
  client.start();
  for (let minute = 0; minute < 600; minute++) {
    clock.advance(1_000);
    await settled();
  }
  const before = network.attempts;
  for (let second = 0; second < 100; second++) {
    clock.advance(1_000);
    await settled();
  }
  const attempts = network.attempts - before;
  expect(attempts).toBeGreaterThanOrEqual(100_000 / (options.reconnectMaxMs + 1_000));
  expect(attempts).toBeLessThanOrEqual(100_000 / (options.reconnectMaxMs / 2) + 1);
});

test("a silent stream is given up", async () => {
  const { streams, clock, client } = setUp();
  client.start();
  await settled();
  streams[0]?.events.down(full(1));
  clock.advance(options.silenceMs);
  expect(streams[0]?.closed).toBe("nothing was heard of it");
  expect(client.connected.read()).toBe(false);
});

test("it says when its first attempt has ended: with the first state, or with the refusal", async () => {
  const reached = setUp();
  reached.client.start();
  await settled();
  expect(reached.client.tried.read()).toBe(false);
  reached.streams[0]?.events.down(full(1));
  expect(reached.client.tried.read()).toBe(true);

  const alone = setUp({ reachable: false });
  alone.client.start();
  await settled();
  expect(alone.client.tried.read()).toBe(true);
  expect(alone.client.connected.read()).toBe(false);
});

test("who logs at debug sees every state that counts, and every question with its answer", async () => {
  const lines: string[] = [];
  const { streams, client } = setUp({ log: { ...silent, debug: (message) => void lines.push(message) } });
  client.start();
  await settled();
  streams[0]?.events.down(full(1));
  const answer = client.ask("orders.default");
  streams[0]?.events.down({
    type: "delta",
    version: { epoch: "e", counter: 2 },
    set: [["service/orders.default", view]],
    gone: [],
  });
  await answer;
  expect(lines).toEqual([
    "a stream to the control plane stands",
    "a state of the control plane counts",
    "the control plane is asked about a service",
    "a state of the control plane counts",
    "the control plane answered about a service",
  ]);
});

/** One whose first stream stands, with every state that counted. */
async function watching(): Promise<ReturnType<typeof setUp> & { readonly accepted: WatchState[] }> {
  const accepted: WatchState[] = [];
  const made = setUp({ accept: (state) => void accepted.push(state) });
  made.client.start();
  await settled();
  return { ...made, accepted };
}

test("an unknown name that is forgotten leaves the published state too: it is asked for anew", async () => {
  const { streams, clock, client, accepted } = await watching();
  streams[0]?.events.down(full(1));
  const answer = client.ask("orders.default");
  streams[0]?.events.down(delta(1, [["service/orders.default", null]]));
  expect(await answer).toBeNull();
  expect(accepted.at(-1)?.entries.has("service/orders.default")).toBe(true);
  const before = accepted.length;
  clock.advance(options.unknownMs);
  await new Promise((resolve) => setImmediate(resolve));
  expect(accepted).toHaveLength(before + 1);
  expect(accepted.at(-1)?.entries.has("service/orders.default")).toBe(false);
});

test("what was on its way about a name that is not subscribed any more is not kept: nobody would tell of its end", async () => {
  const { streams, clock, client, accepted } = await watching();
  streams[0]?.events.down(full(1));
  const question = client.ask("orders.default");
  clock.advance(options.askMs);
  await expect(question).rejects.toMatchObject({ code: "CONTROL_UNREACHABLE" });
  streams[0]?.events.down(delta(2, [["service/orders.default", view]]));
  expect(accepted.at(-1)?.version?.counter).toBe(2);
  expect(accepted.at(-1)?.entries.has("service/orders.default")).toBe(false);
});

test("a state in several lines counts whole: nothing of it before its last line, and nothing of one that broke off", async () => {
  const { streams, clock, accepted } = await watching();
  const first = { ...full(1, [["own", { policies: [] }]]), more: true } as Down;
  streams[0]?.events.down(first);
  expect(accepted).toEqual([]);
  expect(streams[0]?.sent.map(({ type }) => type)).toEqual(["hello"]);
  streams[0]?.events.closed("cut");
  clock.advance(options.reconnectMaxMs);
  await settled();
  streams[1]?.events.down(first);
  streams[1]?.events.down(delta(1, [["provider/default/corp", null]]));
  expect(streams[1]?.sent.map(({ type }) => type)).toEqual(["hello", "ack"]);
  expect(accepted.map(({ entries }) => [...entries.keys()])).toEqual([["own", "provider/default/corp"]]);
  streams[1]?.events.down({ ...delta(2, []), gone: ["own"], more: true } as Down);
  streams[1]?.events.closed("cut");
  clock.advance(options.reconnectMaxMs);
  await settled();
  streams[2]?.events.down(full(3, [["own", { policies: [] }]]));
  expect(accepted.map(({ entries }) => [...entries.keys()])).toEqual([["own", "provider/default/corp"], ["own"]]);
});

test("a bug in what hears of the control plane costs the stream, and another is opened", async () => {
  const { clock, streams, client, faults } = setUp();
  client.start();
  await settled();
  client.connected.subscribe(() => {
    throw new Error("a bug");
  });
  // Once as it is told that the watch stands, once as it is told that it does not.
  expect(() => streams[0]?.events.down(full(1))).not.toThrow();
  expect(streams[0]?.closed).toBe("a bug");
  expect(faults).toHaveLength(2);
  clock.advance(options.reconnectMaxMs);
  await settled();
  expect(streams).toHaveLength(2);
});

/** A sidecar whose warnings are kept, and a span of time in which every retry is made. */
function setUpTold(reachable: boolean) {
  const told: { message: string; fields: LogFields | undefined }[] = [];
  const set = setUp({
    reachable,
    log: { ...silent, warn: (message, fields) => void told.push({ message, fields }) },
  });
  const pass = async (ms: number): Promise<void> => {
    for (let passed = 0; passed < ms; passed += 1_000) {
      set.clock.advance(1_000);
      await settled();
    }
  };
  return { ...set, told, pass };
}

test("an outage is told when it begins, then once a minute with how long it lasts, and once when it is over", async () => {
  const { client, network, streams, told, pass } = setUpTold(true);
  client.start();
  await settled();
  streams[0]?.events.down(full(1));
  network.reachable = false;
  streams[0]?.events.closed("the connection was closed");
  await pass(180_000);
  expect(network.attempts).toBeGreaterThan(30);
  const away = "the control plane is out of reach; traffic goes on with the last good snapshot";
  expect(told.map(({ message }) => message)).toEqual([away, away, away]);
  expect(told[0]?.fields).toMatchObject({ because: "the connection was closed", code: "CONTROL_UNREACHABLE" });
  expect(told[0]?.fields).not.toHaveProperty("lastsMs");
  for (const [index, minute] of [60_000, 120_000].entries()) {
    const lastsMs = Number(told[index + 1]?.fields?.["lastsMs"]);
    expect(lastsMs).toBeGreaterThanOrEqual(minute);
    expect(lastsMs).toBeLessThan(minute + 12_000);
  }
  network.reachable = true;
  await pass(5_000);
  streams[1]?.events.down(full(2));
  streams[1]?.events.down(full(3));
  expect(told.slice(3).map(({ message }) => message)).toEqual(["the control plane serves this sidecar again"]);
  expect(Number(told[3]?.fields?.["lastedMs"])).toBeGreaterThanOrEqual(180_000);
  // The next one is told anew.
  streams[1]?.events.closed("the connection was closed");
  expect(told.at(-1)?.message).toBe(away);
});

test("a refusal is no outage of the network: its code, its reason and the next step are told at once, and shown", async () => {
  const { client, network, streams, told, pass } = setUpTold(false);
  client.start();
  await pass(3_000);
  network.because = new HauberkError("LEAF_UNKNOWN", "Cannot accept the certificate: nobody knows it", "Enroll");
  await pass(20_000);
  expect(told.map(({ fields }) => fields?.["code"])).toEqual(["CONTROL_UNREACHABLE", "LEAF_UNKNOWN"]);
  expect(told[1]?.message).toBe(
    "the control plane answers, and does not serve this sidecar; traffic goes on with the last good snapshot",
  );
  const trouble = {
    code: "LEAF_UNKNOWN",
    because: "Cannot accept the certificate: nobody knows it",
    hint: expect.stringMatching(/--token-file PATH.*--instance.*remove its state folder/),
  };
  expect(told[1]?.fields).toMatchObject(trouble);
  expect(client.trouble).toEqual(trouble);
  network.reachable = true;
  await pass(5_000);
  streams.at(-1)?.events.down(full(1));
  expect(client.trouble).toBeUndefined();
});

test("a stream that the control plane ends with a refusal is told with its code and hint", async () => {
  const { client, network, streams, told } = setUpTold(true);
  client.start();
  await settled();
  network.reachable = false;
  const refusal = { code: "INSTANCE_LOCKED", message: "Cannot go on: it is locked", hint: "Unlock it" } as const;
  streams[0]?.events.down({ type: "refused", ...refusal });
  expect(told[0]?.fields).toMatchObject({ code: refusal.code, because: refusal.message, hint: refusal.hint });
});
