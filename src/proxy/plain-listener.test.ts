import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, expect, test } from "vitest";
import { rethrow } from "../../test/support/manual-clock.ts";
import { PlainListener, type PlainAddress } from "./plain-listener.ts";

const folder = mkdtempSync(join(tmpdir(), "hauberk-plain-"));
const open: PlainListener[] = [];

afterEach(async () => {
  for (const listener of open.splice(0)) await listener.close(0);
});
afterAll(() => rmSync(folder, { recursive: true }));

async function listen(address: PlainAddress): Promise<PlainListener> {
  const serve = (): never => {
    throw new Error("nothing connects in these tests");
  };
  const listener = await PlainListener.open({
    address,
    connectionsMax: 8,
    serve,
    onDropped: () => undefined,
    onFault: rethrow,
  });
  open.push(listener);
  return listener;
}

test("a port in use is refused as PORT_TAKEN", async () => {
  const { port } = await listen({ host: "127.0.0.1", port: 0 });
  await expect(listen({ host: "127.0.0.1", port })).rejects.toMatchObject({ code: "PORT_TAKEN" });
});

test("a port in use gives a free one where any will do", async () => {
  const { port } = await listen({ host: "127.0.0.1", port: 0 });
  const other = await listen({ host: "127.0.0.1", port, orFree: true });
  expect(other.port).not.toBe(port);
  expect(other.port).toBeGreaterThan(0);
});

test("an address that is not this machine's is refused as UNAVAILABLE, free ports or not", async () => {
  // 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
  for (const orFree of [false, true]) {
    await expect(listen({ host: "192.0.2.1", port: 0, orFree })).rejects.toMatchObject({
      code: "UNAVAILABLE",
      message: expect.stringMatching(/^Cannot listen on 192\.0\.2\.1:0: /) as string,
    });
  }
});

test("a Unix socket is for its owner alone, and one that was left behind is replaced", async () => {
  const path = join(folder, "out.sock");
  // What a killed process leaves.
  const script = `require("net").createServer().listen(process.argv[1], () => process.kill(process.pid, "SIGKILL"))`;
  spawnSync(process.execPath, ["-e", script, path]);
  const listener = await listen({ path });
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(listener.port).toBe(0);
});

test("a Unix socket that another program listens on is left to it", async () => {
  const path = join(folder, "theirs.sock");
  const theirs = createServer((socket) => socket.destroy()).listen(path);
  await once(theirs, "listening");
  await expect(listen({ path })).rejects.toMatchObject({ code: "PORT_TAKEN" });
  expect(statSync(path).isSocket()).toBe(true);
  theirs.close();
});

test("a file that is no socket is not removed for one", async () => {
  const path = join(folder, "notes.txt");
  writeFileSync(path, "keep me");
  await expect(listen({ path })).rejects.toMatchObject({ code: "PORT_TAKEN" });
  expect(statSync(path).isFile()).toBe(true);
});

test("connections above the limit are closed unread, and a place that was left is given again", async () => {
  const served: Socket[] = [];
  let dropped = 0;
  const listener = await PlainListener.open({
    address: { host: "127.0.0.1", port: 0 },
    connectionsMax: 2,
    serve: (socket) => {
      served.push(socket);
      socket.on("error", () => undefined);
      return { exchanges: 0, drain: () => socket.destroy(), destroy: () => socket.destroy() };
    },
    onDropped: () => dropped++,
    onFault: rethrow,
  });
  open.push(listener);
  const connected = (): Promise<Socket> =>
    new Promise((resolve) => {
      const socket = connect({ host: "127.0.0.1", port: listener.port }, () => resolve(socket));
      socket.on("error", () => undefined);
    });
  const ended = (socket: Socket): Promise<void> =>
    new Promise((resolve) => void socket.resume().once("close", () => resolve()));
  const [first] = [await connected(), await connected()];
  await ended(await connected());
  expect([listener.connections, dropped]).toEqual([2, 1]);
  const left = ended(served[0] as Socket);
  first.destroy();
  served[0]?.destroy();
  await left;
  await connected();
  await expect.poll(() => listener.connections).toBe(2);
  expect(dropped).toBe(1);
});

test("close resolves when the last connection has ended", async () => {
  const served: Socket[] = [];
  const listener = await PlainListener.open({
    address: { host: "127.0.0.1", port: 0 },
    connectionsMax: 2,
    serve: (socket) => {
      served.push(socket);
      return { exchanges: 1, drain: () => undefined, destroy: () => socket.destroy() };
    },
    onDropped: () => undefined,
    onFault: rethrow,
  });
  const client = connect({ host: "127.0.0.1", port: listener.port });
  client.on("error", () => undefined);
  await expect.poll(() => listener.connections).toBe(1);
  let closed = false;
  const closing = listener.close(1_000).then(() => (closed = true));
  await new Promise<void>((resolve) => void setImmediate(resolve));
  expect(closed).toBe(false);
  served[0]?.destroy();
  await closing;
  expect(closed).toBe(true);
});
