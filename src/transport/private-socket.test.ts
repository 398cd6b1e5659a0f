import { once } from "node:events";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { createConnection, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawnSync } from "node:child_process";
import { afterEach, beforeEach, expect, test } from "vitest";
import { listenPrivately } from "./private-socket.ts";

let folder: string;
let path: string;
const servers: Server[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "hauberk-socket-"));
  path = join(folder, "a.sock");
});
afterEach(() => {
  for (const server of servers.splice(0)) server.close();
  rmSync(folder, { recursive: true, force: true });
});

function server(): Server {
  const made = createServer((socket) => socket.on("error", () => undefined).end("here"));
  servers.push(made);
  return made;
}

test("only its own user may open the socket, however open-handed the process is otherwise", async () => {
  const before = process.umask(0);
  try {
    const listening = listenPrivately(server(), path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    await listening;
    expect(process.umask()).toBe(0);
  } finally {
    process.umask(before);
  }
});

test("a socket that somebody listens on is not taken away", async () => {
  await listenPrivately(server(), path);
  await expect(listenPrivately(server(), path)).rejects.toMatchObject({ code: "EADDRINUSE" });
  const [answer] = (await once(createConnection(path), "data")) as [Buffer];
  expect(answer.toString()).toBe("here");
});

test("a socket that a dead process left behind is taken over", async () => {
  const script = `require("net").createServer().listen(process.argv[1], () => process.kill(process.pid, "SIGKILL"))`;
  spawnSync(process.execPath, ["-e", script, path]);
  expect(statSync(path).isSocket()).toBe(true);
  await listenPrivately(server(), path);
  const [answer] = (await once(createConnection(path), "data")) as [Buffer];
  expect(answer.toString()).toBe("here");
});
