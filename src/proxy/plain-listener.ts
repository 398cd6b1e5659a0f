import { createServer, type Server, type Socket } from "node:net";
import { HauberkError } from "../base/errors.ts";
import type { ServerConnection } from "../transport/exchange.ts";
import { lendReads, type LentReads } from "../transport/lent-reads.ts";
import { listenPrivately } from "../transport/private-socket.ts";

/** Where the workload connects: a loopback port, or a Unix socket that only this user may open. */
export type PlainAddress =
  /** `orFree`: where the port is taken, any free one will do. */
  { readonly host: string; readonly port: number; readonly orFree?: boolean } | { readonly path: string };

export interface PlainTerms {
  readonly address: PlainAddress;
  /** Whether other processes of this user may listen on the port too. */
  readonly shared?: boolean | undefined;
  readonly connectionsMax: number;
  /** `reads` where the socket has no buffers of its own. */
  serve(socket: Socket, reads: LentReads | undefined): ServerConnection;
  /** A connection over the limit was closed unread. */
  onDropped(): void;
  /** What serves connections threw as one was made: it is closed, and this is for the log. */
  onFault(thrown: unknown): void;
}

/**
 * A listener for the workload's own connections. TLS is no use here: who can connect to it is the workload.
 * @throws HauberkError PORT_TAKEN, UNAVAILABLE
 */
export class PlainListener {
  readonly #terms: PlainTerms;
  readonly #server: Server;
  readonly #connections = new Set<ServerConnection>();
  #emptied: (() => void) | undefined;

  private constructor(terms: PlainTerms) {
    this.#terms = terms;
    // Half open: a client that has sent its request whole may close its side and still read the answer.
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
      try {
        this.#accept(socket);
      } catch (thrown) {
        this.#terms.onFault(thrown);
        socket.destroy();
      }
    });
  }

  static async open(terms: PlainTerms): Promise<PlainListener> {
    const { address } = terms;
    try {
      return await PlainListener.#openAt(terms, address);
    } catch (thrown) {
      const taken = thrown instanceof HauberkError && thrown.code === "PORT_TAKEN";
      if (!taken || "path" in address || address.orFree !== true) throw thrown;
      return PlainListener.#openAt(terms, { host: address.host, port: 0 });
    }
  }

  static async #openAt(terms: PlainTerms, address: PlainAddress): Promise<PlainListener> {
    const listener = new PlainListener(terms);
    await listener.#listen(address);
    return listener;
  }

  /** 0 for a Unix socket. */
  get port(): number {
    const address = this.#server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  get connections(): number {
    return this.#connections.size;
  }

  /** Accepts no more, lets what is under way end within `withinMs`, and resolves when everything is closed. */
  close(withinMs: number): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => this.#whenEmpty(resolve)));
    for (const connection of this.#connections) {
      if (withinMs > 0) connection.drain(withinMs);
      else connection.destroy("the sidecar stops");
    }
    return closed;
  }

  /** The server does not count: the sockets that it knows live only until their handles have moved. */
  #accept(accepted: Socket): void {
    if (this.#connections.size >= this.#terms.connectionsMax) {
      accepted.on("error", () => undefined);
      accepted.destroy();
      this.#terms.onDropped();
      return;
    }
    const { socket, reads } = lendReads(accepted) ?? { socket: accepted, reads: undefined };
    const connection = this.#serve(socket, reads);
    if (connection === undefined) return;
    this.#connections.add(connection);
    socket.once("close", () => {
      this.#connections.delete(connection);
      if (this.#connections.size === 0) this.#emptied?.();
    });
  }

  #serve(socket: Socket, reads: LentReads | undefined): ServerConnection | undefined {
    try {
      return this.#terms.serve(socket, reads);
    } catch (thrown) {
      this.#terms.onFault(thrown);
      socket.on("error", () => undefined);
      socket.destroy();
      return undefined;
    }
  }

  #whenEmpty(then: () => void): void {
    if (this.#connections.size === 0) then();
    else this.#emptied = then;
  }

  async #listen(address: PlainAddress): Promise<void> {
    const where = "path" in address ? address.path : `${address.host}:${address.port}`;
    try {
      if ("path" in address) await listenPrivately(this.#server, address.path);
      else await this.#listenOnPort(address);
    } catch (thrown) {
      throw cannotListen(thrown as NodeJS.ErrnoException, where);
    }
    // Later ones are of accepting: a connection is lost, the listener stays.
    this.#server.on("error", () => undefined);
  }

  #listenOnPort(address: { readonly host: string; readonly port: number }): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen({ ...address, reusePort: this.#terms.shared === true }, () => {
        this.#server.off("error", reject);
        resolve();
      });
    });
  }
}

function cannotListen(error: NodeJS.ErrnoException, where: string): HauberkError {
  return error.code === "EADDRINUSE"
    ? new HauberkError(
        "PORT_TAKEN",
        `Cannot listen on ${where}: it is in use`,
        "Choose another port, or end what listens there",
        error,
      )
    : new HauberkError(
        "UNAVAILABLE",
        `Cannot listen on ${where}: ${error.message}`,
        "Choose an address of this machine, or a path in a folder of your own",
        error,
      );
}
