import type { FailureCode } from "../../base/errors.ts";
import type { Fields } from "../message.ts";
import { methodBytes, tokenBytes } from "./characters.ts";
import { ChunkLine, chunkLines } from "./chunk-line.ts";
import { readTrailers } from "./fields.ts";
import { framings, type HeadReader } from "./framing.ts";
import type { Http1Limits } from "./limits.ts";

/** What a parser tells, synchronously, while it is fed. */
export interface MessageEvents<Head> {
  /** `bodyless`: no `data` and no `end` follow. An interim answer comes here too, always bodyless. */
  head(head: Head, bodyless: boolean): void;
  data(chunk: Buffer): void;
  end(trailers: Fields | undefined): void;
  /** The bytes are no such message; nothing follows, and what else is fed is dropped. */
  failed(code: FailureCode, because: string): void;
}

const states = {
  head: 0,
  fixed: 1,
  chunkLine: 2,
  chunkData: 3,
  chunkEnd: 4,
  trailerStart: 5,
  trailers: 6,
  untilClose: 7,
  failed: 8,
} as const;

const responseStart = Buffer.from("HTTP/1.");
const headEnd = Buffer.from("\r\n\r\n");
/** Chunks below this are moved together, so that a body of one-byte chunks costs one event per read and not one per chunk. */
const smallChunkBytes = 4096;
/** A longer head is not kept to be compared with the next one. */
const keptBytesMax = 1024;
/** After so many heads that were not that of before, only one of `keptEach` is kept. */
const missesMax = 16;
const keptEach = 64;
/** Up to here a loop compares faster than a native call (measured). */
const loopBytesMax = 96;
const noBytes = Buffer.alloc(0);

/**
 * Turns the bytes of one direction of a connection into messages (RFC 9112). Strict: a framing that could be read in two
 * ways is refused. Pure: no sockets, no time. What it is fed belongs to it from then on: `data` hands out parts uncopied,
 * and small chunks are moved together in place.
 */
export class MessageParser<Head extends { bodyLength: number }> {
  /** While `end` or a bodyless `head` is told: how many bytes of what was fed stand behind the message. */
  remaining = 0;
  readonly #reader: HeadReader<Head>;
  readonly #events: MessageEvents<Head>;
  readonly #limits: Http1Limits;
  readonly #line: ChunkLine;
  #state: number = states.head;
  #held = false;
  #left = 0;
  #sawCr = false;
  #skippedLine = false;
  /** The beginning of a head or of trailers whose end has not come yet. */
  #partial: Buffer | undefined;
  #partialLength = 0;
  /** The small chunks of this read, moved together: from, to; equal where there are none. */
  #gatheredFrom = 0;
  #gatheredTo = 0;

  /**
   * The bytes of the last head, because on most connections the next one is the same: then it is not read again (measured: a
   * tenth of what a request costs). `#keptLength` 0: none.
   */
  #kept: Buffer = noBytes;
  #keptLength = 0;
  #misses = 0;

  constructor(reader: HeadReader<Head>, events: MessageEvents<Head>, limits: Http1Limits) {
    this.#reader = reader;
    this.#events = events;
    this.#limits = limits;
    this.#line = new ChunkLine(limits.extensionBytesMax);
  }

  /** Nothing of a message has arrived since the last one ended. */
  get idle(): boolean {
    return this.#state === states.head && this.#partialLength === 0;
  }

  /** A head has begun and is not complete. */
  get inHead(): boolean {
    return this.#state === states.head && this.#partialLength > 0;
  }

  get failed(): boolean {
    return this.#state === states.failed;
  }

  /** Called within an event: `feed` stops taking bytes behind what it was telling, until `release`. */
  hold(): void {
    this.#held = true;
  }

  release(): void {
    this.#held = false;
  }

  /** Takes bytes from `at` on and returns up to where it took them: all of them unless it is held. */
  feed(chunk: Buffer, at = 0): number {
    const length = chunk.length;
    while (at < length && !this.#held) {
      switch (this.#state) {
        case states.head:
          at = this.#feedHead(chunk, at);
          break;
        case states.fixed:
          at = this.#feedFixed(chunk, at);
          break;
        case states.untilClose:
          this.#events.data(at === 0 ? chunk : chunk.subarray(at));
          at = length;
          break;
        case states.failed:
          return length;
        case states.trailers:
          at = this.#feedTrailers(chunk, at);
          break;
        default:
          at = this.#feedChunked(chunk, at);
      }
    }
    if (this.#gatheredTo > this.#gatheredFrom) this.#tellGathered(chunk);
    return at;
  }

  /** The bytes have ended; "cut": in the middle of a message. */
  finish(): "clean" | "ended" | "cut" {
    if (this.#state === states.untilClose) {
      this.#state = states.head;
      this.remaining = 0;
      this.#events.end(undefined);
      return "ended";
    }
    return this.idle || this.#state === states.failed ? "clean" : "cut";
  }

  #fail(code: FailureCode, because: string): void {
    this.#state = states.failed;
    this.#dropPartial();
    this.#events.failed(code, because);
  }

  #end(trailers: Fields | undefined, remaining: number): void {
    this.#state = states.head;
    this.#skippedLine = false;
    this.remaining = remaining;
    this.#events.end(trailers);
  }

  // Heads

  #feedHead(chunk: Buffer, at: number): number {
    if (this.#partialLength > 0) return this.#feedPartial(chunk, at);
    if (chunk[at] === 13 && chunk[at + 1] === 10 && !this.#skippedLine && this.#reader.kind === "request") {
      this.#skippedLine = true; // One empty line before a request is an old client's habit (RFC 9112, 2.2).
      return at + 2;
    }
    const kept = this.#keptLength;
    if (kept > 0 && chunk.length - at >= kept && this.#isKept(chunk, at, kept) && this.#reader.repeat()) {
      this.#misses = 0;
      this.#tellHead(chunk.length - at - kept);
      return at + kept;
    }
    const end = chunk.indexOf(headEnd, at);
    if (end < 0 || end + 4 - at > this.#limits.headBytesMax) return this.#feedPartial(chunk, at);
    if (!this.#read(chunk.toString("latin1", at, end + 2))) return end + 4;
    this.#keep(chunk, at, end + 4);
    this.#tellHead(chunk.length - end - 4);
    return end + 4;
  }

  #isKept(chunk: Buffer, at: number, length: number): boolean {
    const kept = this.#kept;
    if (length > loopBytesMax) return chunk.compare(kept, 0, length, at, at + length) === 0;
    for (let i = 0; i < length; i++) if (chunk[at + i] !== kept[i]) return false;
    return true;
  }

  #keep(chunk: Buffer, at: number, end: number): void {
    const length = end - at;
    const misses = this.#misses++;
    if (length > keptBytesMax || (misses > missesMax && misses % keptEach !== 0) || !this.#reader.keep()) return;
    if (this.#kept.length < length) this.#kept = Buffer.allocUnsafeSlow(Math.min(keptBytesMax, length + 64));
    chunk.copy(this.#kept, 0, at, end);
    this.#keptLength = length;
  }

  #read(text: string): boolean {
    this.#keptLength = 0;
    const reader = this.#reader;
    if (reader.read(text)) return true;
    this.#fail(reader.code, reader.because);
    return false;
  }

  #tellHead(remaining: number): void {
    const reader = this.#reader;
    this.remaining = remaining;
    switch (reader.framing) {
      case framings.none:
        this.#skippedLine = false;
        break;
      case framings.fixed:
        this.#state = states.fixed;
        this.#left = reader.head.bodyLength;
        break;
      case framings.chunked:
        this.#state = states.chunkLine;
        this.#line.startMessage();
        break;
      case framings.untilClose:
        this.#state = states.untilClose;
    }
    this.#events.head(reader.head, reader.framing === framings.none);
  }

  /** A head that comes in pieces: gathered in one growing buffer, searched and checked only where it is new. */
  #feedPartial(chunk: Buffer, at: number): number {
    const before = this.#partialLength;
    const taken = this.#gather(chunk, at);
    const partial = this.#partial as Buffer;
    const length = this.#partialLength;
    if (
      !this.#skippedLine &&
      length >= 2 &&
      partial[0] === 13 &&
      partial[1] === 10 &&
      this.#reader.kind === "request"
    ) {
      this.#skippedLine = true;
      this.#partialLength = 0;
      return at + 2 - before;
    }
    const end = partial.subarray(0, length).indexOf(headEnd, Math.max(0, before - 3));
    if (end >= 0) {
      const text = partial.toString("latin1", 0, end + 2);
      this.#dropPartial();
      const next = at + end + 4 - before;
      if (this.#read(text)) this.#tellHead(chunk.length - next);
      return next;
    }
    const wrong = this.#wrongSoFar(partial, before, length);
    if (wrong !== undefined) this.#fail(this.#invalid(), wrong);
    else if (length >= this.#limits.headBytesMax) this.#failLarge("its head");
    return taken;
  }

  #gather(chunk: Buffer, at: number): number {
    const count = Math.min(chunk.length - at, this.#limits.headBytesMax - this.#partialLength);
    const needed = this.#partialLength + count;
    if (this.#partial === undefined || this.#partial.length < needed) {
      const grown = Buffer.allocUnsafe(Math.max(512, needed * 2));
      this.#partial?.copy(grown, 0, 0, this.#partialLength);
      this.#partial = grown;
    }
    chunk.copy(this.#partial, this.#partialLength, at, at + count);
    this.#partialLength = needed;
    return at + count;
  }

  /** Not kept for the next one: a connection may be idle for long, and there may be many. */
  #dropPartial(): void {
    this.#partial = undefined;
    this.#partialLength = 0;
  }

  #invalid(): FailureCode {
    return this.#reader.kind === "request" ? "REQUEST_INVALID" : "UPSTREAM_INVALID";
  }

  #failLarge(what: string): void {
    const code = this.#reader.kind === "request" ? "HEADERS_TOO_LARGE" : "UPSTREAM_INVALID";
    this.#fail(code, `${what} is longer than ${this.#limits.headBytesMax} bytes`);
  }

  /** What can be seen before a head is complete: so nobody waits for a timeout to hear of a bare LF, or of TLS on this port. */
  #wrongSoFar(bytes: Buffer, from: number, to: number): string | undefined {
    if (
      this.#reader.kind === "response" &&
      bytes.compare(responseStart, 0, Math.min(to, 7), 0, Math.min(to, 7)) !== 0
    ) {
      return "its first bytes begin no answer";
    }
    const first = bytes[0] as number;
    const lineFirst = first === 13 && this.#reader.kind === "request" && !this.#skippedLine;
    if (methodBytes[first] !== 1 && !lineFirst) return "its first byte begins no message";
    return wrongLineEnd(bytes, from, to);
  }

  // Bodies

  #feedFixed(chunk: Buffer, at: number): number {
    const available = chunk.length - at;
    const count = this.#left < available ? this.#left : available;
    this.#left -= count;
    this.#events.data(count === chunk.length ? chunk : chunk.subarray(at, at + count));
    if (this.#left === 0 && this.#state === states.fixed) this.#end(undefined, available - count);
    return at + count;
  }

  #feedChunked(chunk: Buffer, at: number): number {
    switch (this.#state) {
      case states.chunkLine:
        return this.#feedChunkLine(chunk, at);
      case states.chunkData: {
        const count = Math.min(this.#left, chunk.length - at);
        this.#left -= count;
        if (this.#left === 0) {
          this.#state = states.chunkEnd;
          this.#sawCr = false;
        }
        this.#tellChunk(chunk, at, at + count);
        return at + count;
      }
      case states.chunkEnd:
        if (chunk[at] !== (this.#sawCr ? 10 : 13)) return this.#failChunk(at);
        if (this.#sawCr) {
          this.#state = states.chunkLine;
          this.#line.startLine();
        }
        this.#sawCr = true;
        return at + 1;
      default:
        return this.#feedTrailerStart(chunk, at);
    }
  }

  #feedChunkLine(chunk: Buffer, at: number): number {
    while (at < chunk.length) {
      const result = this.#line.take(chunk[at] as number);
      if (result === chunkLines.failed) return this.#failChunk(at);
      at++;
      if (result === chunkLines.done) {
        this.#left = this.#line.size;
        this.#state = this.#left === 0 ? states.trailerStart : states.chunkData;
        this.#sawCr = false;
        return at;
      }
    }
    return at;
  }

  #failChunk(at: number): number {
    this.#gatheredFrom = this.#gatheredTo = 0;
    this.#fail(this.#invalid(), "its chunks are malformed");
    return at;
  }

  /** Tells a part of a body, or moves it behind the small ones of this read that are not told yet. */
  #tellChunk(chunk: Buffer, from: number, to: number): void {
    const gathered = this.#gatheredTo - this.#gatheredFrom;
    if (to - from >= smallChunkBytes) {
      if (gathered > 0) this.#tellGathered(chunk);
      this.#events.data(chunk.subarray(from, to));
    } else if (gathered === 0) {
      this.#gatheredFrom = from;
      this.#gatheredTo = to;
    } else {
      chunk.copyWithin(this.#gatheredTo, from, to);
      this.#gatheredTo += to - from;
    }
  }

  #tellGathered(chunk: Buffer): void {
    const from = this.#gatheredFrom;
    const to = this.#gatheredTo;
    this.#gatheredFrom = this.#gatheredTo = 0;
    this.#events.data(chunk.subarray(from, to));
  }

  #feedTrailerStart(chunk: Buffer, at: number): number {
    const byte = chunk[at];
    if (this.#sawCr) {
      if (byte !== 10) return this.#failChunk(at);
      if (this.#gatheredTo > this.#gatheredFrom) this.#tellGathered(chunk);
      this.#end(undefined, chunk.length - at - 1);
      return at + 1;
    }
    if (byte === 13) {
      this.#sawCr = true;
      return at + 1;
    }
    if (tokenBytes[byte as number] !== 1) return this.#failChunk(at);
    this.#state = states.trailers;
    return at;
  }

  #feedTrailers(chunk: Buffer, at: number): number {
    if (this.#gatheredTo > this.#gatheredFrom) this.#tellGathered(chunk);
    const before = this.#partialLength;
    const taken = this.#gather(chunk, at);
    const partial = this.#partial as Buffer;
    const end = partial.subarray(0, this.#partialLength).indexOf(headEnd, Math.max(0, before - 3));
    if (end < 0) {
      const wrong = wrongLineEnd(partial, before, this.#partialLength);
      if (wrong !== undefined) this.#fail(this.#invalid(), wrong);
      else if (this.#partialLength >= this.#limits.headBytesMax) this.#failLarge("its trailer section");
      return taken;
    }
    const trailers = readTrailers(partial.toString("latin1", 0, end + 2), this.#limits.fieldsMax, this.#reader.kind);
    this.#dropPartial();
    const next = at + end + 4 - before;
    if (typeof trailers === "string") {
      this.#fail(this.#invalid(), trailers);
      return next;
    }
    this.#end(trailers.length === 0 ? undefined : trailers, chunk.length - next);
    return next;
  }
}

function wrongLineEnd(bytes: Buffer, from: number, to: number): string | undefined {
  for (let i = Math.max(1, from); i < to; i++) {
    const byte = bytes[i];
    if (byte === 10 ? bytes[i - 1] !== 13 : bytes[i - 1] === 13) return "a line does not end with CR LF";
    if (byte === 0) return "it holds a NUL";
  }
  return undefined;
}
