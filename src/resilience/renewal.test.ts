import * as fc from "fast-check";
import { expect, test } from "vitest";
import { drainAtMs, renewAtMs, retryAtMs, retryWindowMs, tickMs } from "./renewal.ts";

const hour = 3_600_000;
const day = { issuedAtMs: 1_000_000, notAfterMs: 1_000_000 + 24 * hour };
const seconds = { issuedAtMs: 1_000_000, notAfterMs: 1_005_000 };

test("renewal lies between half and three quarters of the life, counted from issuance", () => {
  expect(renewAtMs(day, 0)).toBe(day.issuedAtMs + 12 * hour);
  expect(renewAtMs(day, 1)).toBe(day.issuedAtMs + 18 * hour);
  expect(renewAtMs(seconds, 0.5)).toBe(1_000_000 + 3_125);
});

test("a retry window is thirty seconds, or a twentieth of a short life", () => {
  expect([retryWindowMs(day), retryWindowMs(seconds)]).toEqual([30_000, 250]);
  expect(tickMs(seconds)).toBe(250);
  expect(retryWindowMs({ issuedAtMs: 5, notAfterMs: 5 })).toBe(1);
});

test("a connection begins to drain thirty seconds, or a tenth of a short life, before its certificate ends", () => {
  expect(day.notAfterMs - drainAtMs(day)).toBe(30_000);
  expect(seconds.notAfterMs - drainAtMs(seconds)).toBe(500);
});

test("each retry lies in the next window after the one that failed, wherever in it the try was made", () => {
  const life = fc.integer({ min: 5_000, max: 7 * 24 * hour }).map((lifeMs) => ({ issuedAtMs: 0, notAfterMs: lifeMs }));
  const draw = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
  fc.assert(
    fc.property(life, draw, draw, fc.nat(10_000_000), (it, first, again, lateMs) => {
      const firstAtMs = renewAtMs(it, first);
      const nowMs = firstAtMs + lateMs;
      const windowMs = retryWindowMs(it);
      const nextMs = retryAtMs(it, { firstAtMs, nowMs, draw: again });
      expect(nextMs).toBeGreaterThan(nowMs);
      expect(nextMs - nowMs).toBeLessThanOrEqual(2 * windowMs);
      const windowOf = (ms: number): number => Math.floor((ms - firstAtMs) / windowMs + 1e-6);
      expect(windowOf(nextMs) - windowOf(nowMs)).toBeGreaterThanOrEqual(1);
    }),
  );
});

test("a wall clock set back before the first try plans the next one after it, not before now", () => {
  expect(retryAtMs(seconds, { firstAtMs: 1_003_000, nowMs: 1_001_000, draw: 0 })).toBe(1_003_250);
});
