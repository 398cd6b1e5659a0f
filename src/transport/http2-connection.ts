/**
 * What both ends of an HTTP/2 connection do alike (RFC 9113): frames in, flow control in both directions, settings,
 * keep-alive, the limits on what a peer may cost, and the end. The roles are in http2-server.ts and http2-client.ts.
 */
import type { Duplex } from "node:stream";
import { messageOf } from "../base/errors.ts";
import { FieldList, type FieldLimits } from "../http/http2/field-list.ts";
import { FrameReader, type FrameReaderLimits } from "../http/http2/frame-reader.ts";
import type { FrameListener } from "../http/http2/frame-reader.ts";
import * as frames from "../http/http2/frames.ts";
import { HpackDecoder } from "../http/http2/hpack-decoder.ts";
import { HpackEncoder, boundOf } from "../http/http2/hpack-encoder.ts";
import * as settings from "../http/http2/settings.ts";
import type { Fields } from "../http/message.ts";
import type { Loss } from "./exchange.ts";
import { Ticker, tickMs, type Ticking } from "./http1-ticker.ts";
import { Allowance } from "./http2-allowance.ts";
import { ClosedStreams, ENDED, FORGOTTEN, RESET_BY_PEER, RESET_BY_US, SKIPPED } from "./http2-closed-streams.ts";
import type { Http2Context } from "./http2-context.ts";
import { Http2Output, type OutputOwner } from "./http2-output.ts";
import { Http2Receiving } from "./http2-receiving.ts";
import { Http2Sending } from "./http2-sending.ts";
import type { Http2Core, Http2Stream } from "./http2-stream.ts";
import { StreamTable } from "./http2-stream-table.ts";

/** SETTINGS_HEADER_TABLE_SIZE before anybody set it. */
const TABLE_DEFAULT = 4_096;
/** How long a connection that said its last word may take to send it. */
const LINGER_MS = 1_000;
/** A stream lets a peer send so many cheap frames more. */
const EARNED_BY_STREAM = 4;
/** A completed stream is worth this part of a reset. */
const EARNED_BY_COMPLETION = 0.25;
/** What the frames cost that make the receiver work for all of its streams. */
const COST_OF_SETTINGS = 20;
/** A server stops reading while this many times its output limit is unsent. */
const STUCK_FACTOR = 4;

/** What we say where proofs of renewed certificates are taken (docs/decisions/0010). */
const PROOFS_VERSION = 1;

const settingsAck = settings.settingsFrame([]);
settingsAck[4] = frames.ACK;

const keepAlivePing = Buffer.from("hauberk?", "latin1");

interface Limits {
  readonly frames: FrameReaderLimits;
  readonly fields: FieldLimits;
}

const limits = new WeakMap<Http2Context["options"], Limits>();

/** One object for all connections with the same options. */
function limitsOf(options: Http2Context["options"]): Limits {
  let found = limits.get(options);
  if (found === undefined) {
    found = {
      frames: { blockBytesMax: options.headerBlockBytesMax, continuationsMax: options.continuationsMax },
      fields: { fieldsMax: options.headersMax, bytesMax: options.headersBytesMax },
    };
    limits.set(options, found);
  }
  return found;
}

/** A moment that never comes. */
const NEVER = 0;

/**
 * Most connections of a sidecar are idle most of the time, and some never carry a stream: what only streams need is made
 * with the first one, and time is looked at by the ticker that all connections share (bench/memory).
 */
export abstract class Http2Connection implements FrameListener, Http2Core, OutputOwner, Ticking {
  readonly streams = new StreamTable<Http2Stream>();
  protected readonly socket: Duplex;
  readonly context: Http2Context;
  readonly output: Http2Output;
  protected readonly reader: FrameReader;
  /** These three with the first block that is read or sent. */
  #decoder: HpackDecoder | undefined = undefined;
  #list: FieldList | undefined = undefined;
  #encoder: HpackEncoder | undefined = undefined;
  #inBlock = false;
  readonly closedStreams = new ClosedStreams();
  readonly sending: Http2Sending;
  readonly receiving: Http2Receiving;
  readonly noise: Allowance;
  /** From the first reset on: nothing was spent before, so that nothing can be earned. */
  #resets: Allowance | undefined = undefined;
  /** Nothing more is read, written or called. */
  over = false;
  protected settled = false;
  protected peerInitialWindow = frames.WINDOW_DEFAULT;
  protected peerStreamsMax = Number.POSITIVE_INFINITY;

  /** The peer takes proofs, and so may send them. */
  #peerProves = false;
  #heard = false;
  /** What is read now is good until this read returns. */
  #lent = false;
  #paused = false;
  #newWindow = frames.WINDOW_DEFAULT;
  #cancelSettings: (() => void) | undefined;
  // By the ticker's time, whole milliseconds.
  #pingAtMs: number;
  #pingAckByMs = NEVER;
  #lookedAtMs = NEVER;
  #cancelHeaders: (() => void) | undefined = undefined;

  constructor(socket: Duplex, context: Http2Context) {
    const { clock, options } = context;
    this.socket = socket;
    this.context = context;
    this.output = new Http2Output(socket, this);
    this.reader = new FrameReader(this, limitsOf(options).frames);
    this.sending = new Http2Sending(this);
    this.receiving = new Http2Receiving(this);
    this.noise = new Allowance(options.noiseMax, options.noisePerSecond, clock);
    this.#cancelSettings = clock.after(options.settingsMs, () =>
      this.guarded(() => this.fail(frames.SETTINGS_TIMEOUT, "settings were not acknowledged in time")),
    );
    const ticker = Ticker.of(clock);
    ticker.add(this);
    this.#pingAtMs = Math.ceil(ticker.deadline(options.pingMs)) - tickMs;
    if ("setNoDelay" in socket) (socket as unknown as { setNoDelay(on: boolean): void }).setNoDelay(true);
  }

  /** What was decoded last. */
  protected get list(): FieldList {
    return (this.#list ??= new FieldList(limitsOf(this.context.options).fields));
  }

  protected get encoder(): HpackEncoder {
    return (this.#encoder ??= new HpackEncoder(this.context.options.headerTableBytes));
  }

  /** Called by the roles once they are whole: the socket may speak at once. */
  protected attach(): void {
    const socket = this.socket;
    socket.on("error", (error: Error) => this.guarded(() => this.ended(`the socket failed: ${messageOf(error)}`)));
    socket.on("close", () => this.guarded(() => this.ended("the socket closed")));
    socket.on("end", () => {
      this.guarded(() => this.ended("the peer ended the connection"));
      socket.destroy();
    });
    if (socket.destroyed || socket.readableEnded) {
      setImmediate(() => this.guarded(() => this.ended("the socket was closed before it was used")));
      return;
    }
    const { reads } = this.context;
    if (reads === undefined) {
      socket.on("data", (chunk: Buffer) => this.arrived(chunk));
      return;
    }
    reads.to((lent) => {
      this.#lent = true;
      this.arrived(lent);
      this.#lent = false;
    });
    socket.resume(); // Nobody hears "data", and the end is to be heard all the same.
  }

  protected arrived(chunk: Buffer): void {
    this.#heard = true;
    try {
      this.receive(chunk);
      if (this.output.pending > this.context.options.outputBytes * STUCK_FACTOR) this.stuck();
    } catch (thrown) {
      this.#bug(thrown);
    }
  }

  protected receive(chunk: Buffer): void {
    this.reader.read(chunk);
  }

  /** More is unsent than is good. */
  protected stuck(): void {}

  protected pauseReading(): void {
    if (this.#paused || this.over) return;
    this.#paused = true;
    this.socket.pause();
  }

  protected guarded(task: () => void): void {
    try {
      task();
    } catch (thrown) {
      this.#bug(thrown);
    }
  }

  broke(thrown: unknown): void {
    this.#bug(thrown);
  }

  /** Something of ours threw: this connection cannot be trusted any more, the process can. */
  #bug(thrown: unknown): void {
    try {
      this.context.onFault?.(thrown);
      this.fail(frames.INTERNAL_ERROR, `a bug: ${messageOf(thrown)}`);
    } catch {
      // Not even a last word can be written: who waits hears of the end all the same, and what is held is given back.
      this.#endWithoutWord(`a bug: ${messageOf(thrown)}`);
    }
  }

  #endWithoutWord(because: string): void {
    try {
      this.ended(because, "lost");
    } catch {
      this.over = true;
    }
    this.socket.destroy();
  }

  // The end.

  /** The number that GOAWAY names: the highest stream of the peer that was looked at. */
  protected abstract lastPeerStream(): number;
  /** What an exchange is told when the whole connection ends. */
  protected abstract lossOf(stream: Http2Stream, because: string): Loss;
  abstract isIdle(streamId: number): boolean;

  /** Ends the connection because of what the peer, or a bug, did (RFC 9113, 5.4.1). */
  fail(code: number, because: string): void {
    if (this.over) return;
    this.reader.stop();
    this.output.goaway(this.lastPeerStream(), code, because.slice(0, 200));
    this.#lastWord(`${frames.errorName(code)}: ${because}`, code === frames.INTERNAL_ERROR ? "lost" : "invalid");
  }

  /** Every exchange has ended, or its time is over. */
  protected leave(because: string): void {
    if (this.over) return;
    this.reader.stop();
    this.#lastWord(because, undefined);
  }

  #lastWord(because: string, kind: Loss["kind"] | undefined): void {
    this.output.flush(true);
    if (!this.socket.destroyed) this.socket.end();
    const cancel = this.context.clock.after(LINGER_MS, () => this.socket.destroy());
    this.socket.once("close", cancel);
    this.ended(because, kind);
  }

  /** The socket is no more, or is given up. */
  protected ended(because: string, kind?: Loss["kind"]): void {
    if (this.over) return;
    this.over = true;
    this.reader.stop();
    this.#cancelSettings?.();
    Ticker.of(this.context.clock).remove(this);
    this.#cancelHeaders?.();
    if (this.#paused) this.socket.resume();
    const whole = {};
    for (const stream of this.streams.values()) {
      stream.closed = true;
      this.sending.drop(stream);
      const loss = this.lossOf(stream, because);
      try {
        const known = kind === undefined || loss.kind === "unprocessed";
        stream.events.aborted({ kind: known ? loss.kind : kind, because: known ? loss.because : because, whole });
      } catch (thrown) {
        // One listener's bug must not keep the others from hearing of the end.
        this.context.onFault?.(thrown);
      }
    }
    this.streams.clear();
    this.receiving.end();
    this.onOver(because);
    this.context.onClosed(because);
  }

  protected onOver(_because: string): void {}

  destroy(because: string): void {
    this.guarded(() => this.ended(because));
    this.socket.destroy();
  }

  // Streams.

  protected opened(stream: Http2Stream): void {
    this.streams.set(stream);
    this.noise.earn(EARNED_BY_STREAM);
  }

  protected close(stream: Http2Stream, how: number): void {
    if (stream.closed) return;
    stream.closed = true;
    this.streams.delete(stream.id);
    this.closedStreams.add(stream.id, how);
    if (stream.queued > 0) this.sending.drop(stream);
    if (stream.unconsumed > 0) this.receiving.creditConnection(stream.unconsumed);
    if (how === ENDED) this.#resets?.earn(EARNED_BY_COMPLETION);
    this.streamGone(stream);
  }

  /** A stream has ended; the roles see whether it was the last. */
  protected streamGone(_stream?: Http2Stream): void {}

  /** Resets a stream on our own account. */
  reset(stream: Http2Stream, code: number): void {
    if (stream.closed) return;
    this.output.reset(stream.id, code);
    this.close(stream, RESET_BY_US);
  }

  /** The peer broke the rules of one stream (RFC 9113, 5.4.2). */
  streamBroken(streamId: number, code: number, because: string): void {
    const stream = this.streams.get(streamId);
    if (stream !== undefined) this.breakStream(stream, code, because);
    else if (this.isIdle(streamId)) this.fail(code, because);
    else this.refuseStream(streamId, code);
  }

  breakStream(stream: Http2Stream, code: number, because: string): void {
    this.reset(stream, code);
    stream.events.aborted({ kind: "invalid", because: `${frames.errorName(code)}: ${because}` });
    this.billReset();
  }

  /** Answers a frame of a stream that is not there. */
  refuseStream(streamId: number, code: number): void {
    this.output.reset(streamId, code);
    this.billReset();
  }

  /** Each stream that the peer makes end early costs it, whoever sends the RST_STREAM (CVE-2023-44487, CVE-2025-8671). */
  protected billReset(): void {
    const { clock, options } = this.context;
    this.#resets ??= new Allowance(options.resetsMax, options.resetsPerSecond, clock);
    if (!this.#resets.spend(1, clock)) this.fail(frames.ENHANCE_YOUR_CALM, "too many streams that end early");
    else this.#checkControls();
  }

  bill(cost: number, what: string): void {
    if (!this.noise.spend(cost, this.context.clock))
      this.fail(frames.ENHANCE_YOUR_CALM, `too many frames without use: ${what}`);
  }

  #checkControls(): void {
    if (this.output.controls > this.context.options.controlQueueMax)
      this.fail(frames.ENHANCE_YOUR_CALM, "too many answers that are not read");
  }

  // Sending (RFC 9113, 6.9).

  /** Writes a header block: `encode` is told apart by the roles, so that no closure is made. */
  protected headersRoom(fields: Fields, extra: number): void {
    const out = this.output.room(frames.FRAME_HEAD_BYTES + boundOf(fields) + extra);
    // What threw in the middle of a block has left entries in the table that the peer never saw.
    if (this.#inBlock) this.encoder.forget();
    this.#inBlock = true;
    this.encoder.begin(out, this.output.at + frames.FRAME_HEAD_BYTES);
  }

  protected encodeFields(fields: Fields): void {
    const encoder = this.encoder;
    for (let i = 0; i < fields.length; i += 2) encoder.field(fields[i] as string, fields[i + 1] as string);
  }

  /** False when the block cannot be sent; nothing of it is then. */
  protected headersWritten(stream: Http2Stream, endStream: boolean): boolean {
    this.#inBlock = false;
    if (this.encoder.invalid !== undefined) {
      this.encoder.forget();
      return false;
    }
    this.output.headers(stream.id, this.encoder.at - this.output.at - frames.FRAME_HEAD_BYTES, endStream);
    if (endStream) this.localEnd(stream);
    return true;
  }

  localEnd(stream: Http2Stream): void {
    stream.localEnded = true;
    if (stream.remoteEnded) this.close(stream, ENDED);
  }

  /** What we were asked to send cannot be said in HTTP/2; whoever asked hears it in the next turn. */
  unsayable(stream: Http2Stream, because: string): void {
    this.reset(stream, frames.INTERNAL_ERROR);
    setImmediate(() => this.guarded(() => stream.events.aborted({ kind: "invalid", because })));
  }

  /** Our side of a stream ends, with or without trailers. */
  endLocal(stream: Http2Stream, trailers: Fields | undefined): void {
    if (trailers === undefined || trailers.length === 0) {
      this.output.endStream(stream.id);
      this.localEnd(stream);
      return;
    }
    this.headersRoom(trailers, 0);
    this.encodeFields(trailers);
    if (!this.headersWritten(stream, true)) this.unsayable(stream, "trailers that HTTP/2 cannot carry");
  }

  /** The socket took all that we had given it. */
  outputWritten(): void {
    try {
      this.#goOn();
    } catch (thrown) {
      this.#bug(thrown);
    }
  }

  #goOn(): void {
    if (this.over) return;
    if (this.#paused && this.output.pending < this.context.options.outputBytes) {
      this.#paused = false;
      this.socket.resume();
    }
    this.sending.goOn();
  }

  windowUpdate(streamId: number, increment: number): void {
    this.bill(1, "WINDOW_UPDATE");
    if (!this.over) this.sending.windowUpdate(streamId, increment);
  }

  // Bodies arrive.

  dataBegins(streamId: number, payload: number, endStream: boolean): void {
    this.receiving.begins(streamId, payload, endStream);
  }

  dataPiece(piece: Buffer): void {
    this.receiving.piece(piece, this.#lent);
  }

  dataEnds(padding: number): void {
    this.receiving.ends(padding);
  }

  /** A client's stream has no body before the head of its answer. */
  mayHaveBody(_stream: Http2Stream): boolean {
    return true;
  }

  remoteEnd(stream: Http2Stream, trailers: Fields | undefined): void {
    stream.remoteEnded = true;
    stream.events.end(trailers);
    if (stream.localEnded && !stream.closed) this.close(stream, ENDED);
  }

  // Heads. The roles read them; here is what both need.

  abstract headers(
    streamId: number,
    endStream: boolean,
    dependsOn: number,
    bytes: Buffer,
    start: number,
    end: number,
  ): void;

  /** Every block is decoded, wanted or not, because the next one builds on it. */
  protected decodeBlock(bytes: Buffer, start: number, end: number): boolean {
    if (this.#cancelHeaders !== undefined) {
      this.#cancelHeaders();
      this.#cancelHeaders = undefined;
    }
    const decoder = (this.#decoder ??= this.#makeDecoder());
    if (decoder.decode(bytes, start, end, this.list)) return true;
    this.fail(frames.COMPRESSION_ERROR, decoder.because);
    return false;
  }

  #makeDecoder(): HpackDecoder {
    const { headerTableBytes } = this.context.options;
    const decoder = new HpackDecoder(TABLE_DEFAULT, Math.max(TABLE_DEFAULT, headerTableBytes));
    if (this.settled) decoder.setLimit(headerTableBytes);
    return decoder;
  }

  headersPending(): void {
    this.#cancelHeaders ??= this.context.clock.after(this.context.options.headersMs, () =>
      this.guarded(() => this.fail(frames.ENHANCE_YOUR_CALM, "a header block that did not become whole in time")),
    );
  }

  /** HEADERS for a stream that is over. */
  protected lateHeaders(streamId: number): void {
    switch (this.closedStreams.find(streamId)) {
      case RESET_BY_US:
        this.bill(1, "HEADERS on a closed stream");
        return;
      case SKIPPED:
        this.fail(frames.PROTOCOL_ERROR, "a stream below the last one");
        return;
      case FORGOTTEN:
        this.refuseStream(streamId, frames.STREAM_CLOSED);
        return;
      default:
        this.fail(frames.STREAM_CLOSED, "HEADERS on a closed stream");
    }
  }

  // The small frames.

  priority(streamId: number, dependsOn: number): void {
    if (streamId === dependsOn) this.streamBroken(streamId, frames.PROTOCOL_ERROR, "a stream that depends on itself");
    else this.bill(1, "PRIORITY");
  }

  unknown(): void {
    this.bill(1, "unknown frames");
  }

  // Proofs of renewed certificates (docs/decisions/0010).

  /** For the first SETTINGS of the roles. */
  protected proofsSetting(): readonly (readonly [number, number])[] {
    return this.context.proofs === undefined ? [] : [[settings.CERTIFICATE_PROOFS, PROOFS_VERSION]];
  }

  #peerTakesProofs(version: number): void {
    const { proofs } = this.context;
    if (proofs === undefined) return;
    if (version < PROOFS_VERSION) {
      if (this.#peerProves) this.fail(frames.PROTOCOL_ERROR, "proofs of certificates were taken back");
    } else if (!this.#peerProves) {
      this.#peerProves = true;
      proofs.begin({
        prove: (payload) => this.#sendProof(0, payload),
        acknowledge: (payload) => this.#sendProof(frames.ACK, payload),
      });
    }
  }

  #sendProof(flags: number, payload: Buffer): void {
    if (!this.over) this.output.frame(frames.wholeFrame((frames.PROOF << 8) | flags, payload));
  }

  proof(acknowledges: boolean, streamId: number, bytes: Buffer, start: number, end: number): void {
    const { proofs } = this.context;
    if (proofs === undefined) return this.unknown();
    if (streamId !== 0) return this.fail(frames.PROTOCOL_ERROR, "a connection's frame on a stream");
    if (!this.#peerProves) return this.fail(frames.PROTOCOL_ERROR, "a proof of a certificate, which was not announced");
    const payload = bytes.subarray(start, end);
    const because = acknowledges ? proofs.acknowledged(payload) : proofs.received(payload);
    if (because !== undefined) this.fail(frames.INADEQUATE_SECURITY, because);
  }

  ping(acknowledges: boolean, bytes: Buffer, at: number): void {
    this.bill(1, "PING");
    if (this.over) return;
    if (!acknowledges) {
      this.output.ping(true, bytes, at);
      this.#checkControls();
    } else {
      this.#pingAckByMs = NEVER;
      this.pinged();
    }
  }

  /** One of our PINGs was answered. */
  protected pinged(): void {}

  protected sendPing(): void {
    this.output.ping(false, keepAlivePing, 0);
  }

  /** Called with each turn of the keep-alive, `sinceMs` after the last one. */
  protected look(_sinceMs: number): void {}

  tick(nowMs: number): void {
    if (this.#pingAckByMs !== NEVER && nowMs >= this.#pingAckByMs) this.destroy("a PING was not answered in time");
    else if (nowMs >= this.#pingAtMs) this.#keepAlive(Math.ceil(nowMs));
  }

  #keepAlive(nowMs: number): void {
    const { pingMs, pingAckMs } = this.context.options;
    const sinceMs = this.#lookedAtMs === NEVER ? pingMs : nowMs - this.#lookedAtMs;
    this.#lookedAtMs = nowMs;
    this.#pingAtMs = nowMs + pingMs;
    this.look(sinceMs);
    if (this.over) return;
    if (this.#heard || this.#pingAckByMs !== NEVER) {
      this.#heard = false;
      return;
    }
    this.sendPing();
    this.#pingAckByMs = nowMs + pingAckMs;
  }

  settingsAcknowledged(): void {
    this.bill(1, "SETTINGS");
    if (this.settled) return;
    this.settled = true;
    this.#cancelSettings?.();
    this.#cancelSettings = undefined;
    this.#decoder?.setLimit(this.context.options.headerTableBytes);
  }

  settings(bytes: Buffer, start: number, end: number): void {
    this.bill(COST_OF_SETTINGS, "SETTINGS");
    if (this.over) return;
    this.#newWindow = this.peerInitialWindow;
    settings.readSettings(bytes, start, end, (setting, value) => this.#applySetting(setting, value));
    if (this.over) return;
    this.output.frame(settingsAck);
    this.#moveWindows();
    this.#checkControls();
  }

  #applySetting(setting: number, value: number): void {
    if (this.over) return;
    const error = settings.settingError(setting, value);
    if (error !== 0) {
      this.fail(error, `setting ${setting} of ${value}`);
      return;
    }
    switch (setting) {
      case settings.HEADER_TABLE_SIZE:
        if (this.#encoder !== undefined || value !== TABLE_DEFAULT) this.encoder.setLimit(value);
        return;
      case settings.INITIAL_WINDOW_SIZE:
        this.#newWindow = value;
        return;
      case settings.MAX_CONCURRENT_STREAMS:
        this.peerStreamsMax = value;
        return;
      case settings.ENABLE_PUSH:
        this.peerPush(value);
        return;
      case settings.ENABLE_CONNECT_PROTOCOL:
        this.peerProtocols(value);
        return;
      case settings.CERTIFICATE_PROOFS:
        this.#peerTakesProofs(value);
        return;
      default:
      // Larger frames and lists are allowed, not asked for; what is unknown is ignored.
    }
  }

  /** Only a client may allow pushes (RFC 9113, 6.5.2); we push none. */
  protected peerPush(_value: number): void {}

  /** Only a server's word means something (RFC 8441, 3). */
  protected peerProtocols(_value: number): void {}

  /** Once per frame, whatever stood in it: a frame has room for 2,730 changes. */
  #moveWindows(): void {
    const by = this.#newWindow - this.peerInitialWindow;
    if (by === 0) return;
    this.peerInitialWindow = this.#newWindow;
    if (!this.sending.moveWindows(by)) this.fail(frames.FLOW_CONTROL_ERROR, "a window above its maximum by a setting");
  }

  broken(code: number, because: string): void {
    this.fail(code, because);
  }

  abstract goaway(lastStreamId: number, code: number): void;

  streamReset(streamId: number, code: number): void {
    const stream = this.streams.get(streamId);
    if (stream === undefined) {
      if (this.isIdle(streamId)) this.fail(frames.PROTOCOL_ERROR, "RST_STREAM on an idle stream");
      else this.bill(1, "RST_STREAM on a closed stream");
      return;
    }
    const loss = this.lossOfReset(stream, code);
    this.close(stream, RESET_BY_PEER);
    stream.events.aborted(loss);
    this.billReset();
  }

  protected abstract lossOfReset(stream: Http2Stream, code: number): Loss;
}
