import { test } from "vitest";
import { SeededRandom } from "../support/seeded-random.ts";

/** Runs a simulation once per seed; a failure names the seed that reproduces it. HAUBERK_SEED runs one seed alone. */
export function simulate(name: string, run: (random: SeededRandom, seed: number) => void, seeds = 10): void {
  test(name, () => {
    const only = process.env["HAUBERK_SEED"];
    const list = only === undefined ? Array.from({ length: seeds }, (_, i) => i + 1) : [Number(only)];
    for (const seed of list) {
      try {
        run(new SeededRandom(seed), seed);
      } catch (thrown) {
        const said = thrown instanceof Error ? thrown.message : String(thrown);
        throw new Error(`seed ${seed} (again: HAUBERK_SEED=${seed}): ${said}`, { cause: thrown });
      }
    }
  });
}
