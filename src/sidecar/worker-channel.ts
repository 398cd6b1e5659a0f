import type { Duplex } from "node:stream";
import { isRefusal } from "../base/errors.ts";
import { LineReader } from "../contract/lines.ts";

interface ChannelTerms {
  /** The longest line that is read. */
  readonly lineBytesMax: number;
  /** The most that may wait to be taken by the other end. */
  readonly waitingBytesMax: number;
  onLine(line: string): void;
  /** Once: undefined where the other end is gone; else it says what cannot be read, or takes nothing. */
  onClosed(because: string | undefined): void;
}

/**
 * JSON lines over one socket of a pair. Node's own channel between processes reads messages of any length; this one is
 * bounded both ways.
 */
export class WorkerChannel {
  readonly #stream: Duplex;
  readonly #terms: ChannelTerms;
  #closed = false;

  constructor(stream: Duplex, terms: ChannelTerms) {
    this.#stream = stream;
    this.#terms = terms;
    const lines = new LineReader(terms.lineBytesMax);
    stream.on("data", (chunk: Buffer) => {
      const read = lines.push(chunk);
      if (isRefusal(read)) return this.#end(read.message);
      for (const line of read) {
        if (this.#closed) return;
        terms.onLine(line);
      }
    });
    stream.on("error", () => this.#end(undefined));
    stream.once("end", () => this.#end(undefined));
    stream.once("close", () => this.#end(undefined));
  }

  /** Says nothing where the channel is closed: `onClosed` has said it. */
  send(message: object): void {
    if (this.#closed) return;
    this.#stream.write(`${JSON.stringify(message)}\n`);
    if (this.#stream.writableLength > this.#terms.waitingBytesMax) this.#end("it takes nothing of what is sent");
  }

  /** Without a word to `onClosed`. */
  close(): void {
    this.#closed = true;
    this.#stream.destroy();
  }

  #end(because: string | undefined): void {
    if (this.#closed) return;
    this.close();
    this.#terms.onClosed(because);
  }
}
