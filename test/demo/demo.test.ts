import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { buildCopy, repository } from "../support/built-copy.ts";
import { eventually } from "../support/mesh.ts";
import { processesOf } from "../support/whole-run.ts";
import { Stage } from "./stage.ts";

/** What the demo does when it cannot go on. */
let folder: string;
let entry: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "hauberk-demo-"));
  entry = join(buildCopy(folder), "lib", "cli", "hauberk.js");
  for (const name of ["test/demo", "test/support", "test/scenario/routees.ts", "policies"])
    cpSync(join(repository, name), join(folder, name), { recursive: true });
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("a program that ends before it serves is named with its last words, whoever answers on its port", async () => {
  const stage = new Stage({ folder: join(folder, "taken"), entry, sabotage: undefined });
  onTestFinished(() => stage.end());
  await stage.bootstrap({ withoutKey: false });
  const about = { service: "ledger", program: "ledger.ts" };
  const { appPort, sidecar } = await stage.play("ledger", about, await stage.mesh.token("ledger"));
  await sidecar.kill("SIGTERM");

  const stranger = createServer((_request, response) => response.writeHead(407).end());
  onTestFinished(() => void stranger.close());
  await once(stranger.listen(appPort, "127.0.0.1"), "listening");

  await expect(stage.play("ledger", about)).rejects.toThrow(
    `ledger ended with 1 before it served: error: listen EADDRINUSE: address already in use 127.0.0.1:${appPort}`,
  );
});

test("Ctrl-C in the middle of a step is told as such, ends everything, leaves report and logs, and exits with 130", async () => {
  const home = join(folder, "interrupted");
  const child = spawn(process.execPath, [join(folder, "test", "demo", "demo.ts"), "--folder", home], {
    stdio: ["ignore", "pipe", "inherit"],
    detached: true,
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  const closed = once(child, "close");
  let text = "";
  createInterface({ input: child.stdout }).on("line", (line) => {
    text += `${line}\n`;
    if (!line.startsWith(" 8. ")) return;
    // As from a terminal: to the whole group, and once more from npm.
    process.kill(-(child.pid as number), "SIGINT");
    child.kill("SIGINT");
  });

  expect(await closed).toEqual([130, null]);
  expect(text).toMatch(/\nInterrupted in step "\w+"/);
  expect(text).not.toContain("DID NOT HAPPEN");
  expect(["report.json", "logs/web.log", "mesh"].filter((name) => !existsSync(join(home, name)))).toEqual([]);
  await eventually("nothing of it runs", 2_000, () => processesOf(home).length === 0 || undefined);
});
