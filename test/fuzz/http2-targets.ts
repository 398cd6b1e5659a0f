import * as fc from "fast-check";
import { FieldList } from "../../src/http/http2/field-list.ts";
import { FrameReader, type FrameListener } from "../../src/http/http2/frame-reader.ts";
import { HpackDecoder } from "../../src/http/http2/hpack-decoder.ts";
import { boundOf, HpackEncoder } from "../../src/http/http2/hpack-encoder.ts";
import { frameStream, headerBlock, settingsFrame } from "./http2-frames.ts";
import { ReferenceDecoder } from "./reference-hpack.ts";
import { cutUp, cuts, mutated, same, target, type Target } from "./target.ts";

const readerLimits = { blockBytesMax: 4_096, continuationsMax: 4 };

/** What a frame reader tells; data is joined, because a cut may divide it. */
class Recorder implements FrameListener {
  readonly heard: string[] = [];
  #data = "";
  #broken = false;

  #note(text: string): void {
    if (this.#broken) throw new Error(`told after the connection broke: ${text}`);
    this.heard.push(text);
  }
  dataBegins(id: number, payload: number, endStream: boolean): void {
    this.#data = `data ${id} ${payload} ${endStream} `;
  }
  dataPiece(piece: Buffer): void {
    if (piece.length === 0) throw new Error("an empty piece");
    this.#data += piece.toString("latin1");
  }
  dataEnds(padding: number): void {
    this.#note(`${this.#data} +${padding}`);
  }
  headers(id: number, endStream: boolean, dependsOn: number, bytes: Buffer, start: number, end: number): void {
    this.#note(`headers ${id} ${endStream} ${dependsOn} ${bytes.toString("hex", start, end)}`);
  }
  headersPending(): void {
    this.#note("pending");
  }
  priority(id: number, dependsOn: number): void {
    this.#note(`priority ${id} ${dependsOn}`);
  }
  streamReset(id: number, code: number): void {
    this.#note(`reset ${id} ${code}`);
  }
  settings(bytes: Buffer, start: number, end: number): void {
    this.#note(`settings ${bytes.toString("hex", start, end)}`);
  }
  settingsAcknowledged(): void {
    this.#note("ack");
  }
  ping(acknowledges: boolean, bytes: Buffer, at: number): void {
    this.#note(`ping ${acknowledges} ${bytes.toString("hex", at, at + 8)}`);
  }
  goaway(lastStreamId: number, code: number): void {
    this.#note(`goaway ${lastStreamId} ${code}`);
  }
  windowUpdate(id: number, by: number): void {
    this.#note(`window ${id} ${by}`);
  }
  proof(acknowledges: boolean, id: number, bytes: Buffer, start: number, end: number): void {
    this.#note(`proof ${acknowledges} ${id} ${bytes.toString("hex", start, end)}`);
  }
  unknown(): void {
    this.#note("unknown");
  }
  streamBroken(id: number, code: number): void {
    this.#note(`stream broken ${id} ${code}`);
  }
  broken(code: number): void {
    this.#note(`broken ${code}`);
    this.#broken = true;
  }
}

function hear(pieces: readonly Buffer[]): string[] {
  const recorder = new Recorder();
  const reader = new FrameReader(recorder, readerLimits);
  for (const piece of pieces) reader.read(piece);
  return recorder.heard;
}

const listLimits = { fieldsMax: 1_000, bytesMax: 1_000_000 };

function fieldsOf(decoder: HpackDecoder, block: Buffer): [string, string][] | undefined {
  const list = new FieldList(listLimits);
  if (!decoder.decode(block, 0, block.length, list)) return undefined;
  return Array.from({ length: list.count }, (_, i) => [list.names[i] as string, list.values[i] as string]);
}

const name = fc.constantFrom(
  "accept",
  "x-a",
  "x-b",
  "cookie",
  "authorization",
  "content-type",
  "x-long-name-that-costs",
  ":path",
  ":status",
);
const value = fc.oneof(
  fc.constantFrom("", "a", "b", "c".repeat(50), "d".repeat(600), "e".repeat(3_000)),
  fc.stringMatching(/^[!-~]{1,12}$/),
);
const encoded = fc.record({
  fields: fc.array(fc.tuple(name, value), { maxLength: 8 }),
  limit: fc.option(fc.constantFrom(0, 40, 100, 1_000, 4_096, 9_000), { nil: undefined, freq: 6 }),
});

export const http2Targets: readonly Target[] = [
  target(
    {
      name: "http2-frames-cut",
      says: "HTTP/2 frames cut anywhere are heard as when whole, and nothing after the connection broke",
      share: 15,
    },
    fc.property(mutated(frameStream), cuts, (bytes, at) => {
      const all = Buffer.concat([settingsFrame, bytes]);
      same("whole and cut", hear(cutUp(all, at)), hear([all]));
    }),
  ),
  target(
    {
      name: "hpack-decode",
      says: "HPACK blocks decode as a plain reading of RFC 7541 does, or are refused by both",
      share: 10,
    },
    fc.property(
      fc.array(mutated(headerBlock), { minLength: 1, maxLength: 5 }),
      fc.array(fc.nat(), { maxLength: 12 }),
      fc.constantFrom(0, 60, 200, 4_096),
      (list, again, limit) => {
        const decoder = new HpackDecoder(limit);
        const reference = new ReferenceDecoder(limit);
        // The same bytes come again, and mean what the table says by then.
        for (const block of [...list, ...again.map((at) => list[at % list.length] as Buffer)]) {
          const ours = fieldsOf(decoder, block);
          same("a block", ours ?? "refused", reference.decode(block) ?? "refused");
          if (ours === undefined) return;
        }
      },
    ),
  ),
  target(
    {
      name: "hpack-encode",
      says: "what the encoder writes, under any table sizes, is read back by a plain reading of RFC 7541",
      share: 1,
    },
    fc.property(
      fc.array(encoded, { minLength: 1, maxLength: 12 }),
      fc.constantFrom(0, 200, 4_096, 16_384),
      (list, ownMax) => {
        const encoder = new HpackEncoder(ownMax);
        const reference = new ReferenceDecoder(16_384);
        const decoder = new HpackDecoder(4_096);
        for (const { fields, limit } of list) {
          if (limit !== undefined) {
            encoder.setLimit(limit);
            decoder.setLimit(limit);
          }
          const flat = fields.flat();
          const out = Buffer.alloc(boundOf(flat) + 64);
          encoder.begin(out, 0);
          for (const [key, text] of fields) {
            if (key === ":path") encoder.known(encoder.path, text);
            else if (key === ":status") encoder.known(encoder.status, text);
            else encoder.field(key, text);
          }
          const block = out.subarray(0, encoder.at);
          same("our decoder", fieldsOf(decoder, block), fields);
          same("the reference", reference.decode(block), fields);
        }
      },
    ),
  ),
];
