import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { rawFrame, uint32 } from "../../../test/support/http2-raw.ts";
import { FrameReader } from "./frame-reader.ts";
import type { FrameListener } from "./frame-reader.ts";
import * as frames from "./frames.ts";

const limits = { blockBytesMax: 1_000, continuationsMax: 4 };

/** Writes down what it hears; pieces of one DATA frame are joined, because a cut may divide them. */
class Recorder implements FrameListener {
  readonly heard: string[] = [];
  #data = "";

  dataBegins(id: number, payload: number, endStream: boolean): void {
    this.#data = `data ${id} ${payload} ${endStream} `;
  }
  dataPiece(piece: Buffer): void {
    expect(piece.length).toBeGreaterThan(0);
    this.#data += piece.toString("hex");
  }
  dataEnds(padding: number): void {
    this.heard.push(`${this.#data} +${padding}`);
  }
  headers(id: number, endStream: boolean, dependsOn: number, bytes: Buffer, start: number, end: number): void {
    this.heard.push(`headers ${id} ${endStream} ${dependsOn} ${bytes.toString("hex", start, end)}`);
  }
  headersPending(): void {
    this.heard.push("pending");
  }
  priority(id: number, dependsOn: number): void {
    this.heard.push(`priority ${id} ${dependsOn}`);
  }
  streamReset(id: number, code: number): void {
    this.heard.push(`reset ${id} ${code}`);
  }
  settings(bytes: Buffer, start: number, end: number): void {
    this.heard.push(`settings ${bytes.toString("hex", start, end)}`);
  }
  settingsAcknowledged(): void {
    this.heard.push("ack");
  }
  ping(acknowledges: boolean, bytes: Buffer, at: number): void {
    this.heard.push(`ping ${acknowledges} ${bytes.toString("hex", at, at + 8)}`);
  }
  goaway(last: number, code: number): void {
    this.heard.push(`goaway ${last} ${code}`);
  }
  windowUpdate(id: number, increment: number): void {
    this.heard.push(`window ${id} ${increment}`);
  }
  proof(acknowledges: boolean, id: number, bytes: Buffer, start: number, end: number): void {
    this.heard.push(`proof ${acknowledges} ${id} ${bytes.toString("hex", start, end)}`);
  }
  unknown(): void {
    this.heard.push("unknown");
  }
  streamBroken(id: number, code: number): void {
    this.heard.push(`stream broken ${id} ${frames.errorName(code)}`);
  }
  broken(code: number): void {
    this.heard.push(`broken ${frames.errorName(code)}`);
  }
}

function hear(chunks: readonly Buffer[]): string[] {
  const recorder = new Recorder();
  const reader = new FrameReader(recorder, limits);
  for (const chunk of chunks) reader.read(chunk);
  return recorder.heard;
}

const settingsFirst = rawFrame(frames.SETTINGS, 0, 0);

const everything = Buffer.concat([
  rawFrame(frames.SETTINGS, 0, 0, "0001 00001000 0004 0000ffff"),
  rawFrame(frames.SETTINGS, frames.ACK, 0),
  rawFrame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, "828684"),
  rawFrame(frames.HEADERS, frames.END_HEADERS | frames.PADDED | frames.WITH_PRIORITY, 3, "02 80000001 10 8286 0000"),
  rawFrame(frames.HEADERS, 0, 5, "82"),
  rawFrame(frames.CONTINUATION, 0, 5),
  rawFrame(frames.CONTINUATION, frames.END_HEADERS, 5, "8684"),
  rawFrame(frames.DATA, 0, 5, Buffer.from("hello")),
  rawFrame(frames.DATA, frames.PADDED, 5, "03 616263 000000"),
  rawFrame(frames.DATA, frames.PADDED, 5, "02 0000"),
  rawFrame(frames.DATA, frames.END_STREAM, 5),
  rawFrame(frames.PRIORITY, 0, 7, "00000003 05"),
  rawFrame(frames.RST_STREAM, 0, 7, uint32(8)),
  rawFrame(frames.WINDOW_UPDATE, 0, 0, uint32(0x8000_0005)),
  rawFrame(frames.PING, 0, 0, "0102030405060708"),
  rawFrame(0x77, 0xff, 9, "0102"),
  rawFrame(frames.PROOF, 0, 0, "00000001 0000"),
  rawFrame(frames.PROOF, frames.ACK, 3),
  rawFrame(frames.GOAWAY, 0, 0, "00000007 00000001 61"),
]);

const inOrder = [
  "settings 00010000100000040000ffff",
  "ack",
  "headers 1 true -1 828684",
  "headers 3 false 1 8286",
  "pending",
  "headers 5 false -1 828684",
  "data 5 5 false 68656c6c6f +0",
  "data 5 7 false 616263 +4",
  "data 5 3 false  +3",
  "data 5 0 true  +0",
  "priority 7 3",
  "reset 7 8",
  "window 0 5",
  "ping false 0102030405060708",
  "unknown",
  "proof false 0 000000010000",
  "proof true 3 ",
  "goaway 7 1",
];

test("frames that come in one chunk are heard in order", () => {
  expect(hear([everything])).toEqual(inOrder);
});

test("a stream of frames cut at any one place gives the same events", () => {
  for (let cut = 1; cut < everything.length; cut++)
    expect(hear([everything.subarray(0, cut), everything.subarray(cut)]), `cut at ${cut}`).toEqual(inOrder);
});

test("a stream of frames cut at any places gives the same events", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }), (sizes) => {
      const chunks: Buffer[] = [];
      for (let at = 0, i = 0; at < everything.length; i++) {
        const size = sizes[i % sizes.length] as number;
        chunks.push(everything.subarray(at, at + size));
        at += size;
      }
      expect(hear(chunks)).toEqual(inOrder);
    }),
  );
});

describe("a frame that breaks its rules is refused, whole or byte by byte", () => {
  const block = rawFrame(frames.HEADERS, 0, 1, "82");
  const table: [string, Buffer, string][] = [
    ["DATA on stream 0", rawFrame(frames.DATA, 0, 0, "00"), "broken PROTOCOL_ERROR"],
    ["DATA with more padding than payload", rawFrame(frames.DATA, frames.PADDED, 1, "02 00"), "broken PROTOCOL_ERROR"],
    ["padded DATA without a byte", rawFrame(frames.DATA, frames.PADDED, 1), "broken FRAME_SIZE_ERROR"],
    ["HEADERS on stream 0", rawFrame(frames.HEADERS, frames.END_HEADERS, 0, "82"), "broken PROTOCOL_ERROR"],
    [
      "HEADERS with more padding than payload",
      rawFrame(frames.HEADERS, frames.END_HEADERS | frames.PADDED, 1, "05 82"),
      "broken PROTOCOL_ERROR",
    ],
    [
      "HEADERS without room for its priority",
      rawFrame(frames.HEADERS, frames.END_HEADERS | frames.WITH_PRIORITY, 1, "0000"),
      "broken FRAME_SIZE_ERROR",
    ],
    [
      "a frame inside a header block",
      Buffer.concat([block, rawFrame(frames.PING, 0, 0, "0102030405060708")]),
      "broken PROTOCOL_ERROR",
    ],
    ["DATA inside a header block", Buffer.concat([block, rawFrame(frames.DATA, 0, 1, "00")]), "broken PROTOCOL_ERROR"],
    ["an unknown frame inside a header block", Buffer.concat([block, rawFrame(0x77, 0, 1)]), "broken PROTOCOL_ERROR"],
    [
      "CONTINUATION of another stream",
      Buffer.concat([block, rawFrame(frames.CONTINUATION, 4, 3)]),
      "broken PROTOCOL_ERROR",
    ],
    ["CONTINUATION out of nowhere", rawFrame(frames.CONTINUATION, 4, 1), "broken PROTOCOL_ERROR"],
    ["CONTINUATION on stream 0", rawFrame(frames.CONTINUATION, 4, 0), "broken PROTOCOL_ERROR"],
    [
      "CONTINUATION without end",
      Buffer.concat([block, ...Array.from({ length: 5 }, () => rawFrame(frames.CONTINUATION, 0, 1))]),
      "broken ENHANCE_YOUR_CALM",
    ],
    [
      "a block above its size",
      Buffer.concat([block, rawFrame(frames.CONTINUATION, 0, 1, Buffer.alloc(1_000))]),
      "broken ENHANCE_YOUR_CALM",
    ],
    ["PRIORITY on stream 0", rawFrame(frames.PRIORITY, 0, 0, "0000000105"), "broken PROTOCOL_ERROR"],
    ["PRIORITY of 4 bytes", rawFrame(frames.PRIORITY, 0, 1, "00000001"), "stream broken 1 FRAME_SIZE_ERROR"],
    ["RST_STREAM on stream 0", rawFrame(frames.RST_STREAM, 0, 0, uint32(8)), "broken PROTOCOL_ERROR"],
    ["RST_STREAM of 3 bytes", rawFrame(frames.RST_STREAM, 0, 1, "000008"), "broken FRAME_SIZE_ERROR"],
    ["SETTINGS on a stream", rawFrame(frames.SETTINGS, 0, 1), "broken PROTOCOL_ERROR"],
    ["SETTINGS of 3 bytes", rawFrame(frames.SETTINGS, 0, 0, "000300"), "broken FRAME_SIZE_ERROR"],
    ["an acknowledgement with settings", rawFrame(frames.SETTINGS, 1, 0, "000300000001"), "broken FRAME_SIZE_ERROR"],
    ["PUSH_PROMISE", rawFrame(frames.PUSH_PROMISE, 4, 1, "00000002 82"), "broken PROTOCOL_ERROR"],
    ["PING on a stream", rawFrame(frames.PING, 0, 1, "0102030405060708"), "broken PROTOCOL_ERROR"],
    ["PING of 6 bytes", rawFrame(frames.PING, 0, 0, "010203040506"), "broken FRAME_SIZE_ERROR"],
    ["GOAWAY on a stream", rawFrame(frames.GOAWAY, 0, 1, "0000000000000000"), "broken PROTOCOL_ERROR"],
    ["GOAWAY of 4 bytes", rawFrame(frames.GOAWAY, 0, 0, "00000000"), "broken FRAME_SIZE_ERROR"],
    ["WINDOW_UPDATE of 3 bytes", rawFrame(frames.WINDOW_UPDATE, 0, 1, "000001"), "broken FRAME_SIZE_ERROR"],
    ["WINDOW_UPDATE by 0 on the connection", rawFrame(frames.WINDOW_UPDATE, 0, 0, uint32(0)), "broken PROTOCOL_ERROR"],
    [
      "WINDOW_UPDATE by 0 on a stream",
      rawFrame(frames.WINDOW_UPDATE, 0, 1, uint32(0)),
      "stream broken 1 PROTOCOL_ERROR",
    ],
    ["a frame of 16,385 bytes", rawFrame(frames.HEADERS, 4, 1, Buffer.alloc(16_385)), "broken FRAME_SIZE_ERROR"],
    ["DATA of 16,385 bytes", rawFrame(frames.DATA, 0, 1, Buffer.alloc(16_385)), "broken FRAME_SIZE_ERROR"],
  ];
  for (const [name, bytes, verdict] of table) {
    test(name, () => {
      const whole = Buffer.concat([settingsFirst, bytes, rawFrame(frames.PING, 0, 0, "0102030405060708")]);
      const singly = Array.from(whole, (byte) => Buffer.from([byte]));
      for (const chunks of [[whole], singly]) {
        const heard = hear(chunks);
        expect(heard).toContain(verdict);
        if (verdict.startsWith("broken")) expect(heard.at(-1)).toBe(verdict);
        else expect(heard.at(-1)).toMatch(/^ping/);
      }
    });
  }
});

test("the first frame has to be SETTINGS", () => {
  expect(hear([rawFrame(frames.PING, 0, 0, "0102030405060708")])).toEqual(["broken PROTOCOL_ERROR"]);
});

test("no bytes make the reader throw, and none are heard after the connection broke", () => {
  const anyFrame = fc
    .tuple(
      fc.integer({ min: 0, max: 11 }),
      fc.integer({ min: 0, max: 255 }),
      fc.integer({ min: 0, max: 3 }),
      fc.uint8Array({ maxLength: 20 }),
    )
    .map(([type, flags, id, payload]) => rawFrame(type, flags, id, [...payload]));
  fc.assert(
    fc.property(fc.array(anyFrame, { maxLength: 12 }), fc.integer({ min: 1, max: 30 }), (list, size) => {
      const bytes = Buffer.concat([settingsFirst, ...list]);
      const chunks: Buffer[] = [];
      for (let at = 0; at < bytes.length; at += size) chunks.push(bytes.subarray(at, at + size));
      const heard = hear(chunks);
      expect(heard).toEqual(hear([bytes]));
      const broken = heard.findIndex((event) => event.startsWith("broken"));
      if (broken >= 0) expect(broken).toBe(heard.length - 1);
    }),
    { numRuns: 300 },
  );
});
