import type { Socket } from "node:net";
import type { BodyEvents } from "./exchange.ts";
import type { Http1Writer } from "./http1-writer.ts";
import { tellLent } from "./lent-reads.ts";

/** What one read of a socket can bring beyond the point at which reading was to stop. */
const readBytesMax = 65_536;

export interface TunnelTerms {
  readonly writer: Http1Writer;
  /** Bytes that may wait for a slow receiver before reading stops. */
  readonly windowBytes: number;
  /** Both directions have ended; nothing is told any more. */
  onOver(): void;
}

/** A connection after 101, or after a 2xx to CONNECT: raw bytes both ways with backpressure, each direction ended by itself. */
export class Http1Tunnel {
  readonly #socket: Socket;
  readonly #events: BodyEvents;
  readonly #terms: TunnelTerms;
  #unconsumed = 0;
  #paused = false;
  #waiting = false;
  #readEnded = false;
  #writeEnded = false;

  constructor(socket: Socket, events: BodyEvents, terms: TunnelTerms) {
    this.#socket = socket;
    this.#events = events;
    this.#terms = terms;
    socket.allowHalfOpen = true; // Else Node would end our direction with the other one.
  }

  /** Takes reading into its own hands. */
  start(): void {
    this.#paused = this.#socket.isPaused();
    this.#steer();
  }

  /** Bytes of the other side; they belong to the tunnel, or are `lent`: good only until this returns. */
  read(chunk: Buffer, lent = false): void {
    if (this.#readEnded) return;
    this.#unconsumed += chunk.length;
    if (lent) tellLent(this.#events, chunk);
    else this.#events.data(chunk);
    this.#steer();
  }

  /** The other side has ended its direction. */
  readEnded(): void {
    if (this.#readEnded) return;
    this.#readEnded = true;
    this.#events.end(undefined);
    if (this.#writeEnded) this.#terms.onOver();
  }

  /** `lent`: the chunk is good only until this returns. */
  write(chunk: Buffer, lent = false): boolean {
    if (this.#writeEnded || chunk.length === 0) return true;
    const { writer } = this.#terms;
    writer.chunk(chunk, lent);
    writer.plan();
    this.#waiting = writer.full;
    return !this.#waiting;
  }

  end(): void {
    if (this.#writeEnded) return;
    this.#writeEnded = true;
    this.#terms.writer.flush();
    this.#socket.end();
    if (this.#readEnded) this.#terms.onOver();
  }

  consume(bytes: number): void {
    this.#unconsumed = Math.max(0, this.#unconsumed - bytes);
    if (this.#paused && this.#unconsumed < this.#terms.windowBytes / 2) this.#steer();
  }

  drained(): void {
    if (!this.#waiting) return;
    this.#waiting = false;
    if (!this.#writeEnded) this.#events.drained();
  }

  #steer(): void {
    const pause = this.#unconsumed > this.#terms.windowBytes - readBytesMax;
    if (pause === this.#paused) return;
    this.#paused = pause;
    if (pause) this.#socket.pause();
    else this.#socket.resume();
  }
}
