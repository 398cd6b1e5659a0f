import { expect, test } from "vitest";
import { isDue, isForPerson, lookAgainMs, planAfterIssue, planRecovery, planRenewal, planRetry } from "./renewal.ts";
import type { Issued } from "./issued.ts";

const hour = 3_600_000;
const life = { issuedAtMs: 0, notAfterMs: 24 * hour };
const issued = { ...life, chain: [{ notBeforeMs: -60_000 }] } as unknown as Issued;
const waits = { lockedRetryMs: 60_000, recoveryWaitMaxMs: 30_000 };
const at = (wallMs: number, monotonicMs = wallMs): { wallMs: number; monotonicMs: number } => ({ wallMs, monotonicMs });

test("a certificate is due at its drawn moment of the wall clock, however it got there", () => {
  const plan = planRenewal(life, 0);
  expect(isDue(plan, at(12 * hour - 1))).toBe(false);
  expect(isDue(plan, at(12 * hour, 5))).toBe(true);
});

test("a new certificate that looks old to a clock that runs ahead is not renewed at once", () => {
  const plan = planAfterIssue(life, 0, 20 * hour);
  expect(plan.nextAtMs).toBe(20 * hour + 30_000);
  expect(planAfterIssue(life, 0, 0).nextAtMs).toBe(12 * hour);
});

test("a retry is due even if the wall clock was set back meanwhile", () => {
  const plan = planRetry(
    planRenewal(life, 0),
    { code: "CONTROL_UNREACHABLE", life, now: at(12 * hour), draw: 0.5 },
    waits,
  );
  expect(plan.nextAtMs).toBe(12 * hour + 45_000);
  expect(isDue(plan, at(10 * hour, 12 * hour + 44_999))).toBe(false);
  expect(isDue(plan, at(10 * hour, 12 * hour + 45_000))).toBe(true);
});

test("after the end the waits double from a second to their limit, half of each being jitter", () => {
  let plan = planRecovery(at(30 * hour));
  const longest: number[] = [];
  for (let i = 0; i < 7; i++) {
    const failed = { code: "CONTROL_UNREACHABLE", life, now: at(30 * hour), draw: 0 } as const;
    const soonest = planRetry(plan, failed, waits).nextAtMs - 30 * hour;
    plan = planRetry(plan, { ...failed, draw: 1 }, waits);
    longest.push(plan.nextAtMs - 30 * hour);
    expect(soonest * 2).toBe(longest.at(-1));
  }
  expect(longest).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
});

test("what a person has to decide is asked again slowly", () => {
  for (const code of ["INSTANCE_LOCKED", "CLONE_DETECTED", "RECOVERY_REFUSED", "RECOVERY_DISABLED"] as const) {
    expect(isForPerson(code)).toBe(true);
    const plan = planRetry(planRenewal(life, 0), { code, life, now: at(12 * hour), draw: 0.5 }, waits);
    expect(plan.nextAtMs - 12 * hour).toBe(60_000);
  }
  expect(isForPerson("CONTROL_UNREACHABLE")).toBe(false);
});

test("the clock is looked at every thirty seconds or a twentieth of the life, and at each moment that matters", () => {
  const plan = planRenewal(life, 0);
  expect(lookAgainMs(plan, issued, at(0))).toBe(30_000);
  expect(lookAgainMs(plan, issued, at(12 * hour - 7_000))).toBe(7_000);
  expect(lookAgainMs(plan, issued, at(24 * hour - 5_000))).toBe(5_000);
  expect(lookAgainMs(plan, { ...issued, notAfterMs: 5_000 }, at(0))).toBe(250);
  expect(lookAgainMs(plan, undefined, at(50 * hour))).toBe(30_000);
});
