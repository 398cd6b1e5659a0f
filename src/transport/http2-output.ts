import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import {
  ACK,
  CONTINUATION,
  DATA,
  END_HEADERS,
  END_STREAM,
  FRAME_HEAD_BYTES,
  GOAWAY,
  HEADERS,
  PAYLOAD_MAX,
  PING,
  RST_STREAM,
  WINDOW_UPDATE,
  writeFrameHead,
  writeUint32,
} from "../http/http2/frames.ts";
import { TLSSocket } from "./node-tls.ts";
import { giveBackSegment, lendSegment } from "./segments.ts";

/** Data up to here is copied behind its frame's head; more is written from where it lies: over 64 KiB a sixth cheaper. */
const COPY_MAX = 8_192;

/** Of buffers that are used once. */
const ONCE_BYTES = 16_384;

const NO_STREAM = 0;

/** Whose frames leave here. */
export interface OutputOwner {
  /** The socket took all that it was given. */
  outputWritten(): void;
  /** The socket threw as it was written to. */
  broke(thrown: unknown): void;
}

/** Of lists that are empty; never written to. */
const none: Buffer[] = [];

/**
 * What a connection has to say: frames are appended to one buffer, and all that became ready in one turn of the event
 * loop leaves in one write. While a write is under way nothing is written, so the next one carries all that came meanwhile.
 */
export class Http2Output {
  /** Appended, and not yet given to the socket. */
  pending = 0;
  /** Frames that answer or guard, appended since the socket last took everything. */
  controls = 0;
  /** The highest stream whose HEADERS were appended, and the highest whose were given to the socket. */
  openedId = 0;
  flushedId = 0;
  readonly #socket: Duplex;
  readonly #owner: OutputOwner;
  /** Whether a buffer is free again once it was written: a real socket has sent it then, another stream may pass it on. */
  #reuses: boolean;
  /**
   * TLS joins many buffers into a new one before it encrypts them: it gets one after the other, and what is copied into a
   * segment of ours is the cheaper for it.
   */
  readonly #joins: boolean;
  readonly #copyMax: number;
  #scheduled = false;
  #writing = false;
  #segment: Buffer | undefined = undefined;
  #at = 0;
  /** Where in the segment the part begins that is in no list yet. */
  #from = 0;
  #parts: Buffer[] = none;
  #filled: Buffer[] = none;
  #lent: Buffer[] = none;
  /** What follows the write that is under way. */
  #next: Buffer[] = none;

  // The last frame, if END_STREAM can still be set on it.
  #tailStream = NO_STREAM;
  #tail: Buffer | undefined = undefined;
  #tailAt = 0;

  constructor(socket: Duplex, owner: OutputOwner) {
    this.#socket = socket;
    this.#owner = owner;
    this.#reuses = socket instanceof Socket;
    this.#joins = socket instanceof TLSSocket;
    this.#copyMax = this.#joins ? PAYLOAD_MAX : COPY_MAX;
  }

  /** Room for `bytes` in one piece; write there from `at` on, then say `appended`. */
  room(bytes: number): Buffer {
    const segment = this.#segment;
    if (segment !== undefined && segment.length - this.#at >= bytes) return segment;
    return this.#nextSegment(bytes);
  }

  get at(): number {
    return this.#at;
  }

  frame(bytes: Buffer): void {
    const out = this.room(bytes.length);
    bytes.copy(out, this.#at);
    this.controls++;
    this.#appended(bytes.length);
  }

  windowUpdate(streamId: number, increment: number): void {
    const out = this.room(13);
    writeFrameHead(out, this.#at, 4, WINDOW_UPDATE << 8, streamId);
    writeUint32(out, this.#at + FRAME_HEAD_BYTES, increment);
    this.controls++;
    this.#appended(13);
  }

  reset(streamId: number, code: number): void {
    const out = this.room(13);
    writeFrameHead(out, this.#at, 4, RST_STREAM << 8, streamId);
    writeUint32(out, this.#at + FRAME_HEAD_BYTES, code);
    this.controls++;
    this.#appended(13);
  }

  ping(acknowledges: boolean, bytes: Buffer, at: number): void {
    const out = this.room(17);
    writeFrameHead(out, this.#at, 8, (PING << 8) | (acknowledges ? ACK : 0), 0);
    bytes.copy(out, this.#at + FRAME_HEAD_BYTES, at, at + 8);
    this.controls++;
    this.#appended(17);
  }

  goaway(lastStreamId: number, code: number, because: string): void {
    const out = this.room(17 + because.length);
    writeFrameHead(out, this.#at, 8 + because.length, GOAWAY << 8, 0);
    writeUint32(out, this.#at + FRAME_HEAD_BYTES, lastStreamId);
    writeUint32(out, this.#at + FRAME_HEAD_BYTES + 4, code);
    out.write(because, this.#at + FRAME_HEAD_BYTES + 8, because.length, "latin1");
    this.controls++;
    this.#appended(17 + because.length);
  }

  /** A header block of `block` bytes has been written behind room for its frame's head. */
  headers(streamId: number, block: number, endStream: boolean): void {
    const out = this.#segment as Buffer;
    const at = this.#at;
    if (block > PAYLOAD_MAX) {
      this.#splitHeaders(streamId, out.subarray(at + FRAME_HEAD_BYTES, at + FRAME_HEAD_BYTES + block), endStream);
      return;
    }
    writeFrameHead(out, at, block, (HEADERS << 8) | END_HEADERS | (endStream ? END_STREAM : 0), streamId);
    this.#appended(FRAME_HEAD_BYTES + block);
    this.#rememberTail(streamId, out, at + 4);
  }

  #splitHeaders(streamId: number, lentBlock: Buffer, endStream: boolean): void {
    const block = Buffer.from(lentBlock);
    for (let start = 0; start < block.length; start += PAYLOAD_MAX) {
      const end = Math.min(block.length, start + PAYLOAD_MAX);
      const type = start === 0 ? (HEADERS << 8) | (endStream ? END_STREAM : 0) : CONTINUATION << 8;
      const out = this.room(FRAME_HEAD_BYTES + end - start);
      writeFrameHead(out, this.#at, end - start, type | (end === block.length ? END_HEADERS : 0), streamId);
      block.copy(out, this.#at + FRAME_HEAD_BYTES, start, end);
      this.#appended(FRAME_HEAD_BYTES + end - start);
    }
  }

  /** `lent`: the chunk is good only until this returns. */
  data(streamId: number, chunk: Buffer, start: number, end: number, lent = false): void {
    const length = end - start;
    if (length <= this.#copyMax || lent) {
      const out = this.room(FRAME_HEAD_BYTES + length);
      const at = this.#at;
      writeFrameHead(out, at, length, DATA << 8, streamId);
      if (length > 0) chunk.copy(out, at + FRAME_HEAD_BYTES, start, end);
      this.#appended(FRAME_HEAD_BYTES + length);
      this.#rememberTail(streamId, out, at + 4);
      return;
    }
    const out = this.room(FRAME_HEAD_BYTES);
    const at = this.#at;
    writeFrameHead(out, at, length, DATA << 8, streamId);
    this.#appended(FRAME_HEAD_BYTES + length);
    this.#at -= length;
    this.#seal();
    this.#parts = appended(this.#parts, start === 0 && end === chunk.length ? chunk : chunk.subarray(start, end));
    this.#rememberTail(streamId, out, at + 4);
  }

  /** Ends the stream on its last frame if that has not left yet, else by an empty DATA frame. */
  endStream(streamId: number): void {
    if (this.#tailStream !== streamId) this.data(streamId, empty, 0, 0);
    const tail = this.#tail as Buffer;
    tail[this.#tailAt] = (tail[this.#tailAt] as number) | END_STREAM;
    this.#tailStream = NO_STREAM;
  }

  /** Writes all that is pending, now; `anyway` also behind a write that is under way. */
  flush(anyway = false): void {
    this.#scheduled = false;
    if (this.pending === 0 || (this.#writing && !anyway)) return;
    this.#seal();
    const parts = this.#parts;
    const socket = this.#socket;
    // Two writes are under way then, and what the first one is through with is not told from what the second still reads.
    if (this.#writing) this.#reuses = false;
    if (this.#segment !== undefined) this.#filled = appended(this.#filled, this.#segment);
    this.#lent = this.#lent.length === 0 ? this.#filled : [...this.#lent, ...this.#filled];
    this.#filled = none;
    this.#parts = none;
    this.#segment = undefined;
    this.#tailStream = NO_STREAM;
    this.#tail = undefined;
    this.pending = 0;
    this.flushedId = this.openedId;
    this.#writing = true;
    if (socket.destroyed || socket.writableEnded) return;
    if (this.#joins && !anyway) {
      this.#next = parts;
      this.#writeNext();
      return;
    }
    // The socket may be ended right after this: what was to follow goes to it as well.
    if (this.#next.length > 0) parts.unshift(...this.#next.splice(0));
    this.#next = none;
    const last = parts.length - 1;
    if (last === 0) {
      socket.write(parts[0], this.#written);
      return;
    }
    socket.cork();
    for (let i = 0; i < last; i++) socket.write(parts[i]);
    socket.write(parts[last], this.#written);
    socket.uncork();
  }

  #writeNext(): void {
    try {
      this.#socket.write(this.#next.shift(), this.#written);
    } catch (thrown) {
      this.#owner.broke(thrown);
    }
  }

  readonly #written = (error?: Error | null): void => {
    // After an error the system may still read from the segments: they are left to the collector.
    if (error !== undefined && error !== null) return;
    if (this.#next.length > 0) return this.#writeNext();
    this.#next = none;
    this.#writing = false;
    this.controls = 0;
    if (this.#reuses) for (const segment of this.#lent) giveBackSegment(segment);
    this.#lent = none;
    this.#owner.outputWritten();
    if (this.pending > 0) this.flushSafely();
  };

  /** From where nobody would catch it. */
  flushSafely(): void {
    try {
      this.flush();
    } catch (thrown) {
      this.#owner.broke(thrown);
    }
  }

  #schedule(): void {
    this.#scheduled = true;
    setImmediate(flushNow, this);
  }

  #appended(bytes: number): void {
    this.#tailStream = NO_STREAM;
    this.#at += bytes;
    this.pending += bytes;
    if (!this.#scheduled && !this.#writing) this.#schedule();
  }

  #rememberTail(streamId: number, tail: Buffer, at: number): void {
    this.#tailStream = streamId;
    this.#tail = tail;
    this.#tailAt = at;
  }

  #seal(): void {
    if (this.#segment === undefined || this.#at === this.#from) return;
    this.#parts = appended(this.#parts, this.#segment.subarray(this.#from, this.#at));
    this.#from = this.#at;
  }

  #nextSegment(bytes: number): Buffer {
    this.#seal();
    if (this.#segment !== undefined) this.#filled = appended(this.#filled, this.#segment);
    this.#segment = this.#reuses ? lendSegment(bytes) : Buffer.allocUnsafeSlow(Math.max(bytes, ONCE_BYTES));
    this.#at = 0;
    this.#from = 0;
    return this.#segment;
  }
}

const empty = Buffer.alloc(0);

/** A list of one has room for one: pushed to an empty one, it would have room for seventeen. */
function appended(list: Buffer[], buffer: Buffer): Buffer[] {
  if (list === none) return [buffer];
  list.push(buffer);
  return list;
}

function flushNow(output: Http2Output): void {
  output.flushSafely();
}
