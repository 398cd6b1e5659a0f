import {
  connect,
  createServer,
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from "node:http2";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { makeTestPki } from "../support/pki.ts";
import { twoProxies, type TwoProxies } from "../support/two-proxies.ts";

/** node:http2 with prior knowledge at both ends, through two sidecars: what HTTP/2 has beyond a request and its answer. */
let server: Http2Server;
let mesh: TwoProxies;
let session: ClientHttp2Session;
/** What the routee does with the next stream. */
let serve: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void = (stream) => stream.respond();

beforeAll(async () => {
  server = createServer();
  server.on("stream", (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
    stream.on("error", () => undefined);
    serve(stream, headers);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const pki = await makeTestPki({ wallMs: Date.now() });
  mesh = await twoProxies(pki, { routee: (server.address() as AddressInfo).port, protocol: "h2" });
  session = connect(`http://127.0.0.1:${mesh.web.proxy.outboundPort}`);
});

afterAll(async () => {
  session.destroy();
  await mesh.end();
  server.close();
});

function post(headers: Record<string, string> = {}): ClientHttp2Stream {
  const stream = session.request({ ":method": "POST", ":path": "/", ":authority": "orders", ...headers });
  stream.on("error", () => undefined);
  return stream;
}

/** The next thing of its kind that a stream says. */
function next<T>(stream: ClientHttp2Stream | ServerHttp2Stream, event: string): Promise<T> {
  return new Promise((resolve) => stream.once(event, resolve));
}

test("both directions stream at once, each message before the next is sent", async () => {
  serve = (stream) => {
    stream.respond({ ":status": 200 });
    stream.pipe(stream);
  };
  const stream = post();
  for (let i = 0; i < 10; i++) {
    const came = next<Buffer>(stream, "data");
    stream.write(`message ${i}`);
    expect((await came).toString()).toBe(`message ${i}`);
  }
  const ended = next(stream, "end");
  stream.end();
  await ended;
  expect(stream.rstCode).toBe(0);
});

test("interim answers and trailers of both directions cross", async () => {
  const heard: IncomingHttpHeaders[] = [];
  serve = (stream) => {
    stream.additionalHeaders({ ":status": 103, link: "</a>; rel=preload" });
    stream.on("trailers", (trailers: IncomingHttpHeaders) => heard.push(trailers));
    stream.resume();
    stream.on("end", () => {
      stream.respond({ ":status": 200 }, { waitForTrailers: true });
      stream.on("wantTrailers", () => stream.sendTrailers({ "x-sum": "b" }));
      stream.end("body");
    });
  };
  const stream = session.request(
    { ":method": "POST", ":path": "/", ":authority": "orders", trailer: "x-sum" },
    { waitForTrailers: true },
  );
  stream.on("wantTrailers", () => stream.sendTrailers({ "x-sum": "a" }));
  const interim = next<IncomingHttpHeaders>(stream, "headers");
  const trailers = next<IncomingHttpHeaders>(stream, "trailers");
  stream.end("body");
  stream.resume();
  expect(await interim).toMatchObject({ ":status": 103, link: "</a>; rel=preload" });
  expect(await trailers).toMatchObject({ "x-sum": "b" });
  expect(heard).toMatchObject([{ "x-sum": "a" }]);
});

test("a client that expects 100-continue is told to go on by the routee itself", async () => {
  serve = (stream, headers) => {
    expect(headers["expect"]).toBe("100-continue");
    stream.additionalHeaders({ ":status": 100 });
    stream.once("data", (chunk: Buffer) => {
      stream.respond({ ":status": 200 });
      stream.end(chunk);
    });
  };
  const stream = post({ expect: "100-continue" });
  const told = next(stream, "continue");
  const came = next<Buffer>(stream, "data");
  await told;
  stream.end("now");
  expect((await came).toString()).toBe("now");
});

test("a stream that its client resets ends at the routee, and the others on the connection go on", async () => {
  const reset: Promise<number>[] = [];
  serve = (stream) => {
    reset.push(new Promise((resolve) => stream.once("close", () => resolve(stream.rstCode))));
    stream.respond({ ":status": 200 });
    stream.pipe(stream);
  };
  const stays = post();
  const goes = post();
  await Promise.all([next(stays, "response"), next(goes, "response")]);
  goes.close(8);
  expect(await Promise.race(reset)).toBe(8);
  const came = next<Buffer>(stays, "data");
  stays.end("still");
  expect((await came).toString()).toBe("still");
});

test("200 calls of one moment on one connection are all answered, each with its own", async () => {
  serve = (stream, headers) => {
    stream.respond({ ":status": 200 });
    stream.end(String(headers[":path"]));
  };
  const got = await Promise.all(
    Array.from({ length: 200 }, async (_, i) => {
      const stream = session.request({ ":path": `/${i}`, ":authority": "orders" });
      return (await next<Buffer>(stream, "data")).toString();
    }),
  );
  expect(got).toEqual(Array.from({ length: 200 }, (_, i) => `/${i}`));
});
