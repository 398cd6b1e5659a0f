import * as fc from "fast-check";
import { expect, test } from "vitest";
import { Heard, ask, get, rawToClient, rawToServer } from "../../test/support/http2-pair.ts";
import type { Options } from "../../test/support/http2-pair.ts";
import { rawFields, rawFrame, uint32 } from "../../test/support/http2-raw.ts";
import type { RawPeer } from "../../test/support/http2-raw.ts";
import * as frames from "../http/http2/frames.ts";
import type { ServerExchange } from "./exchange.ts";

/** Flow control (RFC 9113, 5.2 and 6.9) against a model of it: any order of events, in both roles and both directions. */

const { DATA, HEADERS, PING, SETTINGS, WINDOW_UPDATE } = frames;
const posting = rawFields([":method", "POST", ":scheme", "http", ":path", "/", ":authority", "orders"]);
const answered = rawFields([":status", "200"]);
/** More frames without use than these tests send. */
const roomy = { noiseMax: 1_000_000 } as const;

/** One end of some exchanges, whatever its role. */
interface Side {
  write(chunk: Buffer): boolean;
  end(): void;
  consume(bytes: number): void;
}

interface Bench {
  readonly peer: RawPeer;
  readonly sides: readonly Side[];
  readonly heard: readonly Heard[];
  readonly closed: readonly string[];
}

const streamOf = (index: number): number => 2 * index + 1;

/** Our server, with `count` requests under way whose heads are answered. */
async function serverBench(count: number, some: Partial<Options>): Promise<Bench> {
  const sides: ServerExchange[] = [];
  const heard: Heard[] = [];
  const { peer, ends } = rawToServer(
    (exchange) => {
      const events = new Heard();
      exchange.listen(events);
      exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
      sides.push(exchange);
      heard.push(events);
    },
    { ...roomy, ...some },
  );
  for (let index = 0; index < count; index++)
    peer.send(rawFrame(HEADERS, frames.END_HEADERS, streamOf(index), posting));
  await peer.until(() => sides.length === count && peer.frames.some((frame) => frame.type === HEADERS));
  return { peer, sides, heard, closed: ends.closed };
}

/** Our client, with `count` requests under way whose answers have begun. */
async function clientBench(count: number, some: Partial<Options>): Promise<Bench> {
  const { peer, client, ends } = await rawToClient({ ...roomy, ...some });
  const asked = Array.from({ length: count }, () => ask(client, get("/", [], "POST"), false));
  for (const { heard } of asked) heard.consumes = undefined;
  await peer.frame((frame) => frame.type === HEADERS && frame.streamId === streamOf(count - 1));
  for (let index = 0; index < count; index++)
    peer.send(rawFrame(HEADERS, frames.END_HEADERS, streamOf(index), answered));
  await Promise.all(asked.map(({ heard }) => heard.until(() => heard.heads.length > 0)));
  const heard = asked.map((one) => one.heard);
  return { peer, sides: asked.map(({ exchange }) => exchange), heard, closed: ends.closed };
}

const roles: readonly (readonly [string, (count: number, some: Partial<Options>) => Promise<Bench>])[] = [
  ["server", serverBench],
  ["client", clientBench],
];

/** Waits until all that was sent so far has been read, and what it caused has come. */
async function settled(peer: RawPeer, round: number): Promise<void> {
  peer.send(rawFrame(PING, 0, 0, Buffer.concat([uint32(0xfeed), uint32(round)])));
  await peer.frame((frame) => frame.type === PING && frame.payload.readUInt32BE(4) === round);
}

type Sent =
  | { readonly do: "write"; readonly stream: number; readonly bytes: number }
  | { readonly do: "grant"; readonly stream: number; readonly bytes: number }
  | { readonly do: "grant all"; readonly bytes: number }
  | { readonly do: "initial"; readonly bytes: number };

const streamsMax = 3;
const stream = fc.integer({ min: 0, max: streamsMax - 1 });
const sizes = fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 70_000 }));
const sending: fc.Arbitrary<Sent[]> = fc.array(
  fc.oneof(
    { weight: 3, arbitrary: fc.record({ do: fc.constant("write" as const), stream, bytes: sizes }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant("grant" as const), stream, bytes: sizes }) },
    fc.record({ do: fc.constant("grant all" as const), bytes: sizes }),
    fc.record({ do: fc.constant("initial" as const), bytes: fc.oneof(fc.integer({ min: 0, max: 30 }), sizes) }),
  ),
  { maxLength: 25 },
);

/** What the peer has allowed and got: the windows of RFC 9113, 6.9.1 and 6.9.2, seen from the receiver. */
class Windows {
  readonly streams = Array.from({ length: streamsMax }, () => frames.WINDOW_DEFAULT);
  readonly got = Array.from({ length: streamsMax }, () => 0);
  connection = frames.WINDOW_DEFAULT;
  #initial = frames.WINDOW_DEFAULT;
  readonly #peer: RawPeer;
  readonly #changes: number[] = [];
  #read = 0;
  /** The first is for the settings with which every connection begins. */
  #acks = -1;

  constructor(peer: RawPeer) {
    this.#peer = peer;
  }

  change(initial: number): void {
    this.#changes.push(initial - this.#initial);
    this.#initial = initial;
  }

  /** Takes what came; says what was more than allowed. A change counts from its acknowledgement on. */
  take(): string | undefined {
    for (; this.#read < this.#peer.frames.length; this.#read++) {
      const frame = this.#peer.frames[this.#read];
      if (frame === undefined) break;
      if (frame.type === SETTINGS && frame.flags === frames.ACK) {
        const by = this.#changes[this.#acks++] ?? 0;
        for (let index = 0; index < streamsMax; index++) this.streams[index] = (this.streams[index] as number) + by;
      }
      if (frame.type !== DATA) continue;
      const index = (frame.streamId - 1) / 2;
      const bytes = frame.payload.length;
      this.got[index] = (this.got[index] as number) + bytes;
      if (bytes === 0) continue;
      if (bytes > (this.streams[index] as number)) return `${bytes} bytes on stream ${frame.streamId}`;
      if (bytes > this.connection) return `${bytes} bytes on the connection`;
      this.streams[index] = (this.streams[index] as number) - bytes;
      this.connection -= bytes;
    }
    return undefined;
  }
}

for (const [role, open] of roles) {
  test(`a ${role} sends no byte above a window, whatever is done to the windows, and never stops below one`, async () => {
    await fc.assert(
      fc.asyncProperty(sending, async (steps) => {
        const { peer, sides, closed } = await open(streamsMax, {});
        const windows = new Windows(peer);
        const written = Array.from({ length: streamsMax }, () => 0);
        let round = 0;
        const settle = async (): Promise<void> => {
          await settled(peer, ++round);
          expect(windows.take()).toBeUndefined();
          for (const [index, bytes] of written.entries()) {
            const waits = bytes - (windows.got[index] as number);
            if (waits > 0 && windows.connection > 0) expect(windows.streams[index]).toBeLessThanOrEqual(0);
          }
        };
        const grant = (index: number, bytes: number): void => {
          windows.streams[index] = (windows.streams[index] as number) + bytes;
          peer.send(rawFrame(WINDOW_UPDATE, 0, streamOf(index), uint32(bytes)));
        };
        const grantAll = (bytes: number): void => {
          windows.connection += bytes;
          peer.send(rawFrame(WINDOW_UPDATE, 0, 0, uint32(bytes)));
        };
        await settle();
        for (const step of steps) {
          if (step.do === "grant") grant(step.stream, step.bytes);
          else if (step.do === "grant all") grantAll(step.bytes);
          else if (step.do === "write") {
            written[step.stream] = (written[step.stream] as number) + step.bytes;
            sides[step.stream]?.write(Buffer.alloc(step.bytes, step.stream));
          } else {
            windows.change(step.bytes);
            peer.send(rawFrame(SETTINGS, 0, 0, Buffer.concat([Buffer.from([0, 4]), uint32(step.bytes)])));
          }
          await settle();
        }
        for (const side of sides) side.end();
        for (let index = 0; index < streamsMax; index++) grant(index, 2_000_000);
        grantAll(4_000_000);
        await settle();
        expect(windows.got).toEqual(written);
        const ended = peer.frames.filter(({ type, flags }) => type === DATA && (flags & frames.END_STREAM) !== 0);
        expect(ended).toHaveLength(streamsMax);
        expect(closed).toEqual([]);
        peer.socket.destroy();
      }),
      { numRuns: 150 },
    );
  });
}

type Received =
  | { readonly do: "send"; readonly stream: number; readonly bytes: number; readonly padding: number }
  | { readonly do: "consume"; readonly stream: number; readonly bytes: number };

const receiving: fc.Arbitrary<Received[]> = fc.array(
  fc.oneof(
    fc.record({
      do: fc.constant("send" as const),
      stream,
      bytes: fc.oneof(fc.integer({ min: 0, max: 30 }), fc.integer({ min: 0, max: 60_000 })),
      padding: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.integer({ min: 1, max: 256 })),
    }),
    fc.record({ do: fc.constant("consume" as const), stream, bytes: fc.integer({ min: 1, max: 90_000 }) }),
  ),
  { maxLength: 30 },
);

/** `padding` counts its own length byte: 0 is a frame without the flag. */
function dataFrame(streamId: number, bytes: number, padding: number): Buffer {
  if (padding === 0) return rawFrame(DATA, 0, streamId, Buffer.alloc(bytes, 1));
  const payload = Buffer.alloc(bytes + padding, 0).fill(1, 1, 1 + bytes);
  payload[0] = padding - 1;
  return rawFrame(DATA, frames.PADDED, streamId, payload);
}

for (const [role, open] of roles) {
  test(`a ${role} holds no more of bodies than its windows, and gives back what was consumed of them`, async () => {
    await fc.assert(
      fc.asyncProperty(
        receiving,
        fc.integer({ min: 300, max: 200_000 }),
        fc.record({
          connectionWindowBytes: fc.integer({ min: 65_535, max: 250_000 }),
          heldBytesMax: fc.integer({ min: 0, max: 300_000 }),
        }),
        async (steps, streamWindowBytes, limits) => {
          const { peer, sides, heard, closed } = await open(streamsMax, { streamWindowBytes, ...limits });
          const left = Array.from({ length: streamsMax }, () => streamWindowBytes);
          let leftAll = frames.WINDOW_DEFAULT;
          let read = 0;
          let round = 0;
          const consumed = Array.from({ length: streamsMax }, () => 0);
          const heldOf = (index: number): number => (heard[index]?.bytes ?? 0) - (consumed[index] as number);
          const settle = async (): Promise<void> => {
            await settled(peer, ++round);
            for (; read < peer.frames.length; read++) {
              const frame = peer.frames[read];
              if (frame?.type !== WINDOW_UPDATE) continue;
              const index = (frame.streamId - 1) / 2;
              const by = frame.payload.readUInt32BE(0);
              if (frame.streamId === 0) leftAll += by;
              else left[index] = (left[index] as number) + by;
            }
            let heldAll = 0;
            for (let index = 0; index < streamsMax; index++) {
              expect((left[index] as number) + heldOf(index)).toBeLessThanOrEqual(streamWindowBytes);
              heldAll += heldOf(index);
            }
            expect(leftAll).toBeLessThanOrEqual(limits.connectionWindowBytes);
            expect(leftAll + heldAll).toBeLessThanOrEqual(frames.WINDOW_DEFAULT + limits.heldBytesMax);
          };
          const send = (index: number, wanted: number, padding: number): void => {
            for (let rest = wanted; ;) {
              const room = Math.min(rest, frames.PAYLOAD_MAX - padding, (left[index] as number) - padding);
              const bytes = Math.min(room, leftAll - padding);
              if (bytes < 0 || (bytes === 0 && rest > 0)) return;
              left[index] = (left[index] as number) - bytes - padding;
              leftAll -= bytes + padding;
              peer.send(dataFrame(streamOf(index), bytes, padding));
              rest -= bytes;
              if (rest === 0) return;
            }
          };
          const consume = (index: number, bytes: number): void => {
            const real = Math.min(bytes, heldOf(index));
            consumed[index] = (consumed[index] as number) + real;
            sides[index]?.consume(real);
          };
          await settle();
          for (const step of steps) {
            if (step.do === "send") send(step.stream, step.bytes, step.padding);
            else consume(step.stream, step.bytes);
            await settle();
          }
          // What is padding is nobody's to consume: more of it than any window here holds has to come back by itself.
          for (let times = 0; times < 12; times++) {
            for (let frame = 0; frame < 120; frame++) send(frame % streamsMax, 1, 256);
            await settle();
            for (let index = 0; index < streamsMax; index++) consume(index, Infinity);
            await settle();
          }
          // Nothing is held: at least half of each window is open, so a peer can always go on.
          for (const one of left) expect(one).toBeGreaterThanOrEqual(streamWindowBytes / 2);
          expect(leftAll).toBeGreaterThanOrEqual(Math.floor(frames.WINDOW_DEFAULT / 2));
          expect(closed).toEqual([]);
          peer.socket.destroy();
        },
      ),
      { numRuns: 40 },
    );
  });
}
