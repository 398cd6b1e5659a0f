import {
  ACK,
  CONTINUATION,
  DATA,
  END_HEADERS,
  END_STREAM,
  ENHANCE_YOUR_CALM,
  FRAME_HEAD_BYTES,
  FRAME_SIZE_ERROR,
  GOAWAY,
  HEADERS,
  PADDED,
  PAYLOAD_MAX,
  PING,
  PRIORITY,
  PROOF,
  PROTOCOL_ERROR,
  PUSH_PROMISE,
  RST_STREAM,
  SETTINGS,
  WINDOW_UPDATE,
  WITH_PRIORITY,
  readUint32,
} from "./frames.ts";

/** Who hears what a frame reader reads. Every call is made while `read` runs; a listener may stop the reader in any. */
export interface FrameListener {
  /** A DATA frame begins; all of `payload`, padding included, is flow controlled. */
  dataBegins(streamId: number, payload: number, endStream: boolean): void;
  /** Some of its data: belongs to the listener. */
  dataPiece(piece: Buffer): void;
  /** The frame is over; `padding` bytes of it were no data. */
  dataEnds(padding: number): void;
  /** A whole header block, CONTINUATION included; `dependsOn` is -1 without priority. The bytes are lent. */
  headers(streamId: number, endStream: boolean, dependsOn: number, bytes: Buffer, start: number, end: number): void;
  /** A header block has begun that is not whole yet. */
  headersPending(): void;
  priority(streamId: number, dependsOn: number): void;
  streamReset(streamId: number, code: number): void;
  /** Its settings, six bytes each, lie between `start` and `end`. */
  settings(bytes: Buffer, start: number, end: number): void;
  settingsAcknowledged(): void;
  /** Eight bytes at `at`, lent. */
  ping(acknowledges: boolean, bytes: Buffer, at: number): void;
  goaway(lastStreamId: number, code: number): void;
  windowUpdate(streamId: number, increment: number): void;
  /** PROOF, of whatever stream and size: who has not agreed on it takes it for unknown. The payload is lent. */
  proof(acknowledges: boolean, streamId: number, bytes: Buffer, start: number, end: number): void;
  /** A frame of a type that nobody knows: to be ignored (RFC 9113, 5.5). */
  unknown(): void;
  /** The frame breaks its own rules and ends only its stream. */
  streamBroken(streamId: number, code: number, because: string): void;
  /** The connection is over; the reader has stopped. */
  broken(code: number, because: string): void;
}

export interface FrameReaderLimits {
  /** A header block as sent, compressed, in all of its frames. */
  readonly blockBytesMax: number;
  readonly continuationsMax: number;
}

/** Reads frames out of bytes that arrive in any cut (RFC 9113, section 4); what is whole in one chunk is not copied. */
export class FrameReader {
  /** Set by `stop`: whatever comes is ignored. */
  stopped = false;
  readonly #listener: FrameListener;
  readonly #limits: FrameReaderLimits;
  #first = true;

  /** The beginning of a frame that is not whole yet; never DATA. */
  #held: Buffer | undefined = undefined;
  #heldBytes = 0;

  // A DATA frame under way.
  #inData = false;
  #padLengthDue = false;
  #dataLeft = 0;
  #padLeft = 0;
  #padding = 0;

  // A header block under way; 0 for none.
  #blockStream = 0;
  #blockEndsStream = false;
  #blockDependsOn = -1;
  #block: Buffer[] = [];
  #blockBytes = 0;
  #continuations = 0;

  constructor(listener: FrameListener, limits: FrameReaderLimits) {
    this.#listener = listener;
    this.#limits = limits;
  }

  stop(): void {
    this.stopped = true;
    this.#held = undefined;
    this.#block = [];
  }

  read(chunk: Buffer): void {
    const length = chunk.length;
    let at = 0;
    while (at < length && !this.stopped) {
      if (this.#inData) {
        at = this.#moreData(chunk, at);
      } else if (this.#heldBytes > 0) {
        at = this.#moreHeld(chunk, at);
      } else if (length - at < FRAME_HEAD_BYTES) {
        this.#hold(chunk, at, FRAME_HEAD_BYTES);
        return;
      } else {
        const payload = ((chunk[at] as number) << 16) | ((chunk[at + 1] as number) << 8) | (chunk[at + 2] as number);
        if (!this.#headIsFine(payload, chunk[at + 3] as number)) return;
        if (chunk[at + 3] === DATA) {
          this.#beginData(payload, chunk[at + 4] as number, readUint32(chunk, at + 5) & 0x7fff_ffff);
          at += FRAME_HEAD_BYTES;
        } else if (length - at < FRAME_HEAD_BYTES + payload) {
          this.#hold(chunk, at, FRAME_HEAD_BYTES + payload);
          return;
        } else {
          this.#frame(chunk, at, payload);
          at += FRAME_HEAD_BYTES + payload;
        }
      }
    }
  }

  #break(code: number, because: string): void {
    this.stop();
    this.#listener.broken(code, because);
  }

  /** What can be said before the payload is there. */
  #headIsFine(payload: number, type: number): boolean {
    if (this.#first) {
      if (type !== SETTINGS) {
        this.#break(PROTOCOL_ERROR, "the first frame is not SETTINGS");
        return false;
      }
      this.#first = false;
    }
    if (payload > PAYLOAD_MAX) {
      this.#break(FRAME_SIZE_ERROR, `a frame of ${payload} bytes`);
      return false;
    }
    if (this.#blockStream !== 0 && type !== CONTINUATION) {
      this.#break(PROTOCOL_ERROR, "another frame inside a header block");
      return false;
    }
    return true;
  }

  #hold(chunk: Buffer, at: number, need: number): void {
    const held = Buffer.allocUnsafe(need);
    this.#heldBytes = chunk.copy(held, 0, at, chunk.length);
    this.#held = held;
  }

  /** Completes a held frame, first its head, then the rest; gives the new place in the chunk. */
  #moreHeld(chunk: Buffer, at: number): number {
    const held = this.#held as Buffer;
    const copied = chunk.copy(held, this.#heldBytes, at, Math.min(chunk.length, at + held.length - this.#heldBytes));
    this.#heldBytes += copied;
    if (this.#heldBytes < held.length) return at + copied;
    const payload = ((held[0] as number) << 16) | ((held[1] as number) << 8) | (held[2] as number);
    if (held.length === FRAME_HEAD_BYTES) {
      if (!this.#headIsFine(payload, held[3] as number)) return chunk.length;
      if (held[3] === DATA) {
        this.#heldBytes = 0;
        this.#held = undefined;
        this.#beginData(payload, held[4] as number, readUint32(held, 5) & 0x7fff_ffff);
        return at + copied;
      }
      if (payload > 0) {
        this.#held = Buffer.allocUnsafe(FRAME_HEAD_BYTES + payload);
        held.copy(this.#held);
        return at + copied;
      }
    }
    this.#heldBytes = 0;
    this.#held = undefined;
    this.#frame(held, 0, payload);
    return at + copied;
  }

  #beginData(payload: number, flags: number, streamId: number): void {
    if (streamId === 0) {
      this.#break(PROTOCOL_ERROR, "DATA on stream 0");
      return;
    }
    const padded = (flags & PADDED) !== 0;
    if (padded && payload === 0) {
      this.#break(FRAME_SIZE_ERROR, "padded DATA without its length of padding");
      return;
    }
    this.#padLengthDue = padded;
    this.#dataLeft = padded ? payload - 1 : payload;
    this.#padLeft = 0;
    this.#padding = 0;
    this.#inData = true;
    this.#listener.dataBegins(streamId, payload, (flags & END_STREAM) !== 0);
    if (payload === 0) this.#endData();
  }

  #moreData(chunk: Buffer, start: number): number {
    let at = start;
    if (this.#padLengthDue) {
      const pad = chunk[at++] as number;
      if (pad > this.#dataLeft) {
        this.#break(PROTOCOL_ERROR, "DATA with more padding than payload");
        return chunk.length;
      }
      this.#padLengthDue = false;
      this.#dataLeft -= pad;
      this.#padLeft = pad;
      this.#padding = pad + 1;
    }
    if (this.#dataLeft > 0 && at < chunk.length) {
      const end = Math.min(chunk.length, at + this.#dataLeft);
      this.#dataLeft -= end - at;
      this.#listener.dataPiece(at === 0 && end === chunk.length ? chunk : chunk.subarray(at, end));
      at = end;
    }
    if (this.#dataLeft > 0) return at;
    const padded = Math.min(chunk.length - at, this.#padLeft);
    this.#padLeft -= padded;
    if (this.#padLeft === 0) this.#endData();
    return at + padded;
  }

  #endData(): void {
    this.#inData = false;
    // The listener may have stopped us in an earlier call about this frame.
    if (!this.stopped) this.#listener.dataEnds(this.#padding);
  }

  #frame(bytes: Buffer, at: number, payload: number): void {
    const type = bytes[at + 3] as number;
    const flags = bytes[at + 4] as number;
    const streamId = readUint32(bytes, at + 5) & 0x7fff_ffff;
    const start = at + FRAME_HEAD_BYTES;
    const end = start + payload;
    switch (type) {
      case HEADERS:
        this.#headers(flags, streamId, bytes, start, end);
        return;
      case CONTINUATION:
        this.#continuation(flags, streamId, bytes, start, end);
        return;
      case PRIORITY:
        if (streamId === 0) this.#break(PROTOCOL_ERROR, "PRIORITY on stream 0");
        else if (payload !== 5) this.#listener.streamBroken(streamId, FRAME_SIZE_ERROR, "PRIORITY of a wrong size");
        else this.#listener.priority(streamId, readUint32(bytes, start) & 0x7fff_ffff);
        return;
      case RST_STREAM:
        if (payload !== 4) this.#break(FRAME_SIZE_ERROR, "RST_STREAM of a wrong size");
        else if (streamId === 0) this.#break(PROTOCOL_ERROR, "RST_STREAM on stream 0");
        else this.#listener.streamReset(streamId, readUint32(bytes, start));
        return;
      case WINDOW_UPDATE:
        this.#windowUpdate(streamId, bytes, start, payload);
        return;
      case PUSH_PROMISE:
        this.#break(PROTOCOL_ERROR, "PUSH_PROMISE, which is disabled");
        return;
      case SETTINGS:
      case PING:
      case GOAWAY:
        this.#connectionFrame(type, flags, streamId, bytes, start, payload);
        return;
      case PROOF:
        this.#listener.proof((flags & ACK) !== 0, streamId, bytes, start, end);
        return;
      default:
        this.#listener.unknown();
    }
  }

  #connectionFrame(type: number, flags: number, streamId: number, bytes: Buffer, start: number, payload: number): void {
    if (streamId !== 0) {
      this.#break(PROTOCOL_ERROR, "a connection's frame on a stream");
      return;
    }
    const acknowledges = (flags & ACK) !== 0;
    if (type === SETTINGS) {
      if (payload % 6 !== 0 || (acknowledges && payload !== 0))
        this.#break(FRAME_SIZE_ERROR, "SETTINGS of a wrong size");
      else if (acknowledges) this.#listener.settingsAcknowledged();
      else this.#listener.settings(bytes, start, start + payload);
    } else if (type === PING) {
      if (payload !== 8) this.#break(FRAME_SIZE_ERROR, "PING of a wrong size");
      else this.#listener.ping(acknowledges, bytes, start);
    } else if (payload < 8) {
      this.#break(FRAME_SIZE_ERROR, "GOAWAY of a wrong size");
    } else {
      this.#listener.goaway(readUint32(bytes, start) & 0x7fff_ffff, readUint32(bytes, start + 4));
    }
  }

  #windowUpdate(streamId: number, bytes: Buffer, start: number, payload: number): void {
    if (payload !== 4) {
      this.#break(FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size");
      return;
    }
    const increment = readUint32(bytes, start) & 0x7fff_ffff;
    if (increment > 0) this.#listener.windowUpdate(streamId, increment);
    else if (streamId === 0) this.#break(PROTOCOL_ERROR, "a window update by 0");
    else this.#listener.streamBroken(streamId, PROTOCOL_ERROR, "a window update by 0");
  }

  #headers(flags: number, streamId: number, bytes: Buffer, from: number, to: number): void {
    if (streamId === 0) {
      this.#break(PROTOCOL_ERROR, "HEADERS on stream 0");
      return;
    }
    let start = from;
    let end = to;
    let dependsOn = -1;
    if ((flags & (PADDED | WITH_PRIORITY)) !== 0) {
      let pad = 0;
      const fixed = ((flags & PADDED) === 0 ? 0 : 1) + ((flags & WITH_PRIORITY) === 0 ? 0 : 5);
      if (end - start < fixed) {
        this.#break(FRAME_SIZE_ERROR, "HEADERS of a wrong size");
        return;
      }
      if ((flags & PADDED) !== 0) pad = bytes[start++] as number;
      if ((flags & WITH_PRIORITY) !== 0) {
        dependsOn = readUint32(bytes, start) & 0x7fff_ffff;
        start += 5;
      }
      if (pad > end - start) {
        this.#break(PROTOCOL_ERROR, "HEADERS with more padding than payload");
        return;
      }
      end -= pad;
    }
    const endStream = (flags & END_STREAM) !== 0;
    if ((flags & END_HEADERS) !== 0) {
      this.#listener.headers(streamId, endStream, dependsOn, bytes, start, end);
      return;
    }
    this.#blockStream = streamId;
    this.#blockEndsStream = endStream;
    this.#blockDependsOn = dependsOn;
    this.#blockBytes = 0;
    this.#continuations = 0;
    if (this.#fragment(bytes, start, end)) this.#listener.headersPending();
  }

  #continuation(flags: number, streamId: number, bytes: Buffer, start: number, end: number): void {
    if (streamId !== this.#blockStream || streamId === 0) {
      this.#break(PROTOCOL_ERROR, "CONTINUATION without its HEADERS");
      return;
    }
    if (++this.#continuations > this.#limits.continuationsMax) {
      this.#break(
        ENHANCE_YOUR_CALM,
        `a header block in more than ${this.#limits.continuationsMax} CONTINUATION frames`,
      );
      return;
    }
    if (!this.#fragment(bytes, start, end) || (flags & END_HEADERS) === 0) return;
    const block = Buffer.concat(this.#block, this.#blockBytes);
    this.#block = [];
    this.#blockStream = 0;
    this.#listener.headers(streamId, this.#blockEndsStream, this.#blockDependsOn, block, 0, block.length);
  }

  #fragment(bytes: Buffer, start: number, end: number): boolean {
    this.#blockBytes += end - start;
    if (this.#blockBytes > this.#limits.blockBytesMax) {
      this.#break(ENHANCE_YOUR_CALM, `a header block of more than ${this.#limits.blockBytesMax} bytes`);
      return false;
    }
    // Copied: the chunk, or the held frame, would otherwise be kept whole for a few bytes.
    this.#block.push(Buffer.from(bytes.subarray(start, end)));
    return true;
  }
}
