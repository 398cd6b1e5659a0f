import { expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { Rates } from "./rates.ts";

test("a key has its burst, then its rate, and others have theirs", () => {
  const clock = new ManualClock();
  const rates = new Rates(clock, { perSecond: 2, burstMax: 3 });
  expect([1, 2, 3].map(() => rates.take("a"))).toEqual([undefined, undefined, undefined]);
  expect(rates.take("a")).toMatchObject({ code: "RATE_LIMITED" });
  expect(rates.take("b")).toBeUndefined();
  clock.advance(500);
  expect(rates.take("a")).toBeUndefined();
  expect(rates.take("a")).toMatchObject({ code: "RATE_LIMITED" });
});

test("a hundred thousand addresses take the memory of ten thousand, and the busy one is not forgotten", () => {
  const rates = new Rates(new ManualClock(), { perSecond: 0.001, burstMax: 200 });
  for (let index = 0; index < 100_000; index++) {
    rates.take(`address ${index}`);
    if (index % 1_000 === 0) rates.take("busy");
  }
  expect(rates.size).toBe(10_000);
  let left = 0;
  while (rates.take("busy") === undefined) left++;
  expect(left).toBe(100);
});
