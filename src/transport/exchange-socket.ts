import type { Socket } from "node:net";
import { Duplex } from "node:stream";
import type { BodyEvents, Loss, ServerExchange } from "./exchange.ts";
import { HeldBytes } from "./held-bytes.ts";
import { writeLent } from "./lent-reads.ts";

const bufferBytes = 65_536;

/** What the client had sent before the tunnel was served: taken off its window when it is read, as all the rest. */
export interface EarlyBytes {
  readonly chunks: Iterable<Buffer>;
  readonly ended: boolean;
}

const nothingYet: EarlyBytes = { chunks: [], ended: false };

/**
 * An opened tunnel as a socket, for what serves sockets: HTTP inside of a CONNECT. Backpressure passes through both ways, and
 * ending or destroying it does the same to the tunnel. Of a socket's own members it has those that server connections use.
 */
export function socketOf(exchange: ServerExchange, early: EarlyBytes = nothingYet): Socket {
  return new ExchangeSocket(exchange, early) as unknown as Socket;
}

class ExchangeSocket extends Duplex {
  bytesWritten = 0;
  readonly #exchange: ServerExchange;
  /** Handed to the stream, and not yet taken off the client's window. */
  #owed = 0;
  /** What came while nobody read: a stream would keep an object for each chunk, however small. */
  #held: HeldBytes | undefined = undefined;
  #onDrained: (() => void) | undefined = undefined;
  #over = false;

  constructor(exchange: ServerExchange, early: EarlyBytes) {
    super({ allowHalfOpen: true, readableHighWaterMark: bufferBytes, writableHighWaterMark: bufferBytes });
    this.#exchange = exchange;
    const events: BodyEvents = {
      data: (chunk) => this.#take(chunk, false),
      lent: (chunk) => this.#take(chunk, true),
      end: () => {
        this.#release();
        this.push(null);
      },
      aborted: (loss) => this.#aborted(loss),
      drained: () => this.#drained(),
    };
    exchange.listen(events);
    for (const chunk of early.chunks) events.data(chunk);
    if (early.ended) events.end(undefined);
  }

  /** As of a socket: ends what is written, then everything. */
  destroySoon(): void {
    if (this.writable) this.end();
    if (this.writableFinished) this.destroy();
    else this.once("finish", () => this.destroy());
  }

  resetAndDestroy(): this {
    return this.destroy();
  }

  override resume(): this {
    this.#release();
    return super.resume();
  }

  #take(chunk: Buffer, lent: boolean): void {
    this.#owed += chunk.length;
    if (this.isPaused()) (this.#held ??= new HeldBytes()).add(chunk, lent);
    else this.push(lent ? Buffer.from(chunk) : chunk);
  }

  #release(): void {
    const held = this.#held;
    this.#held = undefined;
    for (const chunk of held ?? []) this.push(chunk);
  }

  override _read(): void {
    if (this.#held !== undefined) return; // Not read yet, only asked for ahead.
    const owed = this.#owed;
    this.#owed = 0;
    if (owed > 0) this.#exchange.consume(owed);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error) => void): void {
    this.bytesWritten += chunk.length;
    // Whoever wrote the chunk may use its buffer again as soon as it is told that it was written: it is lent, not given.
    let room: boolean;
    try {
      room = this.#over || writeLent(this.#exchange, chunk);
    } catch (thrown) {
      done(thrown as Error); // Ends this socket: a stream's own callbacks have nobody who would catch it.
      return;
    }
    if (room) done();
    else this.#onDrained = done;
  }

  override _final(done: () => void): void {
    if (!this.#over) this.#exchange.end();
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    const whole = this.writableFinished && this.readableEnded;
    if (!this.#over && !whole) this.#exchange.abort({ kind: "cancelled", because: "its server ended the connection" });
    this.#over = true;
    this.#held = undefined;
    done(error);
  }

  #aborted({ because }: Loss): void {
    this.#over = true;
    this.destroy(new Error(because));
  }

  #drained(): void {
    const then = this.#onDrained;
    this.#onDrained = undefined;
    then?.();
  }
}
