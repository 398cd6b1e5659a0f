import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { spawnWorker } from "./spawn-worker.ts";

const entry = fileURLToPath(new URL("worker.ts", import.meta.url));

test("a worker that no sidecar has started says so and ends", async () => {
  const ended = await new Promise((resolve) => {
    const child = execFile(process.execPath, [entry], (_, out, err) => resolve({ code: child.exitCode, out, err }));
  });
  expect(ended).toEqual({
    code: 2,
    out: "",
    err: "error: Cannot start a worker: no sidecar has started it (USAGE)\nhint: hauberk run --workers N starts N of them\n",
  });
});

test("a worker ends by itself when its sidecar's end of the pair is gone", async () => {
  const worker = spawnWorker({ PATH: "/usr/bin:/bin" });
  expect(worker.pid).toBeGreaterThan(0);
  worker.stream.destroy();
  expect(await worker.exited).toBe("code 0");
});

test("how a worker ended is told, and it can be ended at once", async () => {
  const worker = spawnWorker({});
  worker.kill();
  expect(await worker.exited).toBe("SIGKILL");
});
