import { expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { defaultsOf } from "../base/options.ts";
import { silent } from "../telemetry/logger.ts";
import { controlOptions } from "./options.ts";
import type { Peer } from "./peers.ts";
import { WatchHub, type HubContext } from "./watch-hub.ts";
import { WatchStream } from "./watch-stream.ts";

/** A bug of ours about one sidecar's watch: it costs that watch, and the others are told all the same. */

const options = defaultsOf(controlOptions);

function scene() {
  const clock = new ManualClock();
  const faults: unknown[] = [];
  let broken = "";
  const hub = new WatchHub(
    {
      clock,
      options,
      random: new SeededRandom(1),
      log: silent,
      registry: {
        onChange: () => () => undefined,
        streamOpened: () => undefined,
        streamEnded: () => undefined,
        offer: () => Promise.resolve(undefined),
      },
      views: {
        bundle: () => "{}",
        own: ({ service }: { service: string }) => {
          if (service === broken) throw new Error("a bug");
          return { text: `["own",{"for":"${service}"}]`, providers: [] };
        },
      },
      mayGoOn: () => Promise.resolve(true),
      onFault: (thrown: unknown) => faults.push(thrown),
    } as unknown as HubContext,
    { epoch: "e", counter: 1 },
  );
  const join = async (service: string) => {
    const seen = { lines: [] as string[], destroyed: false };
    const standing = { is: "workload", instance: service, service, namespace: "default" };
    const sink = {
      write: (line: string) => seen.lines.push(line) > 0,
      end: () => undefined,
      destroy: () => void (seen.destroyed = true),
    };
    const peer = { standing, machine: "m", endsAtMs: clock.wallMs() + 86_400_000 } as unknown as Peer & {
      standing: { is: "workload" };
    };
    const stream = new WatchStream(peer, sink, { wallMs: clock.wallMs(), monotonicMs: clock.monotonicMs() });
    await hub.hear(stream, {
      type: "hello",
      protocol: 1,
      release: "0",
      version: null,
      registration: null,
      subscriptions: [],
    });
    return { seen, stream };
  };
  return { clock, hub, faults, join, breakFor: (service: string) => (broken = service) };
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("a bug in what one sidecar is told ends its watch; the others hear of this change and of the next", async () => {
  const { hub, faults, join, breakFor } = scene();
  const all = [await join("a"), await join("b"), await join("c")];
  await turn();
  breakFor("a");
  for (const { seen } of all) seen.lines.length = 0;
  hub.setVersion({ epoch: "f", counter: 1 });
  await turn();
  expect(all.map(({ seen }) => [seen.destroyed, seen.lines.length])).toEqual([
    [true, 0],
    [false, 1],
    [false, 1],
  ]);
  hub.setVersion({ epoch: "g", counter: 1 });
  await turn();
  expect(all.map(({ seen }) => seen.lines.length)).toEqual([0, 2, 2]);
  expect(faults).toHaveLength(1);
  expect(hub.streams).toHaveLength(2);
});

test("a bug as one sidecar is pinged ends its watch; the others are pinged, then and later", async () => {
  const { clock, faults, join } = scene();
  const all = [await join("a"), await join("b")];
  await turn();
  for (const { seen } of all) seen.lines.length = 0;
  const [first] = all;
  if (first !== undefined)
    first.stream.ping = () => {
      throw new Error("a bug");
    };
  for (let i = 0; i < 3; i++) {
    clock.advance(options.pingEveryMs);
    if (all[1] !== undefined) all[1].stream.heardAtMs = clock.monotonicMs();
  }
  expect(first?.seen.destroyed).toBe(true);
  expect(all[1]?.seen.lines.filter((line) => line.includes("ping"))).toHaveLength(3);
  expect(faults).toHaveLength(1);
});
