import { ChildProcess } from "node:child_process";
import { expect, onTestFinished, test, vi } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { childEnvironment, startChild } from "./child.ts";

const outbound = { port: 15_001, secret: "s" };

test("the program calls through the sidecar, and what its user calls directly stays direct", () => {
  const made = childEnvironment({ HAUBERK_TOKEN: "t", no_proxy: "api.example.com, .corp,localhost", A: "1" }, outbound);
  expect(made).toEqual({
    A: "1",
    http_proxy: "http://hauberk:s@127.0.0.1:15001",
    HTTP_PROXY: "http://hauberk:s@127.0.0.1:15001",
    NODE_USE_ENV_PROXY: "1",
    no_proxy: "localhost,127.0.0.1,::1,api.example.com,.corp",
    NO_PROXY: "localhost,127.0.0.1,::1,api.example.com,.corp",
  });
  expect(childEnvironment({}, outbound)["no_proxy"]).toBe("localhost,127.0.0.1,::1");
  expect(childEnvironment({ NO_PROXY: "x" }, outbound)["no_proxy"]).toBe("localhost,127.0.0.1,::1,x");
});

test("a program that does not end when it is told to is killed, which is said; one that ends is not", async () => {
  const clock = new ManualClock();
  const said: string[] = [];
  const child = await startChild(["sleep", "60"], {}, clock);
  onTestFinished(() => killIfThere(child.pid));
  // One that is stopped heeds nothing but SIGKILL.
  process.kill(child.pid, "SIGSTOP");
  child.end("SIGINT", 100, () => said.push("killed"));
  clock.advance(99);
  expect(said).toEqual([]);
  clock.advance(1);
  expect(await child.exited).toBe(137);
  expect(said).toEqual(["killed"]);

  const obedient = await startChild(["sleep", "60"], {}, clock);
  onTestFinished(() => killIfThere(obedient.pid));
  obedient.end("SIGINT", 100, () => said.push("killed too"));
  expect(await obedient.exited).toBe(130);
  clock.advance(100);
  expect(said).toEqual(["killed"]);
});

function killIfThere(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended.
  }
}

test("a program that may not be told to end costs the sidecar nothing, however often it is told", async () => {
  const clock = new ManualClock();
  const child = await startChild(["sleep", "60"], {}, clock);
  onTestFinished(() => void process.kill(child.pid, "SIGKILL"));
  // As of a program that runs as another user: Node tells of EPERM by an event.
  const kill = vi.spyOn(ChildProcess.prototype, "kill").mockImplementation(function refused(this: ChildProcess) {
    return this.emit("error", new Error("kill EPERM"));
  });
  onTestFinished(() => kill.mockRestore());
  expect(() => {
    child.end("SIGTERM", 100);
    clock.advance(100);
  }).not.toThrow();
  expect(kill).toHaveBeenCalledTimes(2);
});
