import type { Balancer, Candidate } from "./balancer.ts";

/** The fractional part of the golden ratio: its multiples fill [0, 1) more evenly than any other number's. */
const goldenStep = 0.6180339887498949;

/**
 * Each endpoint in turn; where weights differ, each in proportion to its weight.
 * The first turn is drawn, so that a fleet of callers that started together does not march in step.
 */
export function roundRobin(): Balancer {
  let turn = -1;
  return {
    pick<C extends Candidate>(candidates: readonly C[], draw: () => number): C | undefined {
      const count = candidates.length;
      if (count === 0) return undefined;
      if (turn < 0) turn = Math.floor(draw() * 65_536);
      turn = (turn + 1) % 4_294_967_296;
      return isEven(candidates) ? candidates[turn % count] : byWeight(candidates, (turn * goldenStep) % 1);
    },
  };
}

function isEven(candidates: readonly Candidate[]): boolean {
  const weight = (candidates[0] as Candidate).weight;
  for (const candidate of candidates) if (candidate.weight !== weight) return false;
  return true;
}

/** The candidate under `point` in [0, 1) when all lie side by side, each as wide as its weight. */
function byWeight<C extends Candidate>(candidates: readonly C[], point: number): C | undefined {
  let total = 0;
  for (const candidate of candidates) total += Math.max(0, candidate.weight);
  let left = point * total;
  let last: C | undefined;
  for (const candidate of candidates) {
    if (candidate.weight <= 0) continue;
    last = candidate;
    left -= candidate.weight;
    if (left < 0) return candidate;
  }
  return last ?? candidates[0];
}
