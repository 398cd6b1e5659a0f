import type { Socket } from "node:net";
import type { Clock } from "../base/clock.ts";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import type { ServerConnection } from "../transport/exchange.ts";
import type { LentReads } from "../transport/lent-reads.ts";
import { resetSocket } from "../transport/tcp-server.ts";
import { unknownService } from "./refusals.ts";
import type { Service } from "./snapshot.ts";

/** What a connection to `--to SERVICE=PORT` is given beside its socket. */
export interface ServiceTerms {
  /** `redis.default` */
  readonly service: string;
  /** The port that the listener names; undefined for the first one that the service registered. */
  readonly port: number | undefined;
  readonly clock: Clock;
  /** Calls once, at once where the service is known already: discovery asks one question, whatever the protocol. */
  find(found: (answer: Service | null | Refusal) => void): void;
  /** `first` is what was read already. */
  serveHttp(use: Accepted): ServerConnection;
  serveTcp(use: Accepted, port: number): ServerConnection;
  /** The connection is reset without a word. */
  onRefused(refusal: Refusal): void;
  /** Something of ours threw: the connection is closed, and this is for the log. */
  onFault(thrown: unknown): void;
}

export interface Accepted {
  readonly socket: Socket;
  /** Where the socket has no buffers of its own. */
  readonly reads: LentReads | undefined;
  readonly first: Buffer | undefined;
}

/** Silence is what clients of TCP wait in for a server that speaks first: it is not drawn out. */
const silentMs = 3_000;
/** No honest request line is longer. */
const lineBytesMax = 8_192;

/**
 * A connection to one service, of which only discovery knows whether it speaks HTTP: a tunnel is opened at once for TCP, where
 * the server may speak first, and HTTP is served by the first bytes. Where nobody can say, because the service is unknown or
 * has no endpoint, a client that speaks HTTP hears so in HTTP, and any other is reset.
 */
export function serveService(socket: Socket, reads: LentReads | undefined, terms: ServiceTerms): ServerConnection {
  return new ServiceConnection(socket, reads, terms);
}

class ServiceConnection implements ServerConnection {
  readonly #socket: Socket;
  readonly #reads: LentReads | undefined;
  readonly #terms: ServiceTerms;
  #served: ServerConnection | undefined = undefined;
  #first: Buffer | undefined = undefined;
  /** Why nobody knows the protocol, while the client's first bytes are awaited. */
  #unsure: Refusal | undefined = undefined;
  #listens = false;
  #over = false;
  #cancel: (() => void) | undefined = undefined;

  constructor(socket: Socket, reads: LentReads | undefined, terms: ServiceTerms) {
    this.#socket = socket;
    this.#reads = reads;
    this.#terms = terms;
    terms.find((answer) => this.#guarded(() => this.#found(answer)));
    if (this.#served === undefined && this.#unsure === undefined) this.#listen();
  }

  get exchanges(): number {
    return this.#served?.exchanges ?? 0;
  }

  drain(withinMs: number): void {
    if (this.#served === undefined) this.destroy("the sidecar stops");
    else this.#served.drain(withinMs);
  }

  destroy(because: string): void {
    this.#over = true;
    if (this.#served === undefined) this.#socket.destroy();
    else this.#served.destroy(because);
  }

  #found(answer: Service | null | Refusal): void {
    if (this.#over) return;
    const { service, port: wanted } = this.#terms;
    const known = answer === null || isRefusal(answer) ? undefined : answer;
    const port = wanted ?? known?.endpoints.find((endpoint) => endpoint.ports.length > 0)?.ports[0]?.port;
    const protocol = port === undefined ? undefined : known?.ports.get(port);
    if (port !== undefined && protocol === "tcp") {
      this.#hand((use) => this.#terms.serveTcp(use, port));
    } else if (protocol !== undefined) {
      this.#hand((use) => this.#terms.serveHttp(use));
    } else {
      this.#unsure = isRefusal(answer) ? answer : answer === null ? unknownService(service) : noPort(service, wanted);
      this.#waitForBytes();
    }
  }

  /** Nothing is read while discovery is asked; but a read may be under way. */
  #listen(): void {
    if (this.#listens) return;
    this.#listens = true;
    const socket = this.#socket;
    if (this.#reads === undefined) socket.on("data", this.#read);
    else this.#reads.to(this.#read);
    socket.on("error", ignore);
    socket.on("end", this.#ended);
    socket.on("close", this.#closed);
    socket.pause();
  }

  #waitForBytes(): void {
    this.#listen();
    this.#cancel = this.#terms.clock.after(silentMs, () => this.#guarded(() => this.#refuse()));
    if (this.#first !== undefined) this.#judge(this.#first);
    else this.#socket.resume();
  }

  readonly #read = (chunk: Buffer): void => {
    // Copied: the bytes may be lent, and are kept by whoever serves them.
    this.#first = this.#first === undefined ? Buffer.from(chunk) : Buffer.concat([this.#first, chunk]);
    if (this.#unsure === undefined) return;
    try {
      this.#judge(this.#first);
    } catch (thrown) {
      this.#broke(thrown);
    }
  };

  #guarded(task: () => void): void {
    try {
      task();
    } catch (thrown) {
      this.#broke(thrown);
    }
  }

  #broke(thrown: unknown): void {
    this.#terms.onFault(thrown);
    this.#cancel?.();
    this.destroy("a bug");
  }

  #judge(first: Buffer): void {
    const http = speaksHttp(first);
    if (http === true) this.#hand((use) => this.#terms.serveHttp(use));
    else if (http === false) this.#refuse();
    else this.#socket.resume();
  }

  #hand(serve: (use: Accepted) => ServerConnection): void {
    this.#leave();
    const socket = this.#socket;
    if (socket.destroyed) return;
    this.#served = serve({ socket, reads: this.#reads, first: this.#first });
    this.#first = undefined;
  }

  #refuse(): void {
    if (this.#over) return;
    this.#over = true;
    this.#cancel?.();
    this.#terms.onRefused(this.#unsure as Refusal);
    resetSocket(this.#socket);
  }

  readonly #ended = (): void => {
    if (this.#unsure !== undefined) this.#guarded(() => this.#refuse());
  };

  readonly #closed = (): void => {
    this.#over = true;
    this.#cancel?.();
  };

  #leave(): void {
    this.#cancel?.();
    if (!this.#listens) return;
    const socket = this.#socket;
    socket.off("data", this.#read);
    socket.off("end", this.#ended);
    socket.off("close", this.#closed);
    socket.off("error", ignore);
  }
}

/** Whether the bytes begin a request line, or HTTP/2; undefined where they are too few to say. */
function speaksHttp(first: Buffer): boolean | undefined {
  const end = first.indexOf(0x0a);
  const text = first.toString(
    "latin1",
    0,
    end < 0 ? Math.min(first.length, lineBytesMax) : Math.min(end, lineBytesMax),
  );
  if (end >= 0 || text.length >= lineBytesMax) return /^[A-Z]{3,20} \S+ HTTP\/[12]\.\d\r?$/.test(text);
  return /^[A-Z]{1,20}(?: \S*(?: [HTP/12.0-9]*\r?)?)?$/.test(text) ? undefined : false;
}

function noPort(service: string, port: number | undefined): Refusal {
  return refuse(
    "NO_ENDPOINT",
    `Cannot connect to "${service}": ${port === undefined ? "no instance of it is registered" : `no instance of it offers port ${port}`}`,
    "Start the service with its sidecar: hauberk run --service NAME --app tcp:PORT -- COMMAND; where one runs, hauberk check says what it lacks",
  );
}

function ignore(): void {
  // Nothing is to be done.
}
