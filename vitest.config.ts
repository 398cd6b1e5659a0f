import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["src/**/*.test.ts", "test/**/*.test.ts", "bench/**/*.test.ts"],
    exclude: ["**/node_modules/**", "dist/**"],
    pool: "forks",
    // Files share a worker: a process and every module anew for each of them took longer than most tests do.
    // What a file changes in its process (a listener, the environment, a spy) it puts back.
    isolate: false,
    globalSetup: "test/support/whole-run.ts",
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
