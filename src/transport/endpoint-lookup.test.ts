import { once } from "node:events";
import { connect, createServer, type AddressInfo } from "node:net";
import { expect, test } from "vitest";
import { endpointLookup } from "./endpoint-lookup.ts";

/** What comes of a name that leads to these addresses. */
function lookUp(host: string, addresses: readonly string[], all: boolean): unknown {
  let outcome: unknown;
  const resolve = endpointLookup((_host, _options, found) =>
    found(
      null,
      addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 })),
    ),
  );
  resolve(host, { all }, (error, address) => (outcome = error?.message ?? address));
  return outcome;
}

test.each([
  ["loopback", ["127.0.0.1"]],
  ["IPv6 loopback", ["::1"]],
  ["mapped loopback", ["::ffff:127.0.0.1"]],
  ["a metadata service", ["169.254.169.254"]],
  ["no address at all", ["0.0.0.0"]],
  ["an address of the own link", ["fe80::1%eth0"]],
  ["one good and one bad address", ["10.0.0.1", "127.0.0.1"]],
])("a name that leads to %s is not dialled", (_, addresses) => {
  for (const all of [true, false]) expect(lookUp("endpoint.example", addresses, all)).toContain("which is here");
});

test("a name that leads elsewhere is dialled, and so is localhost by its name", () => {
  expect(lookUp("endpoint.example", ["10.0.0.1", "fd00::1"], false)).toBe("10.0.0.1");
  expect(lookUp("localhost", ["127.0.0.1"], false)).toBe("127.0.0.1");
  expect(lookUp("localhost.example", ["127.0.0.1"], false)).toContain("which is here");
  expect(lookUp("localhost", ["169.254.169.254"], false)).toContain("which is here");
});

test("a name without an address, and one that cannot be looked up, are errors", () => {
  expect(lookUp("endpoint.example", [], true)).toBe("the host has no address");
});

test("a socket takes it, and connects to localhost by its name", async () => {
  const server = createServer((socket) => socket.end()).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const socket = connect({ host: "localhost", port, lookup: endpointLookup() });
  await once(socket, "connect");
  socket.destroy();
  server.close();
});
