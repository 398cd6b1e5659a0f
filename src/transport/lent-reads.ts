import { Socket, type OnReadOpts, type SocketConstructorOpts } from "node:net";
import type { BodyEvents, ClientExchange, ServerExchange } from "./exchange.ts";

/**
 * Reads of plain connections into one buffer that all of them share. By default Node makes a buffer of its own for each read,
 * which costs a sidecar a tenth of its time (bench/README.md); here the bytes are lent for the length of the call,
 * and whoever wants to keep some copies them.
 */
const shared = Buffer.allocUnsafeSlow(65_536);

/** The first bytes of it, by their number: small reads have the same few lengths again and again. */
const views: (Buffer | undefined)[] = [];
const viewBytesMax = 2_048;

function viewOf(length: number): Buffer {
  return length > viewBytesMax ? shared.subarray(0, length) : (views[length] ??= shared.subarray(0, length));
}

export class LentReads {
  /** For `net.connect`, `tls.connect` or a `Socket`. */
  readonly onread: OnReadOpts;
  #reader: ((lent: Buffer) => void) | undefined = undefined;
  /** What came before anybody was there to read: over TLS, a server that speaks with the end of the handshake. */
  #early: Buffer | undefined = undefined;

  constructor() {
    this.onread = {
      buffer: shared,
      callback: (length) => {
        const lent = viewOf(length);
        if (this.#reader !== undefined) {
          this.#reader(lent);
          return true;
        }
        this.#early = this.#early === undefined ? Buffer.from(lent) : Buffer.concat([this.#early, lent]);
        return false; // Until somebody resumes the socket.
      },
    };
  }

  /** Who is told of each read from now on, of what came before at once. The socket is resumed by its reader. */
  to(reader: (lent: Buffer) => void): void {
    this.#reader = reader;
    const early = this.#early;
    this.#early = undefined;
    if (early !== undefined) reader(early);
  }
}

/** Tells of a chunk that is good only until the call returns. */
export function tellLent(events: BodyEvents, chunk: Buffer): void {
  if (events.lent === undefined) events.data(Buffer.from(chunk));
  else events.lent(chunk);
}

/** Writes a chunk that is good only until the call returns. */
export function writeLent(exchange: ServerExchange | ClientExchange, chunk: Buffer): boolean {
  return exchange.writeLent === undefined ? exchange.write(Buffer.from(chunk)) : exchange.writeLent(chunk);
}

/** A socket as Node's server made it; its handle is Node's own business, and may one day not be there. */
interface Accepted {
  _handle?: unknown;
}

/**
 * The same for an accepted connection. Node's server has no option for it, so the handle moves to a socket that has; the one
 * that it came with is ended, and with it the server's own count. Where the handle cannot be had, undefined: the
 * connection is served with reads of its own.
 */
export function lendReads(accepted: Socket): { socket: Socket; reads: LentReads } | undefined {
  const inner = accepted as unknown as Accepted;
  const handle = inner._handle;
  if (typeof handle !== "object" || handle === null || !("useUserBuffer" in handle)) return undefined;
  const reads = new LentReads();
  const { allowHalfOpen } = accepted;
  inner._handle = null;
  const socket = new Socket({ handle, onread: reads.onread, allowHalfOpen } as unknown as SocketConstructorOpts);
  accepted.destroy();
  return { socket, reads };
}
