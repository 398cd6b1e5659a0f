import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { ManualClock, rethrow } from "../../test/support/manual-clock.ts";
import { allow, endpoint, view } from "../../test/support/outbound.ts";
import { refuse, type Refusal } from "../base/errors.ts";
import type { RouteePort } from "../contract/watch.ts";
import type { ServerConnection } from "../transport/exchange.ts";
import { lendReads } from "../transport/lent-reads.ts";
import { serveService, type Accepted } from "./service-connection.ts";
import { serviceOfView, type Service } from "./snapshot.ts";

const closing: (() => void)[] = [];
afterEach(() => {
  for (const close of closing.splice(0)) close();
});

const tcp: RouteePort = { name: "cache", port: 6379, protocol: "tcp" };
const http: RouteePort = { name: "http", port: 8080, protocol: "http" };
const h2: RouteePort = { name: "grpc", port: 50_051, protocol: "h2" };

function serviceWith(...ports: RouteePort[]): Service {
  return serviceOfView("redis.default", view("redis", [allow("redis", [{}])], [endpoint("a", { ports })]));
}

/** One connection to a listener for `redis`, whose discovery the test answers. */
async function connection(
  use: { port?: number; lent?: boolean; at?: "once"; answer?: Service | null | Refusal } = {},
): Promise<{
  client: Socket;
  clock: ManualClock;
  served: string[];
  refused: string[];
  first: () => string;
  connection: ServerConnection;
  answer(answer: Service | null | Refusal): void;
}> {
  const clock = new ManualClock();
  const served: string[] = [];
  const refused: string[] = [];
  let first = "";
  let answer: (answer: Service | null | Refusal) => void = () => undefined;
  const accepted = Promise.withResolvers<ServerConnection>();
  const take = (what: string, { socket, reads, first: early }: Accepted): ServerConnection => {
    served.push(what);
    first += early?.toString() ?? "";
    if (reads === undefined) socket.on("data", (chunk) => (first += String(chunk)));
    else reads.to((lent) => (first += lent.toString()));
    socket.resume();
    return { exchanges: 1, drain: () => served.push("drain"), destroy: () => served.push("destroy") };
  };
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => undefined);
    const lent = use.lent === true ? lendReads(socket) : undefined;
    accepted.resolve(
      serveService(lent?.socket ?? socket, lent?.reads, {
        service: "redis.default",
        port: use.port,
        clock,
        find: (found) => {
          if (use.answer === undefined) answer = found;
          else found(use.answer);
        },
        serveHttp: (found) => take("http", found),
        serveTcp: (found, port) => take(`tcp ${port}`, found),
        onRefused: ({ code }) => refused.push(code),
        onFault: rethrow,
      }),
    );
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const client = connect({ host: "127.0.0.1", port: (server.address() as AddressInfo).port });
  client.on("error", () => undefined);
  closing.push(
    () => client.destroy(),
    () => server.close(),
  );
  const taken = await accepted.promise;
  return { client, clock, served, refused, first: () => first, connection: taken, answer: (value) => answer(value) };
}

async function closed(client: Socket): Promise<void> {
  client.resume();
  // Not by `once` of node:events, which fails where the end is a reset.
  if (!client.destroyed) await new Promise((resolve) => client.once("close", resolve));
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

describe("a listener for one service", () => {
  test.each([
    [[tcp, http], undefined, "tcp 6379"],
    [[http, tcp], undefined, "http"],
    [[h2, tcp], undefined, "http"],
    [[http, tcp], 6379, "tcp 6379"],
    [[tcp, http], 8080, "http"],
    [[tcp, h2], 50_051, "http"],
  ] as const)(
    "serves %j, asked for port %s, as %s at once, without a byte of its client",
    async (ports, port, what) => {
      const { served } = await connection({
        answer: serviceWith(...ports),
        ...(port === undefined ? {} : { port }),
      });
      expect(served).toEqual([what]);
    },
  );

  for (const lent of [false, true]) {
    test(`waits for discovery and loses nothing that came before (${lent ? "lent" : "own"} reads)`, async () => {
      const at = await connection({ lent });
      at.client.write("early");
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
      at.answer(serviceWith(tcp));
      at.client.write(" late");
      await until(() => at.first() === "early late");
      expect(at.served).toEqual(["tcp 6379"]);
    });
  }

  const unreachable = refuse("CONTROL_UNREACHABLE", "Cannot ask: a test", "Wait");
  test.each([
    ["SERVICE_UNKNOWN", null, undefined],
    ["CONTROL_UNREACHABLE", unreachable, undefined],
    ["NO_ENDPOINT", serviceWith(), undefined],
    ["NO_ENDPOINT", serviceWith(tcp), 1],
  ] as const)(
    "is %s where nobody knows the protocol: HTTP is served, all else is reset",
    async (code, answer, port) => {
      const use = { answer, ...(port === undefined ? {} : { port }) };
      for (const text of ["GET / HTTP/1.1\r\n", "CONNECT a:1 HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n"]) {
        const at = await connection(use);
        // Byte by byte: nothing is guessed before the line is whole.
        for (const letter of text) at.client.write(letter);
        await until(() => at.first().includes(text));
        expect([at.served, at.refused]).toEqual([["http"], []]);
      }
      for (const text of ["*1\r\n", "EHLO x\r\n", "GET / FTP/1.0\r\n", "\x16\x03", "get / HTTP/1.1\r\n"]) {
        const at = await connection(use);
        at.client.write(text);
        await closed(at.client);
        expect({ text, served: at.served, refused: at.refused }).toEqual({ text, served: [], refused: [code] });
      }
      const silent = await connection(use);
      silent.clock.advance(2_900);
      expect(silent.refused).toEqual([]);
      silent.clock.advance(200);
      await closed(silent.client);
      expect([silent.served, silent.refused]).toEqual([[], [code]]);
    },
  );

  test("a client that leaves before discovery answers is served to nobody", async () => {
    const at = await connection();
    at.client.write("x");
    at.connection.destroy("the test");
    at.answer(serviceWith(tcp));
    await closed(at.client);
    expect([at.served, at.refused]).toEqual([[], []]);
  });

  test("a drain while discovery is asked ends the connection; afterwards it is its server's", async () => {
    const asking = await connection();
    asking.connection.drain(1_000);
    await closed(asking.client);
    const at = await connection({ answer: serviceWith(tcp) });
    at.connection.drain(1_000);
    expect(at.served).toEqual(["tcp 6379", "drain"]);
  });
});
