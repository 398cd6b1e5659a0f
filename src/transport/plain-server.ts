import type { Socket } from "node:net";
import type { Clock } from "../base/clock.ts";
import type { OptionValues } from "../base/options.ts";
import type { Random } from "../base/random.ts";
import type { ConnectionFacts, Handler, ServerConnection } from "./exchange.ts";
import { connectionRefusal, refusalText } from "./http1-refusal.ts";
import { serveHttp1 } from "./http1-server.ts";
import { Ticker, type Ticking } from "./http1-ticker.ts";
import type { RoomShare } from "./body-room.ts";
import type { http2Options } from "./http2-options.ts";
import { serveHttp2 } from "./http2-server.ts";
import type { LentReads } from "./lent-reads.ts";
import type { http1Options } from "./options.ts";
import { sniffProtocol } from "./sniff.ts";

export interface PlainServerContext {
  readonly clock: Clock;
  readonly random?: Random;
  readonly http1: OptionValues<typeof http1Options>;
  readonly http2: OptionValues<typeof http2Options>;
  readonly room?: RoomShare | undefined;
  /** Bytes that were read from the socket already. */
  readonly first?: Buffer | undefined;
  /** What the socket reads with, where it has no buffers of its own. */
  readonly reads?: LentReads;
  /** Something of ours threw: it cost one exchange, or the connection, and this is for the log. */
  readonly onFault?: (thrown: unknown) => void;
}

/**
 * Serves what a plain connection speaks by itself, HTTP/1.1 or HTTP/2 with prior knowledge (RFC 9113, 3.3). Its first bytes
 * say which: they are waited for as long as for any head of a request, and nothing is guessed from silence.
 */
export function servePlain(
  socket: Socket,
  facts: Omit<ConnectionFacts, "protocol">,
  handler: Handler,
  context: PlainServerContext,
): ServerConnection {
  return new PlainServer(socket, facts, handler, context);
}

const nothing = Buffer.alloc(0);

class PlainServer implements ServerConnection, Ticking {
  readonly #socket: Socket;
  readonly #facts: Omit<ConnectionFacts, "protocol">;
  readonly #handler: Handler;
  readonly #context: PlainServerContext;
  readonly #ticker: Ticker;
  #deadlineMs: number;
  /** What came so far, while it says too little. */
  #first = nothing;
  #served: ServerConnection | undefined = undefined;

  constructor(socket: Socket, facts: Omit<ConnectionFacts, "protocol">, handler: Handler, context: PlainServerContext) {
    this.#socket = socket;
    this.#facts = facts;
    this.#handler = handler;
    this.#context = context;
    this.#ticker = Ticker.of(context.clock);
    this.#ticker.add(this);
    this.#deadlineMs = this.#ticker.deadline(context.http1.idleMs);
    if (context.reads === undefined) socket.on("data", this.#read);
    else {
      context.reads.to(this.#read);
      socket.resume(); // Nobody hears "data", and the end is to be heard all the same.
    }
    socket.on("end", this.#ended);
    // `close` follows every error, and says what there is to say.
    socket.on("error", ignore);
    socket.on("close", this.#closed);
    if (context.first !== undefined && context.first.length > 0) this.#read(context.first);
    if (socket.isPaused()) socket.resume(); // Whoever read the first bytes may have stopped there.
  }

  get exchanges(): number {
    return this.#served?.exchanges ?? 0;
  }

  drain(withinMs: number): void {
    if (this.#served === undefined) this.#socket.destroy();
    else this.#served.drain(withinMs);
  }

  destroy(because: string): void {
    if (this.#served === undefined) this.#socket.destroy();
    else this.#served.destroy(because);
  }

  tick(nowMs: number): void {
    if (nowMs < this.#deadlineMs) return;
    this.#ticker.remove(this);
    if (this.#first.length > 0) {
      const because = `its head took more than ${this.#context.http1.headersMs} ms`;
      this.#socket.write(refusalText(connectionRefusal("REQUEST_TIMEOUT", because)));
    }
    this.#socket.destroySoon();
  }

  broke(thrown: unknown): void {
    this.#context.onFault?.(thrown);
    this.#leave();
    this.#socket.on("error", ignore);
    this.#socket.destroy();
  }

  readonly #read = (chunk: Buffer): void => {
    try {
      this.#judge(chunk);
    } catch (thrown) {
      this.broke(thrown);
    }
  };

  #judge(chunk: Buffer): void {
    // Copied: the bytes may be lent, and are kept by whoever serves them.
    const first = this.#first.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#first, chunk]);
    const protocol = sniffProtocol(first);
    if (protocol !== undefined) {
      this.#leave();
      this.#first = nothing;
      this.#serve(protocol, first);
      return;
    }
    if (this.#first.length === 0) this.#deadlineMs = this.#ticker.deadline(this.#context.http1.headersMs);
    this.#first = first;
  }

  #serve(protocol: ConnectionFacts["protocol"], first: Buffer): void {
    const { clock, random, http1, http2, room, reads, onFault } = this.#context;
    const facts: ConnectionFacts = { ...this.#facts, protocol };
    const lent = reads === undefined ? {} : { reads };
    if (protocol === "h2") {
      const context = {
        clock,
        options: http2,
        room,
        onClosed: ignore,
        onFault,
        ...lent,
        ...(random === undefined ? {} : { random }),
      };
      this.#served = serveHttp2(this.#socket, facts, this.#handler, context, first);
      return;
    }
    const faults = onFault === undefined ? {} : { onFault };
    this.#served = serveHttp1(this.#socket, facts, this.#handler, { clock, options: http1, first, ...lent, ...faults });
  }

  readonly #ended = (): void => {
    this.#socket.destroy();
  };

  readonly #closed = (): void => {
    this.#leave();
  };

  /** From here on somebody else listens to the socket, or nobody. */
  #leave(): void {
    this.#ticker.remove(this);
    const socket = this.#socket;
    socket.off("data", this.#read);
    socket.off("end", this.#ended);
    socket.off("close", this.#closed);
    socket.off("error", ignore);
  }
}

function ignore(): void {
  // Nothing is to be done.
}
