import * as fc from "fast-check";
import { expect, test } from "vitest";
import { backoffMs } from "./backoff.ts";
import { deadlineAtMs, leftMs, readTimeoutMs } from "./deadline.ts";
import { SlidingCounts } from "./sliding-counts.ts";
import { TokenBucket } from "./token-bucket.ts";

test("the first retries wait up to 25, 75 and 175 ms, and none more than 250", () => {
  const spans = [1, 2, 3, 4, 5, 1_000].map((attempt) => backoffMs({ attempt, draw: 1 }));
  expect(spans).toEqual([25, 75, 175, 250, 250, 250]);
  expect(backoffMs({ attempt: 3, draw: 0 })).toBe(0);
  expect(backoffMs({ attempt: 2, draw: 0.5, baseMs: 100, maxMs: 1_000 })).toBe(150);
});

test("a timeout field is read only when it is one to nine digits", () => {
  expect([readTimeoutMs("0"), readTimeoutMs("250"), readTimeoutMs("999999999")]).toEqual([0, 250, 999_999_999]);
  for (const text of ["", "-1", "+1", "1.5", "1e3", " 1", "1 ", "0x10", "1234567890", "1\n", "١"]) {
    expect(readTimeoutMs(text)).toBeUndefined();
  }
});

test("a received timeout shortens the own limit and never lengthens it", () => {
  expect(deadlineAtMs({ nowMs: 1_000, ownMs: 500, receivedMs: undefined })).toBe(1_500);
  expect(deadlineAtMs({ nowMs: 1_000, ownMs: 500, receivedMs: 200 })).toBe(1_200);
  expect(deadlineAtMs({ nowMs: 1_000, ownMs: 500, receivedMs: 9_000 })).toBe(1_500);
});

test("what is sent on is whole milliseconds and never negative", () => {
  expect([leftMs(1_500, 1_000.4), leftMs(1_500, 1_500), leftMs(1_500, 2_000)]).toEqual([499, 0, 0]);
});

test("a token bucket gives its burst at once and then its rate", () => {
  const bucket = new TokenBucket({ perSecond: 10, burstMax: 3 }, 0);
  expect([bucket.take(0), bucket.take(0), bucket.take(0), bucket.take(0)]).toEqual([true, true, true, false]);
  expect(bucket.take(99)).toBe(false);
  expect(bucket.take(100)).toBe(true);
  expect(bucket.take(100)).toBe(false);
});

test("a token bucket takes nothing for a cost that it cannot pay, and none when time stands still", () => {
  const bucket = new TokenBucket({ perSecond: 1, burstMax: 5 }, 1_000);
  expect(bucket.take(1_000, 6)).toBe(false);
  expect(bucket.take(500, 5)).toBe(true);
  expect(bucket.take(900, 1)).toBe(false);
});

test("sliding counts are what a list of all events says, to within one bucket", () => {
  const events = fc.array(fc.record({ afterMs: fc.nat(700), second: fc.boolean() }), { maxLength: 200 });
  fc.assert(
    fc.property(events, (steps) => {
      const counts = new SlidingCounts(1_000);
      const seen: { atMs: number; second: boolean }[] = [];
      let nowMs = 0;
      for (const { afterMs, second } of steps) {
        nowMs += afterMs;
        seen.push({ atMs: nowMs, second });
        if (second) counts.addSecond(nowMs);
        else counts.addFirst(nowMs);
        const since = (Math.floor(nowMs / 100) - 9) * 100;
        const within = seen.filter((event) => event.atMs >= since);
        expect(counts.second(nowMs)).toBe(within.filter((event) => event.second).length);
        expect(counts.first(nowMs)).toBe(within.filter((event) => !event.second).length);
      }
    }),
  );
});
