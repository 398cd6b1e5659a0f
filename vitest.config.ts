import { defineConfig } from "vitest/config";

/** What measures a process's memory is alone on the machine, behind all others: beside them it would measure them too. */
const alone = ["test/scenario/memory.test.ts"];

const notOurs = ["**/node_modules/**", "dist/**"];

const shared = {
  pool: "forks",
  // Files share a worker: a process and every module anew for each of them took longer than most tests do.
  // What a file changes in its process (a listener, the environment, a spy) it puts back.
  isolate: false,
  testTimeout: 60_000,
  hookTimeout: 60_000,
} as const;

export default defineConfig({
  test: {
    globalSetup: "test/support/whole-run.ts",
    maxWorkers: 2,
    projects: [
      {
        test: {
          ...shared,
          name: "all",
          include: ["src/**/*.test.ts", "test/**/*.test.ts", "bench/**/*.test.ts"],
          exclude: [...notOurs, ...alone],
        },
      },
      { test: { ...shared, name: "alone", include: alone, exclude: notOurs, sequence: { groupOrder: 1 } } },
    ],
  },
});
