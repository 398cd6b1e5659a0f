import * as fc from "fast-check";
import * as frames from "../../src/http/http2/frames.ts";
import { rawFields, rawFrame, uint32 } from "../support/http2-raw.ts";

/** Streams of HTTP/2 frames: mostly what a peer may send, with frames that break every rule of RFC 9113, section 6. */

const often = <T>(usual: readonly T[], odd: readonly T[]): fc.Arbitrary<T> =>
  fc.oneof({ weight: 12, arbitrary: fc.constantFrom(...usual) }, { weight: 1, arbitrary: fc.constantFrom(...odd) });

const streamId = often([1, 1, 3, 5, 7], [0, 2, 9, 0x7fff_ffff]);
const requestHead = [":method", "POST", ":scheme", "http", ":path", "/", ":authority", "orders"];
const blocks: readonly Buffer[] = [
  rawFields(requestHead),
  rawFields([...requestHead, "content-length", "5"]),
  rawFields([
    ":method",
    "GET",
    ":scheme",
    "https",
    ":path",
    "/a?b",
    ":authority",
    "orders",
    "cookie",
    "a=b",
    "cookie",
    "c=d",
  ]),
  Buffer.from([0x82, 0x86, 0x84, 0x41, 0x06, ...Buffer.from("orders")]),
  // Answers, and indices of what the block before put into the table.
  rawFields([":status", "200", "x-a", "1"]),
  Buffer.from([0x88]),
  Buffer.from([0x88, 0x5c, 0x01, 0x35]),
  rawFields([":status", "103"]),
  Buffer.from([0x82, 0x86, 0x84, 0xbe]),
  rawFields(["x-trailer", "1"]),
];
const oddBlocks: readonly Buffer[] = [
  Buffer.alloc(0),
  Buffer.from([0x82]),
  Buffer.from([0x80]),
  Buffer.from([0x20, 0x3f, 0xe1, 0x1f, 0x82]),
  Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff]),
  rawFields([...requestHead, "X-Upper", "1"]),
  rawFields([...requestHead, "connection", "close"]),
  rawFields([...requestHead, "x", "a\r\nb"]),
  rawFields([...requestHead, "host", "evil"]),
  rawFields([":method", "CONNECT", ":authority", "orders:1"]),
  rawFields([":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/", ":authority", "orders"]),
  rawFields([...requestHead, ":path", "/b"]),
  rawFields(["x", "1", ...requestHead]),
  rawFields([...requestHead, "content-length", "5", "content-length", "6"]),
];
const block = often(blocks, oddBlocks);
const endOrNot = often([0, frames.END_STREAM], [frames.END_STREAM]);

function padded(flags: number, payload: Buffer, pad: number, extra: Buffer): { flags: number; payload: Buffer } {
  const withPad = pad >= 0 ? [Buffer.from([pad])] : [];
  const tail = pad >= 0 ? [Buffer.alloc(pad > 200 ? 0 : pad)] : [];
  return {
    flags: flags | (pad >= 0 ? frames.PADDED : 0) | (extra.length > 0 ? frames.WITH_PRIORITY : 0),
    payload: Buffer.concat([...withPad, extra, payload, ...tail]),
  };
}

const pad = often([-1, -1, -1, 0, 3], [255]);
const priority = often(
  [Buffer.alloc(0), Buffer.alloc(0)],
  [Buffer.from([0, 0, 0, 0, 9]), Buffer.from([0x80, 0, 0, 1, 0])],
);
const headers = fc.tuple(streamId, block, endOrNot, pad, priority).map(([id, bytes, end, padding, extra]) => {
  const { flags, payload } = padded(frames.END_HEADERS | end, bytes, padding, extra);
  return rawFrame(frames.HEADERS, flags, id, payload);
});
/** One block in several frames, sometimes without its end, or with something in between. */
const continued = fc
  .tuple(
    streamId,
    block,
    endOrNot,
    fc.array(fc.nat({ max: 60 }), { minLength: 1, maxLength: 4 }),
    often(["", "", ""], ["endless", "between", "other"]),
  )
  .map(([id, bytes, end, at, odd]) => {
    const ends = [...at.map((cut) => Math.min(cut, bytes.length)).sort((a, b) => a - b), bytes.length];
    const parts = ends.map((to, i) => bytes.subarray(i === 0 ? 0 : ends[i - 1], to));
    return Buffer.concat(
      parts.map((part, i) => {
        const last = i === parts.length - 1 && odd !== "endless" ? frames.END_HEADERS : 0;
        const frame =
          i === 0
            ? rawFrame(frames.HEADERS, end | last, id, part)
            : rawFrame(frames.CONTINUATION, last, odd === "other" ? id + 2 : id, part);
        return odd === "between" && i === 1
          ? Buffer.concat([rawFrame(frames.PING, 0, 0, Buffer.alloc(8)), frame])
          : frame;
      }),
    );
  });
const data = fc
  .tuple(streamId, often([0, 1, 5, 5, 300], [16_384, 16_385]), endOrNot, pad)
  .map(([id, size, end, padding]) => {
    const { flags, payload } = padded(end, Buffer.alloc(size, "d"), padding, Buffer.alloc(0));
    return rawFrame(frames.DATA, flags, id, payload);
  });
const setting = fc.tuple(
  often([1, 2, 3, 4, 5, 6], [0, 7, 8, 9, 0xffff]),
  often([0, 1, 100, 65_535, 16_384], [2, 0x7fff_ffff, 0xffff_ffff]),
);
const settings = fc
  .tuple(fc.array(setting, { maxLength: 3 }), often([0, 0, 1], [0xff]), often([0], [1]))
  .map(([list, flags, id]) => {
    const payload = list.flatMap(([key, value]) => [Buffer.from([key >> 8, key]), uint32(value)]);
    return rawFrame(frames.SETTINGS, flags, id, flags === 1 ? Buffer.alloc(0) : Buffer.concat(payload));
  });
const smallSizes: ReadonlyMap<number, number> = new Map([
  [frames.PRIORITY, 5],
  [frames.RST_STREAM, 4],
  [frames.PING, 8],
  [frames.WINDOW_UPDATE, 4],
]);
const small = fc
  .tuple(
    fc.constantFrom(
      frames.PRIORITY,
      frames.RST_STREAM,
      frames.PING,
      frames.GOAWAY,
      frames.WINDOW_UPDATE,
      frames.PUSH_PROMISE,
      0x0a,
      0xfe,
    ),
    streamId,
    often([0], [1, 4, 0xff]),
    fc.uint8Array({ maxLength: 12 }),
  )
  .map(([type, id, flags, bytes]) => {
    const size = smallSizes.get(type);
    const fits = size !== undefined && bytes.length % 8 !== 0;
    const payload = fits ? Buffer.concat([Buffer.from(bytes), Buffer.alloc(12)]).subarray(0, size) : Buffer.from(bytes);
    const connection = type === frames.PING || type === frames.GOAWAY;
    return rawFrame(type, flags, connection && bytes.length % 5 !== 0 ? 0 : id, payload);
  });
const windowUpdate = fc
  .tuple(often([0, 1, 3], [5]), often([1, 1000, 65_535], [0, 0x7fff_ffff, 0x8000_0001]))
  .map(([id, by]) => rawFrame(frames.WINDOW_UPDATE, 0, id, uint32(by)));

const frame = fc.oneof(
  { weight: 6, arbitrary: headers },
  { weight: 3, arbitrary: continued },
  { weight: 5, arbitrary: data },
  { weight: 2, arbitrary: windowUpdate },
  { weight: 2, arbitrary: settings },
  { weight: 2, arbitrary: small },
);

/** Frames behind the first SETTINGS. */
export const frameStream: fc.Arbitrary<Buffer> = fc
  .array(frame, { minLength: 1, maxLength: 12 })
  .map((list) => Buffer.concat(list));
export const settingsFrame: Buffer = rawFrame(frames.SETTINGS, 0, 0);
/** A header block that is likely to be decoded at least in part. */
export const headerBlock: fc.Arbitrary<Buffer> = fc.oneof(
  block,
  fc.array(block, { minLength: 2, maxLength: 3 }).map((list) => Buffer.concat(list)),
);
