import { expect, test } from "vitest";
import type { Peer } from "./peers.ts";
import { WatchStream } from "./watch-stream.ts";

function make(): { stream: WatchStream; lines: string[]; sink: { full: boolean; ended: number } } {
  const lines: string[] = [];
  const sink = { full: false, ended: 0 };
  const peer = { standing: { is: "workload", instance: "i" } } as unknown as ConstructorParameters<
    typeof WatchStream
  >[0] &
    Peer;
  const to = {
    write: (line: string) => {
      lines.push(line);
      return !sink.full;
    },
    end: () => void sink.ended++,
    destroy: () => void sink.ended++,
  };
  return { stream: new WatchStream(peer, to, { wallMs: 0, monotonicMs: 0 }), lines, sink };
}

const at = (counter: number, epoch = "e"): { epoch: string; counter: number } => ({ epoch, counter });
const state = (entries: Record<string, number>): Map<string, string> =>
  new Map(Object.entries(entries).map(([key, value]) => [key, `["${key}",${value}]`]));

test("the first word is everything, the next only what differs, and nothing is no word", () => {
  const { stream, lines } = make();
  expect(stream.say(state({ a: 1, b: 2 }), at(1), 0)).toBe(true);
  expect(stream.say(state({ a: 1, b: 2 }), at(2), 0)).toBe(false);
  expect(stream.say(state({ a: 3, c: 4 }), at(3), 0)).toBe(true);
  expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
    {
      type: "full",
      version: at(1),
      entries: [
        ["a", 1],
        ["b", 2],
      ],
    },
    {
      type: "delta",
      version: at(3),
      set: [
        ["a", 3],
        ["c", 4],
      ],
      gone: ["b"],
    },
  ]);
});

test("a new epoch is told whole", () => {
  const { stream, lines } = make();
  stream.say(state({ a: 1 }), at(9), 0);
  stream.say(state({ a: 1 }), at(1, "f"), 0);
  expect(JSON.parse(lines[1] ?? "")).toEqual({ type: "full", version: at(1, "f"), entries: [["a", 1]] });
});

test("however much happens while a reader is slow, one message waits, and one difference follows", () => {
  const { stream, lines, sink } = make();
  sink.full = true;
  stream.say(state({ a: 0 }), at(0), 5);
  expect(stream.blockedSinceMs).toBe(5);
  for (let counter = 1; counter < 1_000; counter++) stream.say(state({ a: counter }), at(counter), counter);
  stream.ping(1, { wallMs: 0, monotonicMs: 0 });
  expect(lines).toHaveLength(1);
  stream.blockedSinceMs = undefined;
  stream.say(state({ a: 999 }), at(999), 1_000);
  expect(lines).toHaveLength(2);
  expect(JSON.parse(lines[1] ?? "")).toEqual({ type: "delta", version: at(999), set: [["a", 999]], gone: [] });
});

test("a state of many lines is written as it is read, and nothing newer is said in between", () => {
  const { stream, lines, sink } = make();
  const large = new Map(Array.from({ length: 5 }, (_, index) => [`k${index}`, `["k${index}",${"7".repeat(2 ** 20)}]`]));
  sink.full = true;
  stream.say(large, at(1), 5);
  expect({ lines: lines.length, blocked: stream.blockedSinceMs }).toEqual({ lines: 1, blocked: 5 });
  const smaller = new Map([...large].slice(1));
  for (let drains = 0; drains < 4; drains++) {
    stream.blockedSinceMs = undefined;
    stream.say(smaller, at(2), 6);
  }
  expect(lines).toHaveLength(5);
  sink.full = false;
  stream.blockedSinceMs = undefined;
  stream.say(smaller, at(2), 7);
  const messages = lines.map((line) => JSON.parse(line) as { type: string; more?: true; version: { counter: number } });
  expect(messages.map(({ type, more, version }) => [type, more ?? false, version.counter])).toEqual([
    ["full", true, 1],
    ["delta", true, 1],
    ["delta", true, 1],
    ["delta", true, 1],
    ["delta", false, 1],
    ["delta", false, 2],
  ]);
  expect(messages[5]).toMatchObject({ set: [], gone: ["k0"] });
});

test("after the end nothing is said", () => {
  const { stream, lines, sink } = make();
  stream.goodbye("enough");
  stream.say(state({ a: 1 }), at(1), 0);
  stream.ping(1, { wallMs: 0, monotonicMs: 0 });
  stream.goodbye("again");
  expect({ lines: lines.length, ended: sink.ended }).toEqual({ lines: 1, ended: 1 });
});
