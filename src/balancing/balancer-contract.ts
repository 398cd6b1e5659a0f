import * as fc from "fast-check";
import { expect, test } from "vitest";
import type { Balancer, Candidate } from "./balancer.ts";

/** What every balancer promises: a new one runs this suite, and nothing else need be learned about it. */
export function balancerContract(name: string, make: () => Balancer): void {
  test(`${name} picks nothing from an empty list`, () => {
    expect(make().pick([], () => 0.5)).toBeUndefined();
  });

  test(`${name} picks the only candidate whatever its weight and load`, () => {
    for (const weight of [0, 1, 7]) {
      const only = { key: "a", open: 1_000, weight };
      expect(make().pick([only], () => 0.999)).toBe(only);
    }
  });

  test(`${name} never picks outside the list, also when the list changes between picks`, () => {
    const candidate = fc.record({ key: fc.string(), open: fc.nat(100), weight: fc.constantFrom(0, 1, 1, 1, 3) });
    const list = fc.array(candidate, { minLength: 1, maxLength: 20 });
    const draws = fc.array(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), { minLength: 1 });
    fc.assert(
      fc.property(fc.array(list, { maxLength: 8 }), draws, (lists, numbers) => {
        const balancer = make();
        let at = 0;
        for (const candidates of lists) {
          const picked = balancer.pick(candidates, () => numbers[at++ % numbers.length] as number);
          expect(candidates).toContain(picked);
        }
      }),
      { numRuns: 300 },
    );
  });

  test(`${name} spreads equal endpoints within a tenth of their mean`, () => {
    for (const count of [2, 3, 8, 9, 20]) {
      const totals = spread(
        make(),
        Array.from({ length: count }, () => 1),
        400 * count,
      );
      for (const total of totals) expect(Math.abs(total - 400)).toBeLessThan(40);
    }
  });

  test(`${name} gives an endpoint of weight 3 about three times as much as one of weight 1`, () => {
    const [one = 0, three = 0] = spread(make(), [1, 3], 4_000);
    expect(three / one).toBeGreaterThan(2.3);
    expect(three / one).toBeLessThan(3.8);
  });

  test(`${name} leaves weight 0 out while another weight is there`, () => {
    const [none] = spread(make(), [0, 1, 1], 300);
    expect(none).toBe(0);
  });
}

/** How often each endpoint is picked when `parallel` requests are under way at a time. */
function spread(balancer: Balancer, weights: readonly number[], picks: number): number[] {
  const candidates = weights.map((weight, i) => ({ key: `e${i}`, open: 0, weight }));
  const totals = weights.map(() => 0);
  const underWay: number[] = [];
  let state = 12_345;
  const draw = (): number => (state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0) / 4_294_967_296;
  for (let i = 0; i < picks; i++) {
    const picked = balancer.pick<Candidate>(candidates, draw);
    const index = candidates.findIndex((candidate) => candidate === picked);
    totals[index] = (totals[index] as number) + 1;
    (candidates[index] as { open: number }).open++;
    underWay.push(index);
    if (underWay.length > weights.length * 4) (candidates[underWay.shift() as number] as { open: number }).open--;
  }
  return totals;
}
