import { expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { trimAfterStart, type Memory } from "./trim.ts";

function bench(trimAfterMs = 10_000) {
  const clock = new ManualClock();
  const now = { busy: 0, shrunk: 0 };
  const memory: Memory = {
    busyShare: () => now.busy,
    shrink: () => {
      now.shrunk++;
    },
  };
  const cancel = trimAfterStart(clock, memory, { trimAfterMs });
  return { clock, now, cancel };
}

test("what the start left is given back once it has been quiet, and never again", () => {
  const { clock, now } = bench();
  now.busy = 0.1;
  clock.advance(20_000);
  expect(now.shrunk).toBe(0);
  now.busy = 0.01;
  clock.advance(9_999);
  expect(now.shrunk).toBe(0);
  clock.advance(1);
  expect([now.shrunk, clock.waiting]).toEqual([1, 0]);
});

test("nothing is given back once it has worked: compiled code would go with it", () => {
  const { clock, now } = bench();
  now.busy = 0.5;
  clock.advance(10_000);
  now.busy = 0;
  clock.advance(600_000);
  expect([now.shrunk, clock.waiting]).toEqual([0, 0]);
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
