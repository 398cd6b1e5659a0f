import type { Socket } from "node:net";

/** Up to here a chunk is cheaper as text behind its head, in one write, than as a part of a vectored write (measured). */
const joinBytesMax = 8192;
/** More than this does not wait for the end of the turn. */
const flushBytes = 65_536;

let planned: Http1Writer[] = [];
let isPlanned = false;

/** One immediate for all sockets of a turn: what was written piece by piece leaves together. */
function flushPlanned(): void {
  isPlanned = false;
  const writers = planned;
  planned = [];
  for (const writer of writers) writer.flush();
}

/** Gathers what one turn of the event loop produces for a socket, and writes it at once. */
export class Http1Writer {
  /** How often something was handed to the socket, and how much the last time. */
  flushes = 0;
  lastFlushBytes = 0;
  readonly #socket: Socket;
  readonly #parts: (string | Buffer)[] = [];
  #text = "";
  #bytes = 0;
  #planned = false;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** latin1. */
  text(text: string): void {
    this.#text += text;
    this.#bytes += text.length;
  }

  chunk(chunk: Buffer): void {
    this.#bytes += chunk.length;
    if (this.#bytes <= joinBytesMax) {
      this.#text += chunk.toString("latin1");
      return;
    }
    if (this.#text !== "") this.#parts.push(this.#text);
    this.#text = "";
    this.#parts.push(chunk);
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

  flush(): void {
    this.#planned = false;
    if (this.#bytes === 0) return;
    const socket = this.#socket;
    const text = this.#text;
    const bytes = this.#bytes;
    this.#text = "";
    this.#bytes = 0;
    const parts = this.#parts.length === 0 ? undefined : this.#parts.splice(0);
    if (!socket.writable) return;
    this.flushes++;
    this.lastFlushBytes = bytes;
    if (parts === undefined) {
      socket.write(text, "latin1");
      return;
    }
    if (text !== "") parts.push(text);
    socket.cork();
    for (const part of parts) {
      if (typeof part === "string") socket.write(part, "latin1");
      else socket.write(part);
    }
    socket.uncork();
  }

  /** The socket holds more than it wants to; `drain` will follow. */
  get full(): boolean {
    return this.#socket.writableNeedDrain;
  }
}
