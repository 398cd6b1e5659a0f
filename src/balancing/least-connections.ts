import type { Balancer, Candidate } from "./balancer.ts";

/** Up to here every endpoint is looked at; above, the better of two drawn ones is nearly as even and costs two looks. */
const scanMax = 8;

/** The endpoint with the fewest exchanges under way for its weight; ties go to one drawn at random. */
export function leastConnections(): Balancer {
  return {
    pick<C extends Candidate>(candidates: readonly C[], draw: () => number): C | undefined {
      const count = candidates.length;
      if (count <= 1) return candidates[0];
      return count <= scanMax ? leastOfAll(candidates, draw) : lesserOfTwo(candidates, draw);
    },
  };
}

/** How full an endpoint would be with one exchange more. */
function load(candidate: Candidate): number {
  return candidate.weight > 0 ? (candidate.open + 1) / candidate.weight : Infinity;
}

function leastOfAll<C extends Candidate>(candidates: readonly C[], draw: () => number): C {
  let best = candidates[0] as C;
  let bestLoad = load(best);
  let ties = 1;
  for (let i = 1; i < candidates.length; i++) {
    const candidate = candidates[i] as C;
    const candidateLoad = load(candidate);
    if (candidateLoad > bestLoad) continue;
    ties = candidateLoad < bestLoad ? 1 : ties + 1;
    // The nth of several equals takes the place with probability 1/n, which leaves each the same chance.
    if (ties > 1 && draw() * ties >= 1) continue;
    best = candidate;
    bestLoad = candidateLoad;
  }
  return best;
}

function lesserOfTwo<C extends Candidate>(candidates: readonly C[], draw: () => number): C {
  const count = candidates.length;
  const first = Math.floor(draw() * count);
  let second = Math.floor(draw() * (count - 1));
  if (second >= first) second++; // Two different ones: the same twice would be no choice.
  const one = candidates[first] as C;
  const other = candidates[second] as C;
  return load(other) < load(one) ? other : one;
}
