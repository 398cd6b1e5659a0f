import * as frames from "../http/http2/frames.ts";
import type { Fields } from "../http/message.ts";
import { HeldBytes } from "./held-bytes.ts";
import { nothingHeld } from "./http2-stream.ts";
import { copyLent, dropCopy, isCopy } from "./segments.ts";
import type { Http2Core, Http2Stream } from "./http2-stream.ts";

/** Sent data lets a peer send so many cheap frames more: it answers data with window updates and PINGs. */
const EARNED_BY_DATA = 4;

/** Before anything had to wait on a connection; never written to. */
const nobodyReady = new Set<Http2Stream>();
const nobodyWaiting: Http2Stream[] = [];

/** Bodies that leave on a connection: they wait for two windows and the socket, and take turns (RFC 9113, 6.9). */
export class Http2Sending {
  readonly #h2: Http2Core;
  #window = frames.WINDOW_DEFAULT;
  /** Streams with something queued and a window of their own. */
  #ready: Set<Http2Stream> = nobodyReady;
  /** Streams that were told to wait for the socket alone. */
  #waiting: Http2Stream[] = nobodyWaiting;

  constructor(h2: Http2Core) {
    this.#h2 = h2;
  }

  /** Sends a chunk, or what of it cannot be sent now is queued; false asks its sender to wait. `lent`: good only until this returns. */
  send(stream: Http2Stream, chunk: Buffer, lent = false): boolean {
    const length = chunk.length;
    const outputBytes = this.#h2.context.options.outputBytes;
    let sent = 0;
    if (stream.queued === 0 && this.#ready.size === 0 && this.#h2.output.pending < outputBytes) {
      sent = this.#frameData(stream, chunk, length, lent);
      if (sent === length) {
        if (this.#h2.output.pending < outputBytes) return true;
        if (!stream.wantsDrain) this.#wait(stream);
        stream.wantsDrain = true;
        return false;
      }
    }
    if (length === 0) return !stream.wantsDrain;
    if (stream.queue === nothingHeld) stream.queue = new HeldBytes(copyLent);
    stream.queue.add(sent === 0 ? chunk : chunk.subarray(sent), lent);
    stream.wantsDrain = true;
    if (stream.sendWindow > 0) this.#isReady(stream);
    return false;
  }

  #isReady(stream: Http2Stream): void {
    if (this.#ready === nobodyReady) this.#ready = new Set();
    this.#ready.add(stream);
  }

  #wait(stream: Http2Stream): void {
    if (this.#waiting === nobodyWaiting) this.#waiting = [stream];
    else this.#waiting.push(stream);
  }

  /** Frames as much of a chunk as both windows take; gives how much. */
  #frameData(stream: Http2Stream, chunk: Buffer, lengthMax: number, lent = false): number {
    const length = Math.min(lengthMax, this.#window, stream.sendWindow);
    let sent = 0;
    while (sent < length) {
      const end = Math.min(length, sent + frames.PAYLOAD_MAX);
      this.#h2.output.data(stream.id, chunk, sent, end, lent);
      sent = end;
      this.#h2.noise.earn(EARNED_BY_DATA);
    }
    if (sent > 0) {
      this.#window -= sent;
      stream.sendWindow -= sent;
    }
    return sent;
  }

  /** Ends our side behind what is still queued. */
  finish(stream: Http2Stream, trailers: Fields | undefined): void {
    if (stream.queued === 0) {
      this.#h2.endLocal(stream, trailers);
      return;
    }
    stream.ending = true;
    stream.trailers = trailers;
  }

  /** Sends what waits, one frame of each stream in turn, as long as windows and socket take it. */
  #pump(): void {
    const outputBytes = this.#h2.context.options.outputBytes;
    for (const stream of this.#ready) {
      if (this.#window <= 0 || this.#h2.output.pending >= outputBytes || this.#h2.over) return;
      // Deleted and added again it comes last: the iteration goes round until nothing moves.
      this.#ready.delete(stream);
      const chunk = stream.queue.first as Buffer;
      // A copy of ours is copied on, and free: it is used again before this frame has left.
      const ours = isCopy(chunk);
      const sent = this.#frameData(stream, chunk, Math.min(chunk.length, frames.PAYLOAD_MAX), ours);
      stream.queue.drop(sent);
      if (ours && sent === chunk.length) dropCopy(chunk);
      if (stream.queued > 0) {
        if (stream.sendWindow > 0) this.#isReady(stream);
      } else if (stream.ending) {
        this.finish(stream, stream.trailers);
      } else {
        this.#drained(stream);
      }
    }
  }

  #drained(stream: Http2Stream): void {
    if (!stream.wantsDrain || stream.closed) return;
    stream.wantsDrain = false;
    stream.events.drained();
  }

  /** The socket took all that it was given: what waited for it alone may go on. */
  goOn(): void {
    if (this.#ready.size > 0) this.#pump();
    if (this.#waiting.length === 0) return;
    const waiting = this.#waiting;
    this.#waiting = nobodyWaiting;
    for (const stream of waiting) {
      if (stream.queued === 0) this.#drained(stream);
    }
  }

  windowUpdate(streamId: number, increment: number): void {
    if (streamId === 0) {
      this.#window += increment;
      if (this.#window > frames.WINDOW_MAX) this.#h2.fail(frames.FLOW_CONTROL_ERROR, "a window above its maximum");
      else if (this.#ready.size > 0) this.#pump();
      return;
    }
    const stream = this.#h2.streams.get(streamId);
    if (stream === undefined) {
      if (this.#h2.isIdle(streamId)) this.#h2.fail(frames.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream");
      return;
    }
    stream.sendWindow += increment;
    if (stream.sendWindow > frames.WINDOW_MAX) {
      this.#h2.breakStream(stream, frames.FLOW_CONTROL_ERROR, "a window above its maximum");
    } else if (stream.queued > 0 && stream.sendWindow > 0) {
      this.#isReady(stream);
      this.#pump();
    }
  }

  /** The peer's INITIAL_WINDOW_SIZE moved by this; false where a window is too large then (RFC 9113, 6.9.2). */
  moveWindows(by: number): boolean {
    for (const stream of this.#h2.streams.values()) {
      stream.sendWindow += by;
      if (stream.sendWindow > frames.WINDOW_MAX) return false;
      if (stream.queued > 0 && stream.sendWindow > 0) this.#isReady(stream);
      else this.#ready.delete(stream);
    }
    if (this.#ready.size > 0) this.#pump();
    return true;
  }

  /** The stream has ended: nothing that it still holds is sent. */
  drop(stream: Http2Stream): void {
    this.#ready.delete(stream);
    for (const chunk of stream.queue) dropCopy(chunk);
    stream.queue = nothingHeld;
  }
}
