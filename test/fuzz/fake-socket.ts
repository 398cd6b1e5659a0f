import { EventEmitter } from "node:events";
import type { Socket } from "node:net";

/** A socket whose other end is the test: what is written is kept, what is said arrives at once, in any pieces. */
export class FakeSocket extends EventEmitter {
  destroyed = false;
  writableEnded = false;
  readonly readableEnded = false;
  readonly allowHalfOpen = true;
  readonly writableNeedDrain = false;
  readonly writableLength = 0;
  bytesWritten = 0;
  readonly written: Buffer[] = [];
  /** Called for what is written; by default it has left at once, which the writer hears in a later turn. */
  onWrite: ((bytes: Buffer, left: () => void) => void) | undefined;
  #paused = false;

  /** As what engines are given: they use no more of a socket than is here. */
  get socket(): Socket {
    return this as unknown as Socket;
  }

  get writable(): boolean {
    return !this.destroyed && !this.writableEnded;
  }

  /** Says something, as long as it is listened to; false where it no longer is. */
  say(bytes: Buffer): boolean {
    if (this.destroyed || this.#paused) return false;
    this.emit("data", bytes);
    return true;
  }

  isPaused(): boolean {
    return this.#paused;
  }
  pause(): this {
    this.#paused = true;
    return this;
  }
  resume(): this {
    this.#paused = false;
    return this;
  }
  cork(): void {}
  uncork(): void {}
  setNoDelay(): this {
    return this;
  }
  unshift(bytes: Buffer): void {
    this.emit("data", bytes);
  }
  write(chunk: Buffer | string, encoding?: BufferEncoding | (() => void), done?: () => void): boolean {
    const bytes = typeof chunk === "string" ? Buffer.from(chunk, encoding as BufferEncoding) : chunk;
    const left = typeof encoding === "function" ? encoding : done;
    this.bytesWritten += bytes.length;
    if (this.onWrite !== undefined) this.onWrite(bytes, left ?? (() => undefined));
    else this.written.push(Buffer.from(bytes));
    return true;
  }
  end(): this {
    this.writableEnded = true;
    return this;
  }
  destroy(): this {
    if (this.destroyed) return this;
    this.destroyed = true;
    this.emit("close");
    return this;
  }
  destroySoon(): this {
    return this.destroy();
  }
  resetAndDestroy(): this {
    return this.destroy();
  }
}
