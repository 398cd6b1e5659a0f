import { expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { trimWhenQuiet, type Memory } from "./trim.ts";

const mb = 1024 * 1024;

function bench(trimEveryMs = 10_000) {
  const clock = new ManualClock();
  const now = { bytes: 80 * mb, busy: 0, shrunk: 0 };
  const memory: Memory = {
    residentBytes: () => now.bytes,
    busyShare: () => now.busy,
    shrink: () => {
      now.shrunk++;
      now.bytes = 75 * mb;
    },
  };
  const cancel = trimWhenQuiet(clock, memory, { trimEveryMs });
  return { clock, now, cancel };
}

test("what the start left is given back once it has been quiet, and then nothing for as long as nothing grows", () => {
  const { clock, now } = bench();
  clock.advance(9_999);
  expect(now.shrunk).toBe(0);
  clock.advance(1);
  expect(now.shrunk).toBe(1);
  now.bytes = 78 * mb;
  clock.advance(600_000);
  expect(now.shrunk).toBe(1);
});

test("nothing is given back under load, and what a burst left is when it is over", () => {
  const { clock, now } = bench();
  clock.advance(10_000);
  now.busy = 0.5;
  now.bytes = 105 * mb;
  clock.advance(60_000);
  expect(now.shrunk).toBe(1);
  now.busy = 0.01;
  clock.advance(10_000);
  expect(now.shrunk).toBe(2);
});

test("it can be switched off, and ends with the sidecar", () => {
  const off = bench(0);
  off.clock.advance(60_000);
  expect([off.now.shrunk, off.clock.waiting]).toEqual([0, 0]);
  const ended = bench();
  ended.cancel();
  ended.clock.advance(60_000);
  expect([ended.now.shrunk, ended.clock.waiting]).toEqual([0, 0]);
});
