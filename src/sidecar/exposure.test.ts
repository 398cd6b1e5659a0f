import { once } from "node:events";
import { createServer, type AddressInfo, type Server } from "node:net";
import { afterEach, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { answers, exposedPort, networkAddresses } from "./exposure.ts";

/** 127.0.0.1 plays the address on the network; 127.0.0.2 the one where nothing of the program answers. */
const network = "127.0.0.1";
const elsewhere = "127.0.0.2";
const servers: Server[] = [];

afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

async function program(host = network): Promise<number> {
  const server = createServer((socket) => socket.destroy());
  servers.push(server);
  server.listen(0, host);
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

const probe = (addresses: readonly string[]): Parameters<typeof exposedPort>[2] => ({
  clock: new ManualClock(),
  withinMs: 1_000,
  addresses,
});

test("a port that answers on a network address is refused, with both ways out", async () => {
  const port = await program();
  expect(await exposedPort([port], [], probe([elsewhere, network]))).toMatchObject({
    code: "APP_PORT_EXPOSED",
    message: `Cannot offer port ${port}: the program answers on ${network}:${port} too, where anybody can call it without mutual TLS`,
    hint: expect.stringContaining(`--allow-exposed ${port}`) as string,
  });
});

test("a port that was allowed by name passes, and only that one", async () => {
  const [allowed, other] = [await program(), await program()];
  expect(await exposedPort([allowed], [allowed], probe([network]))).toBeUndefined();
  expect(await exposedPort([allowed, other], [allowed], probe([network]))).toMatchObject({
    code: "APP_PORT_EXPOSED",
    message: expect.stringContaining(String(other)) as string,
  });
});

test("a port that answers on no network address passes", async () => {
  const port = await program();
  expect(await exposedPort([port], [], probe([elsewhere]))).toBeUndefined();
  expect(await exposedPort([port], [], probe([]))).toBeUndefined();
});

test("an address that says nothing in time counts as closed", async () => {
  const clock = new ManualClock();
  // 192.0.2.0/24 is for documentation (RFC 5737): nobody answers there.
  const answer = answers({ host: "192.0.2.1", port: 9 }, clock, 1_000);
  clock.advance(1_000);
  expect(await answer).toBe(false);
  expect(clock.waiting).toBe(0);
});

test("the machine's network addresses hold neither loopback nor link-local ones", () => {
  expect(networkAddresses().filter((address) => /^(127\.|::1$|169\.254\.|fe80:)/i.test(address))).toEqual([]);
});
