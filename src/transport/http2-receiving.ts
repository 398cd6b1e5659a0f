import * as frames from "../http/http2/frames.ts";
import { BodyRoom, type RoomShare, type Roomer } from "./body-room.ts";
import { FORGOTTEN, RESET_BY_US } from "./http2-closed-streams.ts";
import type { Http2Core, Http2Stream } from "./http2-stream.ts";
import { tellLent } from "./lent-reads.ts";

/** Whoever takes half of its window in less than this is held up by it: the window is doubled. */
const SOON_MS = 10;
/** Whoever takes longer than this has no use for so much. */
const LATE_MS = 1_000;

/**
 * Bodies that arrive on a connection: their windows, their lengths, and who gets them (RFC 9113, 6.1 and 6.9).
 *
 * The connection's window is the protocol's own 65,535 bytes in any case. As far as the process has room (body-room.ts), what
 * lies unconsumed does not count against it, so that bodies that nobody reads do not stop the others; and a peer that uses its
 * window up in a few milliseconds gets one of up to `connectionWindowBytes`, until it needs seconds for it. One that was never so fast is promised nothing more.
 */
export class Http2Receiving implements Roomer {
  readonly #h2: Http2Core;
  readonly #room: RoomShare;
  /** What the peer may still send, and what was consumed and not yet given back to it. */
  #window = frames.WINDOW_DEFAULT;
  #credit = 0;
  /** What is promised or held beyond the window of the protocol: taken from the room. */
  #extra = 0;
  /** How much the peer may have open where there is room, and the window below which that is looked after. */
  #ahead = frames.WINDOW_DEFAULT;
  #low = frames.WINDOW_DEFAULT >>> 1;
  #openedMs = Number.NEGATIVE_INFINITY;
  /** The stream of the DATA frame that is being read, and whether it ends with it; undefined when it is dropped. */
  #stream: Http2Stream | undefined = undefined;
  #endsStream = false;
  #seen = false;

  constructor(h2: Http2Core) {
    const { room, options } = h2.context;
    this.#h2 = h2;
    this.#room = room ?? new BodyRoom(options.heldBytesMax).share(1);
  }

  begins(streamId: number, payload: number, endStream: boolean): void {
    this.#stream = undefined;
    this.#seen = false;
    if (payload > this.#window) {
      this.#h2.fail(frames.FLOW_CONTROL_ERROR, "more data than the connection's window");
      return;
    }
    this.#window -= payload;
    this.creditConnection(0);
    const stream = this.#h2.streams.get(streamId);
    if (stream === undefined) {
      this.#lateData(streamId, payload);
      return;
    }
    if (stream.remoteEnded) {
      this.creditConnection(payload);
      this.#h2.breakStream(stream, frames.STREAM_CLOSED, "DATA after the end of its stream");
    } else if (!this.#h2.mayHaveBody(stream)) {
      this.creditConnection(payload);
      this.#h2.breakStream(stream, frames.PROTOCOL_ERROR, "DATA before its head");
    } else if (payload > stream.receiveWindow) {
      this.creditConnection(payload);
      this.#h2.breakStream(stream, frames.FLOW_CONTROL_ERROR, "more data than the stream's window");
    } else {
      stream.receiveWindow -= payload;
      if (!endStream) this.#creditStream(stream, 0);
      this.#stream = stream;
      this.#endsStream = endStream;
    }
  }

  #lateData(streamId: number, payload: number): void {
    if (this.#h2.isIdle(streamId)) {
      this.#h2.fail(frames.PROTOCOL_ERROR, "DATA on an idle stream");
      return;
    }
    switch (this.#h2.closedStreams.find(streamId)) {
      case RESET_BY_US:
        this.creditConnection(payload);
        if (payload === 0) this.#h2.bill(1, "DATA on a closed stream");
        return;
      case FORGOTTEN:
        this.creditConnection(payload);
        this.#h2.refuseStream(streamId, frames.STREAM_CLOSED);
        return;
      default:
        this.#h2.fail(frames.STREAM_CLOSED, "DATA on a closed stream");
    }
  }

  /** `lent`: good only until this returns. */
  piece(piece: Buffer, lent: boolean): void {
    const stream = this.#stream;
    // A frame that is dropped was credited when it began; one whose stream ended meanwhile was not.
    if (stream === undefined) return;
    const length = piece.length;
    this.#seen = true;
    if (stream.closed) {
      this.creditConnection(length);
      return;
    }
    if (stream.expected >= 0) {
      stream.expected -= length;
      if (stream.expected < 0) {
        this.creditConnection(length);
        this.#h2.breakStream(stream, frames.PROTOCOL_ERROR, "more data than the content length");
        return;
      }
    }
    stream.arrived += length;
    stream.unconsumed += length;
    if (lent) tellLent(stream.events, piece);
    else stream.events.data(piece);
  }

  ends(padding: number): void {
    const stream = this.#stream;
    if (stream === undefined) return;
    this.#stream = undefined;
    if (padding > 0) {
      this.creditConnection(padding);
      if (!stream.closed && !this.#endsStream) this.#creditStream(stream, padding);
    }
    if (!this.#seen && !this.#endsStream) this.#h2.bill(1, "empty DATA");
    if (stream.closed || !this.#endsStream || this.#h2.over) return;
    if (stream.expected > 0) {
      this.#h2.breakStream(stream, frames.PROTOCOL_ERROR, "less data than the content length");
      return;
    }
    this.#h2.remoteEnd(stream, undefined);
  }

  consumed(stream: Http2Stream, bytes: number): void {
    const real = bytes < stream.unconsumed ? bytes : stream.unconsumed;
    stream.unconsumed -= real;
    this.creditConnection(real);
    if (!stream.remoteEnded) this.#creditStream(stream, real);
  }

  /**
   * A window is given back when what was consumed of it is as much as what is left of it: by halves where the receiver
   * keeps up, because a WINDOW_UPDATE for every frame would cost more than the data, and in time where much is held.
   */
  #creditStream(stream: Http2Stream, bytes: number): void {
    stream.credit += bytes;
    if (stream.credit < stream.receiveWindow || stream.credit === 0) return;
    this.#h2.output.windowUpdate(stream.id, stream.credit);
    stream.receiveWindow += stream.credit;
    stream.credit = 0;
  }

  /** Bytes that nobody will consume, or that somebody has. */
  creditConnection(bytes: number): void {
    this.#credit += bytes;
    if (this.#credit >= this.#window || this.#window < this.#low) this.reopen();
  }

  broke(thrown: unknown): void {
    this.#h2.broke(thrown);
  }

  /** Gives back what was consumed, more where there is room for it, and less where there is none. */
  reopen(): void {
    if (this.#h2.over) return;
    if (this.#credit > 0 && this.#credit >= this.#window) this.#measure();
    const open = this.#window + this.#credit;
    const held = frames.WINDOW_DEFAULT + this.#extra - open;
    const ahead = this.#room.isPressed ? frames.WINDOW_DEFAULT : this.#ahead;
    const more = held + ahead - frames.WINDOW_DEFAULT - this.#extra;
    if (more > 0) {
      const got = this.#room.take(more, this);
      this.#extra += got;
      this.#credit += got;
    } else {
      this.#giveRoom(Math.min(-more, this.#credit));
    }
    if (this.#credit === 0 || this.#credit < this.#window) return;
    this.#h2.output.windowUpdate(0, this.#credit);
    this.#window += this.#credit;
    this.#credit = 0;
  }

  #giveRoom(bytes: number): void {
    this.#extra -= bytes;
    this.#credit -= bytes;
    this.#room.give(bytes);
  }

  /** How fast the peer uses up what it may send. */
  #measure(): void {
    const { clock, options } = this.#h2.context;
    const nowMs = clock.monotonicMs();
    const tookMs = nowMs - this.#openedMs;
    this.#openedMs = nowMs;
    if (tookMs < SOON_MS) this.#ahead = Math.min(this.#ahead * 2, options.connectionWindowBytes);
    else if (tookMs > LATE_MS) this.#ahead = Math.max(this.#ahead >>> 1, frames.WINDOW_DEFAULT);
    this.#low = this.#ahead >>> 1;
  }

  /** The connection is over: its room is free. */
  end(): void {
    this.#room.leaves(this);
    this.#room.give(this.#extra);
    this.#extra = 0;
  }
}
