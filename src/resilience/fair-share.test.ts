import * as fc from "fast-check";
import { expect, test } from "vitest";
import { isOverShare } from "./fair-share.ts";

/** Everybody in turn takes all that it may have. */
function greedy(use: { max: number; ratio: number; many: number }): number[] {
  let taken = 0;
  return Array.from({ length: use.many }, () => {
    let own = 0;
    while (taken < use.max && !isOverShare({ max: use.max, ratio: use.ratio, taken, own })) {
      own++;
      taken++;
    }
    return own;
  });
}

test("one that takes all it may have leaves a quarter, and so does the next of what is left", () => {
  expect(greedy({ max: 10_000, ratio: 0.75, many: 4 })).toEqual([7_500, 1_875, 469, 117]);
});

test("a share of everything is no limit, and neither is one of very few places", () => {
  expect(greedy({ max: 2, ratio: 0.75, many: 1 })).toEqual([2]);
  expect(greedy({ max: 10, ratio: 1, many: 2 })).toEqual([10, 0]);
});

test("a place may be given back and taken again, and as others leave the share grows", () => {
  const places = { max: 100, ratio: 0.5 };
  expect(isOverShare({ ...places, own: 25, taken: 75 })).toBe(true);
  expect(isOverShare({ ...places, own: 24, taken: 74 })).toBe(false);
  expect(isOverShare({ ...places, own: 25, taken: 25 })).toBe(false);
});

test("however greedy the first ones are, there is a place for whoever has none while any is free", () => {
  fc.assert(
    fc.property(
      fc.record({ max: fc.integer({ min: 2, max: 2_000 }), percent: fc.integer({ min: 1, max: 99 }) }),
      ({ max, percent }) => {
        const ratio = percent / 100;
        const [first = 0] = greedy({ max, ratio, many: 1 });
        expect(first).toBe(Math.ceil(max * ratio));
        expect(isOverShare({ max, ratio, taken: max - 1, own: 0 })).toBe(false);
      },
    ),
  );
});
