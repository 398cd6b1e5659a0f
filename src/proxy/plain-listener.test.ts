import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, expect, test } from "vitest";
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
  const listener = await PlainListener.open({ address, connectionsMax: 8, serve, onDropped: () => undefined });
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
  await listen({ path });
  expect(statSync(path).mode & 0o777).toBe(0o600);
  await listen({ path });
  expect(statSync(path).isSocket()).toBe(true);
});

test("a file that is no socket is not removed for one", async () => {
  const path = join(folder, "notes.txt");
  writeFileSync(path, "keep me");
  await expect(listen({ path })).rejects.toMatchObject({ code: "PORT_TAKEN" });
  expect(statSync(path).isFile()).toBe(true);
});
