import { messageOf } from "../base/errors.ts";
import type { Fields, RequestHead } from "../http/message.ts";
import type { ClientConnection, ClientExchange, Loss, ResponseEvents } from "./exchange.ts";
import { HeldBytes } from "./held-bytes.ts";
import { writeLent } from "./lent-reads.ts";

interface Wish {
  readonly head: RequestHead;
  readonly bodyless: boolean;
  readonly events: ResponseEvents;
  /** Whoever waited threw as it was told: for the log. */
  readonly onFault: ((thrown: unknown) => void) | undefined;
}

/** A request that has no connection yet: it holds what is written meanwhile, and says after the first chunk to wait. */
export class WaitingExchange implements ClientExchange {
  /** Its place among all that ever waited, where its pool counts them. */
  order = 0;
  readonly #queue: Set<WaitingExchange>;
  readonly #wish: Wish;
  #held: HeldBytes | undefined;
  #ended = false;
  #trailers: Fields | undefined;
  #exchange: ClientExchange | undefined;
  #over = false;

  /** `queue` is where it waits: it leaves by itself when nobody wants it any more. */
  constructor(queue: Set<WaitingExchange>, wish: Wish) {
    this.#queue = queue;
    this.#wish = wish;
  }

  /** False: this request wants no connection any more, or this connection takes none. */
  start(connection: ClientConnection): boolean {
    if (this.#over) return false;
    try {
      return this.#start(connection);
    } catch (thrown) {
      // What becomes of the connection is for its owner to say; who waited hears that nothing will come.
      this.fail({ kind: "lost", because: `a bug: ${messageOf(thrown)}` });
      throw thrown;
    }
  }

  #start(connection: ClientConnection): boolean {
    const { head, bodyless, events } = this.#wish;
    const exchange = connection.request(head, bodyless, events);
    if (exchange === undefined) {
      this.fail({ kind: "unprocessed", because: "the connection ended as soon as it was made" });
      return false;
    }
    this.#exchange = exchange;
    let room = true;
    const held = this.#held;
    this.#held = undefined;
    for (const chunk of held ?? []) room = exchange.write(chunk);
    if (this.#ended) exchange.end(this.#trailers);
    else if (held !== undefined && room) events.drained();
    return true;
  }

  fail(loss: Loss): void {
    if (this.#over) return;
    this.#over = true;
    this.#held = undefined;
    try {
      this.#wish.events.aborted(loss);
    } catch (thrown) {
      this.#wish.onFault?.(thrown); // The others that wait are told all the same.
    }
  }

  /** Whoever asks has its exchange in hand before it hears that nothing came of it. */
  failSoon(because: string): this {
    queueMicrotask(() => this.fail({ kind: "unprocessed", because }));
    return this;
  }

  write(chunk: Buffer): boolean {
    if (this.#exchange !== undefined) return this.#exchange.write(chunk);
    if (this.#over) return true;
    this.#hold(chunk, false);
    return false;
  }

  writeLent(chunk: Buffer): boolean {
    if (this.#exchange !== undefined) return writeLent(this.#exchange, chunk);
    if (this.#over) return true;
    this.#hold(chunk, true);
    return false;
  }

  #hold(chunk: Buffer, lent: boolean): void {
    this.#held ??= new HeldBytes();
    this.#held.add(chunk, lent);
  }

  end(trailers?: Fields): void {
    if (this.#exchange !== undefined) return this.#exchange.end(trailers);
    this.#ended = true;
    this.#trailers = trailers;
  }

  consume(bytes: number): void {
    this.#exchange?.consume(bytes);
  }

  abort(loss: Loss): void {
    if (this.#exchange !== undefined) return this.#exchange.abort(loss);
    this.#over = true;
    this.#held = undefined;
    this.#queue.delete(this);
  }
}
