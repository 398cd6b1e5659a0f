import { createHash, randomBytes } from "node:crypto";
import { request } from "node:http";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { afterEach, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { defaultsOf } from "../base/options.ts";
import type { Handler, ServerExchange } from "./exchange.ts";
import { serveHttp1 } from "./http1-server.ts";
import { lendReads } from "./lent-reads.ts";
import { http1Options } from "./options.ts";

const servers: Server[] = [];
const sockets = new Set<Socket>();

afterEach(() => {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  for (const server of servers.splice(0)) server.close();
});

/** Keeps every chunk until the body has ended, and only then looks at them: what was lent and not copied would be another's by now. */
function echo(exchange: ServerExchange): void {
  const chunks: Buffer[] = [];
  exchange.listen({
    data: (chunk) => {
      chunks.push(chunk);
      exchange.consume(chunk.length);
    },
    end: () => {
      const body = Buffer.concat(chunks);
      exchange.respond({ status: 200, fields: [], bodyLength: body.length }, false);
      exchange.write(body);
      exchange.end();
    },
    aborted: () => undefined,
    drained: () => undefined,
  });
}

async function serve(handler: Handler = echo): Promise<number> {
  const clock = new ManualClock();
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (accepted) => {
    const lent = lendReads(accepted);
    if (lent === undefined) throw new Error("this Node does not let a handle move");
    sockets.add(lent.socket);
    const facts = { protocol: "http/1.1", remoteAddress: "", localPort: 0, peer: undefined } as const;
    serveHttp1(lent.socket, facts, handler, { clock, options: defaultsOf(http1Options), reads: lent.reads });
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

function post(port: number, pieces: readonly Buffer[]): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ host: "127.0.0.1", port, method: "POST", path: "/", agent: false }, (incoming) => {
      const chunks: Buffer[] = [];
      incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
      incoming.once("error", reject);
      incoming.once("end", () => resolve(Buffer.concat(chunks)));
    });
    outgoing.once("error", reject);
    const next = (index: number): void => {
      const piece = pieces[index];
      if (piece === undefined) outgoing.end();
      else outgoing.write(piece, () => setImmediate(() => next(index + 1)));
    };
    next(0);
  });
}

test("bodies that arrive on many connections at once keep their bytes", async () => {
  const port = await serve();
  const digest = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");
  const bodies = Array.from({ length: 24 }, (_, index) =>
    Array.from({ length: 12 }, () => randomBytes(1 + ((index * 997) % 20_000))),
  );
  const answers = await Promise.all(bodies.map((pieces) => post(port, pieces)));
  expect(answers.map(digest)).toEqual(bodies.map((pieces) => digest(Buffer.concat(pieces))));
});

test("a pipelined request behind another keeps its bytes until its turn", async () => {
  const waiting: (() => void)[] = [];
  const port = await serve((exchange) => {
    if (exchange.head.path !== "/first") return echo(exchange);
    exchange.listen({
      data: () => undefined,
      end: () => undefined,
      aborted: () => undefined,
      drained: () => undefined,
    });
    waiting.push(() => exchange.respond({ status: 200, fields: [], bodyLength: 0 }, true));
  });
  const client = await new Promise<Socket>((resolve) => {
    const made = connect({ host: "127.0.0.1", port }, () => resolve(made));
  });
  const answered = new Promise<string>((resolve) => {
    let text = "";
    client.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
      if (text.includes("the second body")) resolve(text);
    });
  });
  client.write(
    "GET /first HTTP/1.1\r\nhost: a\r\n\r\nPOST /second HTTP/1.1\r\nhost: a\r\ncontent-length: 15\r\n\r\nthe second body",
  );
  await expect.poll(() => waiting.length).toBe(1);
  // Meanwhile the buffer that the second request arrived in is read into for somebody else.
  await post(port, [randomBytes(60_000), randomBytes(60_000)]);
  waiting[0]?.();
  expect(await answered).toMatch(/^HTTP\/1\.1 200 [\s\S]*HTTP\/1\.1 200 [\s\S]*the second body$/);
  client.destroy();
});
