import type { Fields } from "../http/message.ts";
import type { BodyEvents, Loss } from "./exchange.ts";
import { HeldBytes } from "./held-bytes.ts";
import type { Allowance } from "./http2-allowance.ts";
import type { ClosedStreams } from "./http2-closed-streams.ts";
import type { Http2Context } from "./http2-context.ts";
import type { Http2Output } from "./http2-output.ts";
import type { StreamTable } from "./http2-stream-table.ts";

/** Until somebody listens, and after the end. */
const nobody: BodyEvents = { data() {}, end() {}, aborted() {}, drained() {} };

/** What a connection is to its streams and to the two directions of its bodies. */
export interface Http2Core {
  readonly context: Http2Context;
  readonly output: Http2Output;
  readonly streams: Pick<StreamTable<Http2Stream>, "get" | "values">;
  readonly closedStreams: ClosedStreams;
  readonly noise: Allowance;
  readonly over: boolean;
  readonly sending: {
    send(stream: Http2Stream, chunk: Buffer, lent?: boolean): boolean;
    finish(stream: Http2Stream, trailers: Fields | undefined): void;
  };
  readonly receiving: { consumed(stream: Http2Stream, bytes: number): void };
  isIdle(streamId: number): boolean;
  mayHaveBody(stream: Http2Stream): boolean;
  endLocal(stream: Http2Stream, trailers: Fields | undefined): void;
  remoteEnd(stream: Http2Stream, trailers: Fields | undefined): void;
  reset(stream: Http2Stream, code: number): void;
  breakStream(stream: Http2Stream, code: number, because: string): void;
  refuseStream(streamId: number, code: number): void;
  bill(cost: number, what: string): void;
  fail(code: number, because: string): void;
  /** Something of ours threw: the connection ends. */
  broke(thrown: unknown): void;
}

/**
 * One exchange on an HTTP/2 connection, in either role: plain fields that the connection works on, and the calls of
 * `Body` for whoever holds it.
 */
export abstract class Http2Stream {
  readonly id: number;
  readonly h2: Http2Core;
  events: BodyEvents = nobody;
  /** What the peer lets us send, and what we let the peer send. */
  sendWindow: number;
  receiveWindow: number;
  /** Bytes of body that have come. */
  arrived = 0;
  /** Handed up and not consumed. */
  unconsumed = 0;
  /** Consumed and not yet given back to the peer. */
  credit = 0;
  /** Body bytes still to come by the content length; -1 where that is unknown. */
  expected = -1;
  /** A tunnel was asked for (CONNECT, :protocol): DATA alone may follow its head (RFC 9113, 8.5). */
  readonly tunnel: boolean;
  localEnded = false;
  remoteEnded = false;
  closed = false;
  /** What waits for a window, or for the socket. */
  queue: HeldBytes = nothingHeld;
  /** `end` was called while something waited. */
  ending = false;
  trailers: Fields | undefined = undefined;
  wantsDrain = false;

  constructor(h2: Http2Core, id: number, of: { windows: { send: number; receive: number }; tunnel: boolean }) {
    this.h2 = h2;
    this.id = id;
    this.tunnel = of.tunnel;
    this.sendWindow = of.windows.send;
    this.receiveWindow = of.windows.receive;
  }

  get queued(): number {
    return this.queue.bytes;
  }

  write(chunk: Buffer): boolean {
    return this.closed || this.localEnded || this.ending ? true : this.h2.sending.send(this, chunk);
  }

  writeLent(chunk: Buffer): boolean {
    return this.closed || this.localEnded || this.ending ? true : this.h2.sending.send(this, chunk, true);
  }

  end(trailers?: Fields): void {
    if (!this.closed && !this.localEnded && !this.ending)
      this.h2.sending.finish(this, this.tunnel ? undefined : trailers);
  }

  consume(bytes: number): void {
    if (!this.closed && bytes > 0) this.h2.receiving.consumed(this, bytes);
  }

  abstract abort(loss: Loss): void;
}

/** Shared by all streams that never queued anything; never written to. */
export const nothingHeld = new HeldBytes();
