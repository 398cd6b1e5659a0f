import type { Duplex } from "node:stream";
import type { Refusal } from "../base/errors.ts";
import { failures, messageOf, refuse } from "../base/errors.ts";
import { grpcOnlyFields, isGrpcType } from "../http/grpc.ts";
import { MALFORMED, REFUSED } from "../http/http2/field-mark.ts";
import * as frames from "../http/http2/frames.ts";
import { BadHead, readRequest, readTrailers } from "../http/http2/head-reader.ts";
import * as settings from "../http/http2/settings.ts";
import { asksForTunnel, opensTunnel, type Fields, type RequestHead, type ResponseHead } from "../http/message.ts";
import type { ConnectionFacts, Handler, Loss, ServerConnection, ServerExchange } from "./exchange.ts";
import type { BodyEvents } from "./exchange.ts";
import { RESET_BY_US } from "./http2-closed-streams.ts";
import { Http2Connection } from "./http2-connection.ts";
import type { Http2Context } from "./http2-context.ts";
import { Slowness } from "./http2-slowness.ts";
import { Http2Stream } from "./http2-stream.ts";

/** Between the two GOAWAY frames of a drain: one round trip, or this. */
const GOAWAY_MS = 1_000;
const PSEUDO_BYTES = 32;
/** How long the rest of a request may go on coming behind its whole answer. */
const REST_MS = 1_000;

/**
 * Serves HTTP/2 on a socket whose peer is known (TLS with ALPN h2, or plain with prior knowledge).
 * `first` is what was already read from it, and is read before this returns. The handler is called once per request,
 * synchronously.
 */
export function serveHttp2(
  socket: Duplex,
  facts: ConnectionFacts,
  handler: Handler,
  context: Http2Context,
  first?: Buffer,
): ServerConnection {
  return new Http2Server(socket, { facts, handler, first }, context);
}

class Http2ServerStream extends Http2Stream implements ServerExchange {
  readonly head: RequestHead;
  readonly bodyless: boolean;
  readonly server: Http2Server;
  answered = false;
  /** The request was refused by us: what it still sends is dropped, and its end not awaited. */
  refused = false;
  /** The tunnel is open. */
  opened = false;
  /** Work that goes on after the stream. */
  holds = 0;
  /** From the first look on. */
  slowness: Slowness | undefined = undefined;

  constructor(server: Http2Server, id: number, head: RequestHead, bodyless: boolean) {
    super(server, id, { windows: server.windows(), tunnel: asksForTunnel(head) });
    this.server = server;
    this.head = head;
    this.bodyless = bodyless;
    this.remoteEnded = bodyless;
    this.expected = head.bodyLength;
  }

  get connection(): ConnectionFacts {
    return this.server.facts;
  }

  listen(events: BodyEvents): void {
    this.events = events;
  }

  inform(head: ResponseHead): void {
    if (!this.closed && !this.answered) this.server.inform(this, head);
  }

  respond(head: ResponseHead, end: boolean): void {
    if (this.closed || this.answered) return;
    this.answered = true;
    this.server.respond(this, head, end);
  }

  hold(): () => void {
    this.holds++;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      if (--this.holds === 0 && this.closed) this.server.released();
    };
  }

  abort(loss: Loss): void {
    this.h2.reset(this, this.opened ? tunnelCodeOf(loss) : codeOf(loss, this.localEnded));
  }
}

/** After a whole answer the peer only has to stop sending (RFC 9113, 8.1). */
function codeOf(loss: Loss, answered: boolean): number {
  if (answered) return frames.NO_ERROR;
  switch (loss.kind) {
    case "unprocessed":
      return frames.REFUSED_STREAM;
    case "cancelled":
      return frames.CANCEL;
    case "lost":
    case "invalid":
    default:
      return frames.INTERNAL_ERROR;
  }
}

/** What broke beyond the tunnel, its client cannot see otherwise (RFC 9113, 8.5). */
function tunnelCodeOf(loss: Loss): number {
  return loss.kind === "cancelled" ? frames.CANCEL : frames.CONNECT_ERROR;
}

class Http2Server extends Http2Connection implements ServerConnection {
  readonly facts: ConnectionFacts;
  readonly #handler: Handler;
  /** How much of the client's preface has been seen. */
  #prefaceSeen = 0;
  #lastStream = 0;
  /** Exchanges that ended while their handler's work goes on. */
  #held = 0;
  #draining = false;
  /** The last stream that is served; after that all are left unanswered, and the client knows. */
  #lastServed = frames.STREAM_ID_MAX;
  #cancelGoaway: (() => void) | undefined = undefined;
  #cancelDrain: (() => void) | undefined = undefined;
  #peerLeaves = false;

  constructor(
    socket: Duplex,
    served: { facts: ConnectionFacts; handler: Handler; first: Buffer | undefined },
    context: Http2Context,
  ) {
    super(socket, context);
    this.facts = served.facts;
    this.#handler = served.handler;
    const { options } = context;
    this.output.frame(
      settings.settingsFrame([
        [settings.HEADER_TABLE_SIZE, options.headerTableBytes],
        [settings.MAX_CONCURRENT_STREAMS, options.streamsMax],
        [settings.INITIAL_WINDOW_SIZE, options.streamWindowBytes],
        [settings.MAX_HEADER_LIST_SIZE, options.headersBytesMax],
        [settings.ENABLE_CONNECT_PROTOCOL, 1],
        ...this.proofsSetting(),
      ]),
    );
    this.attach();
    if (served.first !== undefined && served.first.length > 0) this.arrived(served.first);
  }

  get exchanges(): number {
    return this.streams.size;
  }

  windows(): { send: number; receive: number } {
    return { send: this.peerInitialWindow, receive: this.context.options.streamWindowBytes };
  }

  protected override receive(chunk: Buffer): void {
    if (this.#prefaceSeen === frames.preface.length) {
      this.reader.read(chunk);
      return;
    }
    if (this.over) return;
    const length = Math.min(chunk.length, frames.preface.length - this.#prefaceSeen);
    if (frames.preface.compare(chunk, 0, length, this.#prefaceSeen, this.#prefaceSeen + length) !== 0) {
      this.fail(frames.PROTOCOL_ERROR, "a connection that does not begin with the preface of HTTP/2");
      return;
    }
    this.#prefaceSeen += length;
    if (length < chunk.length) this.reader.read(chunk.subarray(length));
  }

  /** Answers pile up: the peer sends, and does not read. It is read again when it has. */
  protected override stuck(): void {
    this.pauseReading();
  }

  protected override lastPeerStream(): number {
    return Math.min(this.#lastStream, this.#lastServed);
  }

  override isIdle(streamId: number): boolean {
    return (streamId & 1) === 0 || streamId > this.#lastStream;
  }

  protected override lossOf(_stream: Http2Stream, because: string): Loss {
    return { kind: "cancelled", because };
  }

  protected override lossOfReset(_stream: Http2Stream, code: number): Loss {
    return { kind: code === frames.CANCEL ? "cancelled" : "lost", because: `RST_STREAM: ${frames.errorName(code)}` };
  }

  // Requests.

  override headers(
    streamId: number,
    endStream: boolean,
    dependsOn: number,
    bytes: Buffer,
    start: number,
    end: number,
  ): void {
    if (!this.decodeBlock(bytes, start, end)) return;
    if ((streamId & 1) === 0) {
      this.fail(frames.PROTOCOL_ERROR, "a client's stream with an even number");
      return;
    }
    const stream = this.streams.get(streamId);
    if (stream !== undefined) {
      if (dependsOn === streamId) this.breakStream(stream, frames.PROTOCOL_ERROR, "a stream that depends on itself");
      else this.#trailers(stream, endStream);
      return;
    }
    if (streamId <= this.#lastStream) {
      this.lateHeaders(streamId);
      return;
    }
    this.#lastStream = streamId;
    if (streamId > this.#lastServed) {
      // Sent before the client knew that we are leaving; it sends it elsewhere.
      this.closedStreams.add(streamId, RESET_BY_US);
    } else if (dependsOn === streamId) {
      this.#turnAway(streamId, frames.PROTOCOL_ERROR);
    } else if (this.streams.size + this.#held >= this.context.options.streamsMax) {
      this.#turnAway(streamId, frames.REFUSED_STREAM);
    } else {
      this.#request(streamId, endStream);
    }
  }

  #turnAway(streamId: number, code: number): void {
    this.closedStreams.add(streamId, RESET_BY_US);
    this.refuseStream(streamId, code);
  }

  #request(streamId: number, endStream: boolean): void {
    if (this.list.overflowed) {
      this.#refuse(streamId, endStream, tooLarge);
      return;
    }
    const head = readRequest(this.list, endStream);
    if (head instanceof BadHead) {
      if (head.answer === undefined) this.#turnAway(streamId, frames.PROTOCOL_ERROR);
      else this.#refuse(streamId, endStream, head.answer);
      return;
    }
    const stream = new Http2ServerStream(this, streamId, head, endStream);
    this.opened(stream);
    try {
      this.#handler(stream);
    } catch (thrown) {
      const because = `a bug: ${messageOf(thrown)}`;
      this.context.onFault?.(thrown);
      this.reset(stream, frames.INTERNAL_ERROR);
      stream.events.aborted({ kind: "lost", because });
    }
  }

  /** Gives up what its client keeps open without moving it. */
  protected override look(sinceMs: number): void {
    if (this.streams.size === 0) return;
    const { bodyBytesPerSecond, stallMs } = this.context.options;
    for (const stream of this.streams.values() as Iterable<Http2ServerStream>) {
      if (this.over) return;
      stream.slowness ??= new Slowness();
      const because = stream.slowness.look(stream, sinceMs, { bodyBytesPerSecond, stallMs });
      if (because === undefined) continue;
      this.reset(stream, frames.ENHANCE_YOUR_CALM);
      stream.events.aborted({ kind: "cancelled", because });
      this.billReset();
    }
  }

  /** Answers by ourselves what no handler is to see. */
  #refuse(streamId: number, endStream: boolean, refusal: Refusal): void {
    const stream = new Http2ServerStream(this, streamId, noHead, endStream);
    stream.refused = true;
    stream.events = new Dropping(stream);
    this.opened(stream);
    if (isGrpcType(this.#said("content-type"))) {
      stream.respond({ status: 200, fields: grpcOnlyFields(refusal), bodyLength: 0 }, true);
    } else {
      const { code, message, hint } = refusal;
      const body = Buffer.from(JSON.stringify({ code, message, hint }));
      const fields = ["content-type", "application/json", "x-hauberk-code", code];
      const bodyless = this.#said(":method") === "HEAD";
      stream.respond({ status: failures[code].status, fields, bodyLength: bodyless ? -1 : body.length }, bodyless);
      if (!bodyless) {
        stream.write(body);
        stream.end();
      }
    }
    this.billReset();
  }

  /** A field of the block that was read last, as far as it was kept; "" for none. */
  #said(name: string): string {
    const at = this.list.names.indexOf(name);
    return at >= 0 && at < this.list.count ? (this.list.values[at] as string) : "";
  }

  #trailers(stream: Http2Stream, endStream: boolean): void {
    if (stream.remoteEnded) this.breakStream(stream, frames.STREAM_CLOSED, "HEADERS after the end of its stream");
    else if (stream.tunnel) this.breakStream(stream, frames.PROTOCOL_ERROR, "HEADERS in a tunnel");
    else if (!endStream) this.breakStream(stream, frames.PROTOCOL_ERROR, "HEADERS a second time, without an end");
    else if (stream.expected > 0) this.breakStream(stream, frames.PROTOCOL_ERROR, "less data than the content length");
    else if (this.list.overflowed) this.breakStream(stream, frames.ENHANCE_YOUR_CALM, "trailers that are too large");
    else {
      const trailers = readTrailers(this.list, MALFORMED | REFUSED);
      if (trailers instanceof BadHead) this.breakStream(stream, frames.PROTOCOL_ERROR, trailers.because);
      else this.remoteEnd(stream, trailers);
    }
  }

  // Answers.

  inform(stream: Http2ServerStream, head: ResponseHead): void {
    this.#writeHead(stream, head, false);
  }

  respond(stream: Http2ServerStream, head: ResponseHead, end: boolean): void {
    if (stream.tunnel) this.#respondToTunnel(stream, head, end);
    else if (head.status < 200) this.unsayable(stream, `a last answer with status ${head.status}`);
    else this.#writeHead(stream, head, end);
  }

  /** In HTTP/2 a tunnel of either kind is opened by 200, so no other answer may look like it (CVE-2024-23326). */
  #respondToTunnel(stream: Http2ServerStream, head: ResponseHead, end: boolean): void {
    stream.opened = opensTunnel(stream.head, head.status);
    if (!stream.opened && head.status < 300) {
      this.unsayable(stream, "an answer that would open a tunnel");
      return;
    }
    this.#writeHead(stream, stream.opened ? { status: 200, fields: head.fields, bodyLength: -1 } : head, end);
  }

  #writeHead(stream: Http2ServerStream, head: ResponseHead, end: boolean): void {
    const { fields, status, bodyLength } = head;
    this.headersRoom(fields, PSEUDO_BYTES);
    const encoder = this.encoder;
    encoder.known(encoder.status, statusTexts[status] ?? String(status));
    this.encodeFields(fields);
    if (!end && bodyLength >= 0 && status >= 200) encoder.field("content-length", String(bodyLength));
    if (!this.headersWritten(stream, end)) this.unsayable(stream, "an answer with a field that HTTP/2 cannot carry");
  }

  override localEnd(stream: Http2Stream): void {
    super.localEnd(stream);
    if (stream.closed) return;
    const { refused, tunnel, opened } = stream as Http2ServerStream;
    // A refused request is not waited for, and what was to go through a tunnel that is none is not either.
    if (refused || (tunnel && !opened)) this.reset(stream, frames.NO_ERROR);
    else if (!tunnel) this.#endLater(stream);
  }

  /**
   * The answer is whole and the request is not: nobody wants the rest, and the client is told so (RFC 9113, 8.1), because
   * some wait for ever otherwise. Not at once: curl 7.88 takes no answer that it has not looked at before the reset comes.
   */
  #endLater(stream: Http2Stream): void {
    this.context.clock.after(REST_MS, () => {
      if (!this.over) this.guarded(() => this.reset(stream, frames.NO_ERROR));
    });
  }

  /** A handler's work ended later than its stream. */
  released(): void {
    this.#held--;
  }

  // The end.

  override goaway(_lastStreamId: number, _code: number): void {
    this.#peerLeaves = true;
    this.context.onGoaway?.();
    this.streamGone();
  }

  protected override streamGone(stream?: Http2Stream): void {
    if (stream !== undefined && (stream as Http2ServerStream).holds > 0) this.#held++;
    if (this.streams.size > 0 || this.over) return;
    if (this.#lastServed !== frames.STREAM_ID_MAX) this.leave("drained");
    else if (this.#peerLeaves) this.leave("the client is done");
  }

  /** Two GOAWAY frames: the first stops the client, the second says which of its last requests were taken (RFC 9113, 6.8). */
  drain(withinMs: number): void {
    if (this.over) return;
    const { clock } = this.context;
    this.#cancelDrain?.();
    this.#cancelDrain = clock.after(withinMs, () => this.guarded(() => this.leave("drained as long as allowed")));
    if (this.#draining) return;
    this.#draining = true;
    this.output.goaway(frames.STREAM_ID_MAX, frames.NO_ERROR, "");
    this.sendPing();
    this.#cancelGoaway = clock.after(Math.min(withinMs, GOAWAY_MS), () => this.guarded(() => this.#lastGoaway()));
  }

  protected override pinged(): void {
    if (this.#draining) this.#lastGoaway();
  }

  #lastGoaway(): void {
    if (this.over || this.#lastServed !== frames.STREAM_ID_MAX) return;
    this.#lastServed = this.#lastStream;
    this.output.goaway(this.#lastServed, frames.NO_ERROR, "");
    this.streamGone();
  }

  protected override onOver(): void {
    this.#cancelGoaway?.();
    this.#cancelDrain?.();
  }
}

const statusTexts: readonly string[] = Array.from({ length: 600 }, (_, status) => String(status));

const noHead: RequestHead = { method: "", scheme: "", authority: "", path: "", fields: [] as Fields, bodyLength: -1 };

const tooLarge = refuse(
  "HEADERS_TOO_LARGE",
  "Cannot take the request: its fields are larger or more than allowed",
  "Send fewer or shorter fields",
);

/** Takes the body of a request that was refused, and keeps nothing of it. */
class Dropping implements BodyEvents {
  readonly #stream: Http2Stream;

  constructor(stream: Http2Stream) {
    this.#stream = stream;
  }

  data(chunk: Buffer): void {
    this.#stream.consume(chunk.length);
  }
  end(): void {}
  aborted(): void {}
  drained(): void {}
}
