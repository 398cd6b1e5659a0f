import { write, writeSync } from "node:fs";
import type { Clock } from "../base/clock.ts";

export interface LogOutputTerms {
  readonly fd: number;
  readonly clock: Clock;
  /** The most that is written at a time, one larger line apart. */
  readonly writeBytes: number;
  /** Everything is written again after so many lines were lost. */
  onLost(lines: number): void;
}

/** What may wait for a reader that is slow, or for room on a disk; what comes after that is lost, and counted. */
export const waitingBytesMax = 4 * 1024 * 1024;
const againMs = 100;
/** How long the end of a process waits for a reader: so often, so long. */
const flushTries = 25;
const flushPauseMs = 20;

/**
 * Lines to a descriptor, in order, without waiting for them. A reader that does not read and a disk that is full cost lines, and
 * neither the process nor its memory (sonic-boom throws at the former, and waits for ever at the end of a process).
 */
export class LogOutput {
  readonly #terms: LogOutputTerms;
  #waiting: string[] = [];
  /** What is being written, or has to be written again. */
  #part: Buffer | undefined;
  #bytes = 0;
  #lost = 0;
  #planned = false;
  /** A write is under way. */
  #flying = false;
  #cancel: (() => void) | undefined;

  constructor(terms: LogOutputTerms) {
    this.#terms = terms;
  }

  /** Whole lines. */
  write(text: string): void {
    const bytes = Buffer.byteLength(text);
    if (this.#bytes + bytes > waitingBytesMax) {
      this.#lost += text.split("\n").length - 1;
      return;
    }
    this.#waiting.push(text);
    this.#bytes += bytes;
    if (this.#planned || this.#flying || this.#cancel !== undefined) return;
    this.#planned = true;
    // What one turn says is one write, and a last word that is flushed in its own turn is surely written.
    setImmediate(() => {
      this.#planned = false;
      if (!this.#flying && this.#cancel === undefined) this.#next();
    });
  }

  /** Writes what is held, synchronously; gives up where it is not taken. */
  flush(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    let tries = 0;
    // What flies arrives by itself.
    for (let part = this.#flying ? this.#gather() : this.#take(); part !== undefined;) {
      try {
        const written = writeSync(this.#terms.fd, part);
        this.#bytes -= written;
        part = written < part.length ? part.subarray(written) : this.#gather();
      } catch (thrown) {
        if ((thrown as NodeJS.ErrnoException).code !== "EAGAIN" || ++tries > flushTries) return this.#drop();
        Atomics.wait(pause, 0, 0, flushPauseMs);
      }
    }
    if (!this.#flying) this.#part = undefined;
  }

  #drop(): void {
    this.#waiting = [];
    if (!this.#flying) this.#part = undefined;
    this.#bytes = this.#part?.length ?? 0;
  }

  #take(): Buffer | undefined {
    return this.#part ?? this.#gather();
  }

  #gather(): Buffer | undefined {
    let text = this.#waiting.shift();
    if (text === undefined) return undefined;
    let bytes = Buffer.byteLength(text);
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      bytes += Buffer.byteLength(next);
      if (bytes > this.#terms.writeBytes) break;
      text += next;
      this.#waiting.shift();
    }
    return Buffer.from(text);
  }

  #next(): void {
    this.#part = this.#take();
    if (this.#part === undefined) {
      const lines = this.#lost;
      this.#lost = 0;
      if (lines > 0) this.#terms.onLost(lines);
      return;
    }
    this.#flying = true;
    write(this.#terms.fd, this.#part, (error, written) => {
      this.#flying = false;
      if (error === null) this.#written(written);
      else this.#cancel = this.#terms.clock.after(againMs, () => this.#again());
    });
  }

  #written(bytes: number): void {
    this.#bytes -= bytes;
    const part = this.#part;
    this.#part = part === undefined || bytes >= part.length ? undefined : part.subarray(bytes);
    this.#next();
  }

  #again(): void {
    this.#cancel = undefined;
    this.#next();
  }
}

const pause = new Int32Array(new SharedArrayBuffer(4));
