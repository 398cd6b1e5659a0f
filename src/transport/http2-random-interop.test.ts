import * as fc from "fast-check";
import * as http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { connect, createServer } from "node:net";
import { expect, test } from "vitest";
import { Heard, ask, contextOf, endsOf, facts, get, optionsWith } from "../../test/support/http2-pair.ts";
import type { Fields } from "../http/message.ts";
import type { ResponseEvents, ServerExchange } from "./exchange.ts";
import { connectHttp2 } from "./http2-client.ts";
import { serveHttp2 } from "./http2-server.ts";

/**
 * Random exchanges with node:http2 in both roles, over real sockets: any header lists, bodies in any cut, trailers, settings
 * and windows, some of them changed under way. Whatever breaks flow control, nghttp2 ends.
 */

interface Exchange {
  readonly fields: readonly (readonly [string, string])[];
  readonly chunks: readonly number[];
  readonly trailers: readonly (readonly [string, string])[];
}

interface Settings {
  readonly initialWindowSize: number;
  readonly headerTableSize: number;
  readonly maxFrameSize: number;
}

const name = fc.oneof(
  fc.constantFrom("x-a", "x-b", "accept", "x-grpc-bin"),
  fc.stringMatching(/^x-[a-z0-9][a-z0-9!#$%&'*+.^`|~-]{0,20}$/),
);
const value = fc.oneof(
  fc.constantFrom("", "a", "b", "c".repeat(300), "d".repeat(2_000)),
  fc.stringMatching(/^[!-~]([ -~\t]{0,80}[!-~])?$/),
);
const list = (maxLength: number) => fc.array(fc.tuple(name, value), { maxLength });
const exchange: fc.Arbitrary<Exchange> = fc.record({
  fields: list(8),
  chunks: fc.array(fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 90_000 })), { maxLength: 5 }),
  trailers: list(3),
});
const settings: fc.Arbitrary<Settings> = fc.record({
  initialWindowSize: fc.oneof(fc.integer({ min: 100, max: 3_000 }), fc.integer({ min: 3_000, max: 1_000_000 })),
  headerTableSize: fc.constantFrom(0, 100, 4_096, 65_536),
  maxFrameSize: fc.constantFrom(16_384, 20_000, 1_000_000),
});
/** What we allow a peer; the smallest that the options let anybody set, and the default. */
const ours = fc.record({
  streamWindowBytes: fc.constantFrom(65_535, 262_144),
  connectionWindowBytes: fc.constantFrom(65_535, 1_048_576),
  heldBytesMax: fc.constantFrom(0, 50_000, 10_000_000),
  headerTableBytes: fc.constantFrom(0, 500, 4_096),
});
/** Window sizes that a peer changes to while bodies are under way. */
const changes = fc.array(fc.integer({ min: 100, max: 200_000 }), { maxLength: 3 });

/** A deadlock is named with its seed, instead of running into the time of the test. */
const runs = { numRuns: 40, timeout: 20_000 };

/** Names of one list that come twice are values of one array in node:http2, which says no order between names. */
function grouped(fields: Iterable<readonly [string, string]>): Record<string, string[]> {
  const groups: Record<string, string[]> = {};
  for (const [name, value] of fields) (groups[name] ??= []).push(value);
  return groups;
}

function pairs(flat: readonly string[]): [string, string][] {
  return Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i] as string, flat[2 * i + 1] as string]);
}

/** Without what an implementation adds by itself. */
function groupedRaw(flat: readonly string[]): Record<string, string[]> {
  return grouped(pairs(flat).filter(([name]) => !name.startsWith(":") && name !== "date"));
}

function bodyOf(chunks: readonly number[]): Buffer {
  const body = Buffer.alloc(chunks.reduce((sum, bytes) => sum + bytes, 0));
  for (let at = 0; at < body.length; at++) body[at] = at % 251;
  return body;
}

/** Calls `write` for each piece, in turns of its own. */
async function inPieces(chunks: readonly number[], write: (piece: Buffer) => void): Promise<void> {
  const body = bodyOf(chunks);
  let at = 0;
  for (const bytes of chunks) {
    write(body.subarray(at, (at += bytes)));
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Sends back what comes, fields, body and trailers, and takes no more in than it could send on. */
function mirror(exchange: ServerExchange): void {
  let waits = 0;
  exchange.listen({
    data: (chunk) => {
      if (exchange.write(chunk) && waits === 0) exchange.consume(chunk.length);
      else waits += chunk.length;
    },
    drained: () => {
      exchange.consume(waits);
      waits = 0;
    },
    end: (trailers) => exchange.end(trailers),
    aborted: () => undefined,
  });
  const end = exchange.bodyless;
  exchange.respond({ status: 200, fields: exchange.head.fields, bodyLength: end ? 0 : -1 }, end);
}

test("what a client of node:http2 sends to our server comes back whole, under any settings", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(exchange, { minLength: 1, maxLength: 5 }),
      settings,
      ours,
      changes,
      async (exchanges, nodes, options, windows) => {
        const server = createServer((socket) =>
          serveHttp2(socket, facts, mirror, contextOf(endsOf(), optionsWith(options))),
        );
        await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
        const port = (server.address() as AddressInfo).port;
        const session = http2.connect(`http://127.0.0.1:${port}`, { settings: nodes });
        try {
          const answers = exchanges.map((one) => nodeAsks(session, one));
          for (const initialWindowSize of windows)
            await new Promise<void>((resolve) => session.settings({ initialWindowSize }, () => resolve()));
          for (const [index, answer] of (await Promise.all(answers)).entries())
            expectMirrored(answer, exchanges[index]);
        } finally {
          session.destroy();
          server.close();
        }
      },
    ),
    runs,
  );
});

interface Mirrored {
  readonly fields: readonly string[];
  readonly body: Buffer;
  readonly trailers: readonly string[];
}

function expectMirrored(answer: Mirrored, asked: Exchange | undefined): void {
  const { fields, chunks, trailers } = asked as Exchange;
  expect(groupedRaw(answer.fields)).toEqual(grouped(fields));
  expect(answer.body.equals(bodyOf(chunks))).toBe(true);
  expect(groupedRaw(answer.trailers)).toEqual(grouped(trailers));
}

function nodeAsks(session: http2.ClientHttp2Session, asked: Exchange): Promise<Mirrored> {
  return new Promise((resolve, reject) => {
    const withTrailers = asked.trailers.length > 0;
    const stream = session.request(
      { ":method": "POST", ":path": "/", ...grouped(asked.fields) },
      { waitForTrailers: withTrailers, endStream: false },
    );
    if (withTrailers) stream.on("wantTrailers", () => stream.sendTrailers(grouped(asked.trailers)));
    const body: Buffer[] = [];
    let fields: string[] = [];
    let trailers: string[] = [];
    stream.on("response", (...heard: unknown[]) => (fields = heard[2] as string[]));
    stream.on("trailers", (...heard: unknown[]) => (trailers = heard[2] as string[]));
    stream.on("data", (chunk: Buffer) => body.push(chunk));
    stream.on("error", reject);
    stream.on("close", () => resolve({ fields, body: Buffer.concat(body), trailers }));
    void inPieces(asked.chunks, (piece) => stream.write(piece)).then(() => stream.end());
  });
}

test("what our client sends to a server of node:http2 comes back whole, under any settings", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(exchange, { minLength: 1, maxLength: 5 }),
      settings,
      ours,
      changes,
      async (exchanges, nodes, options, windows) => {
        const server = http2.createServer({ settings: nodes });
        const sessions: http2.ServerHttp2Session[] = [];
        server.on("session", (session) => sessions.push(session));
        server.on("stream", nodeMirrors);
        await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
        const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
        const client = await connectHttp2(socket, contextOf(endsOf(), optionsWith(options)));
        try {
          const answers = exchanges.map(async (one): Promise<Mirrored> => {
            const flat: Fields = one.fields.flat();
            const { exchange, heard } = ask(client, get("/", flat, "POST"), false);
            await inPieces(one.chunks, (piece) => exchange.write(piece));
            exchange.end(one.trailers.flat());
            await heard.over();
            expect(heard.loss).toBeUndefined();
            const fields = heard.heads[0]?.fields ?? [];
            return { fields, body: Buffer.concat(heard.chunks), trailers: heard.trailers ?? [] };
          });
          for (const initialWindowSize of windows)
            await new Promise<void>((resolve) => sessions[0]?.settings({ initialWindowSize }, () => resolve()));
          for (const [index, answer] of (await Promise.all(answers)).entries())
            expectMirrored(answer, exchanges[index]);
        } finally {
          client.destroy("the test is over");
          server.close();
        }
      },
    ),
    runs,
  );
});

function nodeMirrors(stream: http2.ServerHttp2Stream, ...heard: unknown[]): void {
  const rawHeaders = heard[2] as string[];
  let trailers: readonly string[] = [];
  stream.on("trailers", (...heard: unknown[]) => (trailers = heard[2] as string[]));
  stream.on("error", () => undefined);
  stream.respond({ ":status": 200, ...groupedRaw(rawHeaders) }, { waitForTrailers: true });
  stream.on("wantTrailers", () => stream.sendTrailers(groupedRaw(trailers)));
  stream.pipe(stream);
}

test("our client reads nothing for a while, and loses nothing of what a server of node:http2 sends then", async () => {
  const server = http2.createServer();
  server.on("stream", (stream: http2.ServerHttp2Stream) => {
    stream.respond({ ":status": 200 });
    stream.end(bodyOf([900_000]));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
  const options = optionsWith({ streamWindowBytes: 100_000, heldBytesMax: 250_000 - 65_535 });
  const client = await connectHttp2(socket, contextOf(endsOf(), options));
  const asked = Array.from({ length: 4 }, () => {
    const heard = new Heard();
    const events: ResponseEvents = heard;
    return { heard, exchange: client.request(get(), true, events) };
  });
  const total = (): number => asked.reduce((sum, { heard }) => sum + heard.bytes, 0);
  // Until the windows are full: the connection's, or each stream's.
  const full = new Promise<void>((resolve) => {
    for (const { heard } of asked) void heard.until(() => total() >= 250_000 - 16_384).then(resolve);
  });
  await full;
  expect(total()).toBeLessThanOrEqual(250_000);
  for (const { heard, exchange } of asked) {
    exchange?.consume(heard.bytes);
    if (exchange !== undefined) heard.consumes = exchange;
  }
  for (const { heard } of asked) {
    await heard.over();
    expect(Buffer.concat(heard.chunks).equals(bodyOf([900_000]))).toBe(true);
  }
  client.destroy("the test is over");
  server.close();
});
