import type { Duplex } from "node:stream";
import { HauberkError } from "../base/errors.ts";
import { MALFORMED } from "../http/http2/field-mark.ts";
import * as frames from "../http/http2/frames.ts";
import { BadHead, readResponse, readTrailers } from "../http/http2/head-reader.ts";
import * as settings from "../http/http2/settings.ts";
import { asksForTunnel, type Fields, type RequestHead } from "../http/message.ts";
import type { ClientConnection, ClientExchange, Loss, ResponseEvents } from "./exchange.ts";
import { ENDED, RESET_BY_US } from "./http2-closed-streams.ts";
import { Http2Connection } from "./http2-connection.ts";
import type { Http2Context } from "./http2-context.ts";
import { Http2Stream } from "./http2-stream.ts";

/** More interim answers than this to one request are no progress any more. */
const INFORMS_MAX = 32;
const PSEUDO_BYTES = 128;
/** How long a server may take nothing of the rest of a request that it has answered whole. */
const REST_MS = 1_000;

/**
 * Opens HTTP/2 on a connected socket. Resolves after the server's SETTINGS: only then has it accepted our certificate
 * (TLS 1.3). Rejects with CONNECT_FAILED, which every request may be tried again after, when the connection ends before.
 */
export function connectHttp2(socket: Duplex, context: Http2Context): Promise<ClientConnection> {
  return new Promise((resolve, reject) => {
    void new Http2Client(socket, context, { resolve, reject });
  });
}

interface Settled {
  resolve(connection: ClientConnection): void;
  reject(error: HauberkError): void;
}

class Http2ClientStream extends Http2Stream implements ClientExchange {
  readonly listener: ResponseEvents;
  readonly method: string;
  readonly upgrade: string | undefined;
  answered = false;
  informs = 0;

  constructor(client: Http2Client, id: number, head: RequestHead, listener: ResponseEvents) {
    super(client, id, { windows: client.windows(), tunnel: asksForTunnel(head) });
    this.method = head.method;
    this.upgrade = head.upgrade;
    this.listener = listener;
    this.events = listener;
  }

  abort(loss: Loss): void {
    this.h2.reset(this, loss.kind === "invalid" ? frames.PROTOCOL_ERROR : frames.CANCEL);
  }
}

class Http2Client extends Http2Connection implements ClientConnection {
  readonly protocol = "h2";
  /** Undefined once it is known how the connection began. */
  #settledBy: Settled | undefined;
  #open = false;
  #nextStream = 1;
  #draining = false;
  #peerLeaves = false;
  /** The server takes :protocol (RFC 8441, 3). */
  #takesProtocols = false;
  #cancelDrain: (() => void) | undefined = undefined;

  constructor(socket: Duplex, context: Http2Context, settledBy: Settled) {
    super(socket, context);
    this.#settledBy = settledBy;
    const { options } = context;
    this.output.frame(frames.preface);
    this.output.frame(
      settings.settingsFrame([
        [settings.HEADER_TABLE_SIZE, options.headerTableBytes],
        [settings.ENABLE_PUSH, 0],
        [settings.INITIAL_WINDOW_SIZE, options.streamWindowBytes],
        [settings.MAX_HEADER_LIST_SIZE, options.headersBytesMax],
        ...this.proofsSetting(),
      ]),
    );
    this.attach();
  }

  get exchanges(): number {
    return this.streams.size;
  }

  get exchangesMax(): number {
    return Math.min(this.peerStreamsMax, this.context.options.streamsMax);
  }

  get open(): boolean {
    return this.#open;
  }

  windows(): { send: number; receive: number } {
    return { send: this.peerInitialWindow, receive: this.context.options.streamWindowBytes };
  }

  protected override lastPeerStream(): number {
    return 0;
  }

  /** The server opens no stream here, because pushing is disabled. */
  override isIdle(streamId: number): boolean {
    return (streamId & 1) === 0 || streamId >= this.#nextStream;
  }

  protected override lossOf(stream: Http2Stream, because: string): Loss {
    return { kind: stream.id > this.output.flushedId ? "unprocessed" : "lost", because };
  }

  protected override lossOfReset(stream: Http2Stream, code: number): Loss {
    const because = `RST_STREAM: ${frames.errorName(code)}`;
    if (code === frames.REFUSED_STREAM && !(stream as Http2ClientStream).answered)
      return { kind: "unprocessed", because };
    const done = code === frames.NO_ERROR && stream.remoteEnded;
    return { kind: done || code === frames.CANCEL ? "cancelled" : "lost", because };
  }

  /** A server can reset no more streams than we open. */
  protected override billReset(): void {}

  // Requests.

  request(head: RequestHead, end: boolean, events: ResponseEvents): ClientExchange | undefined {
    if (!this.#open || this.streams.size >= this.exchangesMax) return undefined;
    const stream = new Http2ClientStream(this, this.#nextStream, head, events);
    const { fields, bodyLength } = head;
    if (head.upgrade !== undefined && !this.#takesProtocols) return this.#noProtocols(stream);
    this.headersRoom(
      fields,
      PSEUDO_BYTES + head.method.length + head.scheme.length + head.authority.length + head.path.length,
    );
    const encoder = this.encoder;
    encoder.known(encoder.method, head.upgrade === undefined ? head.method : "CONNECT");
    if (head.upgrade !== undefined) encoder.known(encoder.protocol, head.upgrade);
    if (head.method !== "CONNECT") {
      encoder.known(encoder.scheme, head.scheme);
      encoder.known(encoder.authority, head.authority);
      encoder.known(encoder.path, head.path);
    } else {
      encoder.known(encoder.authority, head.authority);
    }
    this.encodeFields(fields);
    if (!end && bodyLength >= 0 && !stream.tunnel) encoder.field("content-length", String(bodyLength));
    if (!this.headersWritten(stream, end)) {
      stream.closed = true;
      this.unsayable(stream, "a request with a field that HTTP/2 cannot carry");
      return stream;
    }
    this.output.openedId = stream.id;
    this.#nextStream += 2;
    this.opened(stream);
    if (this.#nextStream > frames.STREAM_ID_MAX) this.#takeNoMore();
    return stream;
  }

  /** This server cannot be asked for another protocol; nothing of the request is written. */
  #noProtocols(stream: Http2ClientStream): ClientExchange {
    stream.closed = true;
    const because = "the server has not announced extended CONNECT";
    setImmediate(() => this.guarded(() => stream.events.aborted({ kind: "unprocessed", because })));
    return stream;
  }

  #takeNoMore(): void {
    this.#open = false;
    this.#draining = true;
  }

  override mayHaveBody(stream: Http2Stream): boolean {
    return (stream as Http2ClientStream).answered;
  }

  override headers(
    streamId: number,
    endStream: boolean,
    _dependsOn: number,
    bytes: Buffer,
    start: number,
    end: number,
  ): void {
    if (!this.decodeBlock(bytes, start, end)) return;
    const stream = this.streams.get(streamId) as Http2ClientStream | undefined;
    if (stream === undefined) {
      if (this.isIdle(streamId)) this.fail(frames.PROTOCOL_ERROR, "HEADERS on an idle stream");
      else this.lateHeaders(streamId);
    } else if (stream.remoteEnded) {
      this.breakStream(stream, frames.STREAM_CLOSED, "HEADERS after the end of its stream");
    } else if (this.list.overflowed) {
      this.breakStream(stream, frames.ENHANCE_YOUR_CALM, "fields that are too large");
    } else if (stream.answered) {
      this.#trailers(stream, endStream);
    } else {
      this.#head(stream, endStream);
    }
  }

  #head(stream: Http2ClientStream, endStream: boolean): void {
    const head = readResponse(this.list, endStream, stream);
    if (head instanceof BadHead) {
      this.breakStream(stream, frames.PROTOCOL_ERROR, head.because);
      return;
    }
    // 101 is how an opened tunnel reads; as such it does not exist in HTTP/2.
    if (head.status < 200 && head.status !== 101) {
      if (endStream) this.breakStream(stream, frames.PROTOCOL_ERROR, "an interim answer that ends its stream");
      else if (++stream.informs > INFORMS_MAX)
        this.breakStream(stream, frames.ENHANCE_YOUR_CALM, "too many interim answers");
      else stream.listener.informed(head);
      return;
    }
    stream.answered = true;
    stream.expected = head.bodyLength;
    if (!endStream) {
      stream.listener.head(head, false);
      return;
    }
    stream.remoteEnded = true;
    stream.listener.head(head, true);
    if (stream.localEnded && !stream.closed) this.close(stream, ENDED);
    else this.#endLater(stream);
  }

  override remoteEnd(stream: Http2Stream, trailers: Fields | undefined): void {
    super.remoteEnd(stream, trailers);
    this.#endLater(stream);
  }

  /**
   * The answer is whole, and the request is not taken whole: its rest goes on as long as some of it is taken in each second.
   * Whoever asked is gone, and would never end it.
   */
  #endLater(stream: Http2Stream): void {
    if (stream.closed || stream.tunnel) return;
    const left = stream.queued;
    this.context.clock.after(REST_MS, () => {
      if (this.over || stream.closed) return;
      if (stream.queued < left) this.#endLater(stream);
      else this.guarded(() => this.reset(stream, frames.CANCEL));
    });
  }

  #trailers(stream: Http2ClientStream, endStream: boolean): void {
    if (stream.tunnel) {
      this.breakStream(stream, frames.PROTOCOL_ERROR, "HEADERS in a tunnel");
    } else if (!endStream) {
      this.breakStream(stream, frames.PROTOCOL_ERROR, "HEADERS a second time, without an end");
    } else if (stream.expected > 0) {
      this.breakStream(stream, frames.PROTOCOL_ERROR, "less data than the content length");
    } else {
      const trailers = readTrailers(this.list, MALFORMED);
      if (trailers instanceof BadHead) this.breakStream(stream, frames.PROTOCOL_ERROR, trailers.because);
      else this.remoteEnd(stream, trailers);
    }
  }

  // Beginning and end.

  override settings(bytes: Buffer, start: number, end: number): void {
    super.settings(bytes, start, end);
    const settledBy = this.#settledBy;
    if (settledBy === undefined || this.over) return;
    this.#settledBy = undefined;
    this.#open = true;
    settledBy.resolve(this);
  }

  protected override peerProtocols(value: number): void {
    if (value === 0 && this.#takesProtocols) this.fail(frames.PROTOCOL_ERROR, "extended CONNECT was taken back");
    else this.#takesProtocols = value === 1;
  }

  protected override peerPush(value: number): void {
    if (value !== 0) this.fail(frames.PROTOCOL_ERROR, "a server that wants pushes");
  }

  override goaway(lastStreamId: number, code: number): void {
    this.bill(1, "GOAWAY");
    if (this.over) return;
    const because = `GOAWAY: ${frames.errorName(code)}`;
    const first = !this.#peerLeaves;
    this.#open = false;
    for (const stream of this.streams.values()) {
      if (stream.id <= lastStreamId || stream.closed) continue;
      this.close(stream, RESET_BY_US);
      stream.events.aborted({ kind: "unprocessed", because });
    }
    if (this.over) return;
    if (first) this.context.onGoaway?.();
    // Only now, so that the last stream above does not end the connection in the middle of this.
    this.#peerLeaves = true;
    this.streamGone();
  }

  protected override streamGone(): void {
    if (this.over) return;
    this.context.onFreed?.();
    if (this.streams.size > 0) return;
    if (this.#peerLeaves) this.leave("the server takes no more requests");
    else if (this.#draining) this.#goodbye("drained");
  }

  #goodbye(because: string): void {
    if (this.over) return;
    this.output.goaway(0, frames.NO_ERROR, "");
    this.leave(because);
  }

  drain(withinMs: number): void {
    if (this.over) return;
    this.#takeNoMore();
    this.#cancelDrain?.();
    this.#cancelDrain = this.context.clock.after(withinMs, () =>
      this.guarded(() => this.#goodbye("drained as long as allowed")),
    );
    this.streamGone();
  }

  protected override onOver(because: string): void {
    this.#open = false;
    this.#cancelDrain?.();
    const settledBy = this.#settledBy;
    this.#settledBy = undefined;
    settledBy?.reject(
      new HauberkError(
        "CONNECT_FAILED",
        `Cannot open HTTP/2: ${because}, before the server's settings came`,
        "Look into the peer's log: it may have refused the certificate",
      ),
    );
  }
}
