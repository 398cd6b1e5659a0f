import * as http2 from "node:http2";
import type { AddressInfo, Server } from "node:net";
import { connect, createServer } from "node:net";
import type { IncomingHttpHeaders } from "node:http2";
import { afterEach, describe, expect, test } from "vitest";
import { Heard, ask, contextOf, echo, endsOf, facts, get, optionsWith } from "../../test/support/http2-pair.ts";
import type { ClientConnection, Handler } from "./exchange.ts";
import { connectHttp2 } from "./http2-client.ts";
import { serveHttp2 } from "./http2-server.ts";

/** Both roles against node:http2, over real sockets on loopback. */

const closing: (() => void)[] = [];
afterEach(() => {
  for (const close of closing.splice(0)) close();
});

function portOf(server: Server | http2.Http2Server): Promise<number> {
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve((server.address() as AddressInfo).port)));
}

async function nodeClient(handler: Handler): Promise<http2.ClientHttp2Session> {
  const server = createServer((socket) => serveHttp2(socket, facts, handler, contextOf(endsOf(), optionsWith())));
  const session = http2.connect(`http://127.0.0.1:${await portOf(server)}`);
  closing.push(() => (session.destroy(), server.close()));
  return session;
}

async function nodeServer(
  onStream: (stream: http2.ServerHttp2Stream, headers: IncomingHttpHeaders) => void,
): Promise<ClientConnection> {
  const server = http2.createServer();
  server.on("stream", onStream);
  const socket = connect(await portOf(server), "127.0.0.1");
  const client = await connectHttp2(socket, contextOf(endsOf(), optionsWith()));
  closing.push(() => (client.destroy("the test is over"), server.close()));
  return client;
}

function answerOf(
  stream: http2.ClientHttp2Stream,
): Promise<{ status: number; headers: IncomingHttpHeaders; body: Buffer; trailers: IncomingHttpHeaders }> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let headers: IncomingHttpHeaders = {};
    let trailers: IncomingHttpHeaders = {};
    stream.on("response", (got) => (headers = got));
    stream.on("trailers", (got) => (trailers = got));
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("error", reject);
    stream.on("close", () =>
      resolve({ status: Number(headers[":status"]), headers, body: Buffer.concat(chunks), trailers }),
    );
  });
}

describe("our server with node's client", () => {
  test("answers many requests with bodies of any size, in parallel", async () => {
    const session = await nodeClient(echo);
    const sizes = [0, 1, 5, 16_384, 16_385, 70_000, 300_000];
    const answers = await Promise.all(
      sizes.map((size) => {
        const stream = session.request({ ":method": "POST", ":path": `/${size}`, "x-a": "1" });
        stream.end(Buffer.alloc(size, "y"));
        return answerOf(stream);
      }),
    );
    for (const [i, size] of sizes.entries()) {
      expect(answers[i]?.headers["x-path"]).toBe(`/${size}`);
      expect(answers[i]?.body.equals(Buffer.alloc(size, "y"))).toBe(true);
    }
  });

  test("its header blocks are read by another decoder, time after time", async () => {
    const session = await nodeClient((exchange) => {
      exchange.listen(new Heard());
      const n = Number(exchange.head.path.slice(1));
      exchange.respond(
        {
          status: 200 + (n % 3),
          fields: ["X-N", String(n), "x-mod", String(n % 7), "set-cookie", `a=${n}`, "x-long", "v".repeat(n * 5)],
          bodyLength: 0,
        },
        true,
      );
    });
    for (let n = 0; n < 120; n++) {
      const { status, headers } = await answerOf(session.request({ ":path": `/${n}` }));
      expect([status, headers["x-n"], headers["x-mod"], headers["set-cookie"], headers["x-long"]?.length]).toEqual([
        200 + (n % 3),
        String(n),
        String(n % 7),
        [`a=${n}`],
        n * 5,
      ]);
    }
  });

  test("trailers go both ways", async () => {
    const session = await nodeClient(echo);
    const stream = session.request({ ":method": "POST" }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-sum": "7" }));
    stream.end("a");
    expect((await answerOf(stream)).trailers["x-sum"]).toBe("7");
  });

  test("a cancelled request is heard as cancelled, and the connection goes on", async () => {
    const heard = new Heard();
    const session = await nodeClient((exchange) =>
      exchange.head.path === "/" ? exchange.listen(heard) : echo(exchange),
    );
    const stream = session.request({ ":path": "/" });
    stream.on("error", () => {});
    await new Promise((resolve) => session.ping(() => resolve(undefined)));
    stream.close(http2.constants.NGHTTP2_CANCEL);
    expect((await heard.over()).loss?.kind).toBe("cancelled");
    expect((await answerOf(session.request({ ":path": "/next" }))).status).toBe(200);
  });
});

describe("our client with node's server", () => {
  test("reads many answers with bodies of any size, in parallel", async () => {
    const client = await nodeServer((stream, headers) => {
      stream.respond({ ":status": 200, "x-path": String(headers[":path"]) });
      stream.pipe(stream);
    });
    const sizes = [0, 1, 5, 16_384, 70_000, 300_000];
    const all = sizes.map((size) => {
      const { exchange, heard } = ask(client, { ...get(`/${size}`, ["x-a", "1"], "POST"), bodyLength: size }, false);
      if (size > 0) exchange.write(Buffer.alloc(size, "z"));
      exchange.end();
      return heard;
    });
    await Promise.all(all.map((heard) => heard.over()));
    for (const [i, size] of sizes.entries()) {
      expect(all[i]?.loss).toBeUndefined();
      expect(Buffer.concat(all[i]?.chunks ?? []).equals(Buffer.alloc(size, "z"))).toBe(true);
      expect(all[i]?.heads[0]?.fields.slice(0, 2)).toEqual(["x-path", `/${size}`]);
    }
  });

  test("its header blocks are read by another decoder, time after time", async () => {
    const client = await nodeServer((stream, headers) => {
      stream.respond({ ":status": 200, "x-seen": String(headers["x-n"]) });
      stream.end();
    });
    for (let n = 0; n < 120; n++) {
      const { heard } = ask(
        client,
        get("/", [
          "X-N",
          String(n),
          "x-mod",
          String(n % 5),
          "authorization",
          `Bearer ${n}`,
          "x-long",
          "v".repeat(n * 5),
        ]),
      );
      await heard.over();
      expect(heard.heads[0]?.fields.slice(0, 2)).toEqual(["x-seen", String(n)]);
    }
  });

  test("interim answers and trailers are heard", async () => {
    const client = await nodeServer((stream) => {
      stream.additionalHeaders({ ":status": 103, link: "</a>" });
      stream.respond({ ":status": 200 }, { waitForTrailers: true });
      stream.on("wantTrailers", () => stream.sendTrailers({ "x-sum": "7" }));
      stream.end("body");
    });
    const { heard } = ask(client, get());
    await heard.over();
    expect(heard.log).toEqual(["informed 103", "head 200", "data", "end"]);
    expect([heard.body, heard.trailers]).toEqual(["body", ["x-sum", "7"]]);
  });

  test("a server that closes its session takes nothing new and loses nothing", async () => {
    const client = await nodeServer((stream) => {
      stream.session?.close();
      stream.respond({ ":status": 200 });
      stream.end("last");
    });
    const { heard } = ask(client, get());
    await heard.over();
    expect(heard.body).toBe("last");
    expect(client.open).toBe(false);
  });
});
