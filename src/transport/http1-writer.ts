import type { Socket } from "node:net";
import { giveBackSegment, lendSegment } from "./segments.ts";

/** Up to here a chunk is cheaper as text behind its head, in one write, than as a part of a vectored write (measured). */
const joinBytesMax = 8192;
/** A chunk up to here takes less time and room as bytes of a segment than as an object. */
const keptBytesMin = 1024;
/** More than this does not wait for the end of the turn. */
const flushBytes = 65_536;

const noSegments: readonly Buffer[] = [];

let planned: Http1Writer[] = [];
let isPlanned = false;

/** One immediate for all sockets of a turn: what was written piece by piece leaves together. */
function flushPlanned(): void {
  isPlanned = false;
  const writers = planned;
  planned = [];
  for (const writer of writers) {
    try {
      writer.flushPlanned();
    } catch (thrown) {
      writer.broke(thrown); // The other sockets of this turn wait behind it.
    }
  }
}

/** Gathers what one turn of the event loop produces for a socket, and writes it at once. */
export class Http1Writer {
  /** How often something was handed to the socket, and how much the last time. */
  flushes = 0;
  lastFlushBytes = 0;
  readonly #socket: Socket;
  readonly #onFault: ((thrown: unknown) => void) | undefined;
  // What is pending, in this order: whole parts, what was copied into the segment since, and text behind it.
  #parts: (string | Buffer)[] = [];
  #segment: Buffer | undefined = undefined;
  #from = 0;
  #at = 0;
  #text = "";
  #bytes = 0;
  /** Segments that hold parts, this one included. */
  #lent: Buffer[] = [];
  #planned = false;
  /** A write waits in the socket, and says when it has left: what a turn brings meanwhile is gathered here. */
  #behind = false;

  /** `onFault` hears where a flush at the end of a turn threw, which ends the socket: for the log. */
  constructor(socket: Socket, onFault?: (thrown: unknown) => void) {
    this.#socket = socket;
    this.#onFault = onFault;
  }

  broke(thrown: unknown): void {
    this.#onFault?.(thrown);
    this.#socket.destroy();
  }

  /** latin1. */
  text(text: string): void {
    this.#text += text;
    this.#bytes += text.length;
  }

  /** `lent`: the chunk is good only until this returns. */
  chunk(chunk: Buffer, lent = false): void {
    this.#bytes += chunk.length;
    if (this.#bytes <= joinBytesMax) {
      this.#text += chunk.toString("latin1");
      return;
    }
    const small = chunk.length <= (this.#segment === undefined ? keptBytesMin : joinBytesMax);
    if (lent || small) this.#copy(chunk);
    else {
      this.#seal();
      this.#parts.push(chunk);
    }
    if (this.#bytes >= flushBytes) this.flush();
  }

  /** Flushes at the end of this turn, unless somebody does before. */
  plan(): void {
    if (this.#planned) return;
    this.#planned = true;
    planned.push(this);
    if (isPlanned) return;
    isPlanned = true;
    setImmediate(flushPlanned);
  }

  /** Handed over one by one, the few bytes of each turn would each be an object in the queue of a socket that is behind. */
  flushPlanned(): void {
    this.#planned = false;
    if (!this.#behind) this.flush();
  }

  flush(): void {
    this.#planned = false;
    if (this.#bytes === 0) return;
    const socket = this.#socket;
    const text = this.#text;
    const bytes = this.#bytes;
    this.#bytes = 0;
    if (this.#parts.length === 0 && this.#segment === undefined) {
      this.#text = "";
      if (!socket.writable) return;
      this.#count(bytes);
      this.#write(text, socket.writableLength > 0, noSegments);
      return;
    }
    this.#seal();
    const parts = this.#parts;
    const lent = this.#lent;
    this.#parts = [];
    this.#lent = [];
    this.#segment = undefined;
    if (!socket.writable) return;
    this.#count(bytes);
    const waits = socket.writableLength > 0;
    const last = parts.length - 1;
    if (last > 0) socket.cork();
    for (let i = 0; i < last; i++) this.#write(parts[i] as string | Buffer, waits);
    this.#write(parts[last] as string | Buffer, waits, lent);
    if (last > 0) socket.uncork();
  }

  /** The socket holds more than it wants to; `drain` will follow. */
  get full(): boolean {
    return this.#socket.writableNeedDrain;
  }

  #count(bytes: number): void {
    this.flushes++;
    this.lastFlushBytes = bytes;
  }

  /**
   * `waits`: the socket is behind. Text goes as bytes then: joined piece by piece, it takes many times its length until
   * somebody reads it (thirty times, for chunks of one byte). `last`: this part is the last of its flush, and these segments are free
   * once it has left.
   */
  #write(part: string | Buffer, waits: boolean, last?: readonly Buffer[]): void {
    const socket = this.#socket;
    let written: ((error?: Error | null) => void) | undefined;
    if (last !== undefined && (waits || last.length > 0)) {
      this.#behind ||= waits;
      written = (error) => this.#written(last, waits, error);
    }
    if (typeof part !== "string") socket.write(part, written);
    else if (waits) socket.write(Buffer.from(part, "latin1"), written);
    else socket.write(part, "latin1", written);
  }

  #written(lent: readonly Buffer[], waited: boolean, error: Error | null | undefined): void {
    // After an error the system may still read from them: they are left to the collector.
    if (error !== undefined && error !== null) return;
    for (const segment of lent) giveBackSegment(segment);
    if (!waited || !this.#behind) return;
    this.#behind = false;
    this.plan();
  }

  #copy(chunk: Buffer): void {
    let segment = this.#segment ?? this.#nextSegment();
    const { length } = this.#text;
    if (length > 0 && length <= segment.length - this.#at) {
      this.#at += segment.write(this.#text, this.#at, "latin1");
      this.#text = "";
    } else if (length > 0) {
      this.#seal();
    }
    for (let start = 0; start < chunk.length;) {
      if (this.#at === segment.length) {
        this.#seal();
        segment = this.#nextSegment();
      }
      const end = Math.min(chunk.length, start + segment.length - this.#at);
      chunk.copy(segment, this.#at, start, end);
      this.#at += end - start;
      start = end;
    }
  }

  #nextSegment(): Buffer {
    const segment = lendSegment();
    this.#segment = segment;
    this.#lent.push(segment);
    this.#from = 0;
    this.#at = 0;
    return segment;
  }

  /** Makes parts of what is in the segment and of the text behind it. */
  #seal(): void {
    if (this.#segment !== undefined && this.#at > this.#from) {
      this.#parts.push(this.#segment.subarray(this.#from, this.#at));
      this.#from = this.#at;
    }
    if (this.#text === "") return;
    this.#parts.push(this.#text);
    this.#text = "";
  }
}
