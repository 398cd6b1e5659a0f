import type { Fields, RequestHead, ResponseHead } from "../http/message.ts";
import type { Certificate } from "../x509/certificate.ts";
import type { SpiffeId } from "../base/spiffe-id.ts";

/**
 * One request and its response on a connection, whatever the protocol: plain calls, no stream objects.
 *
 * Rules that both sides keep:
 * - A connection calls `events` synchronously while it reads a socket; whoever is called may call back at once.
 * - Chunks belong to the receiver from the moment they are handed over: they may be kept and passed on uncopied.
 * - Backpressure: the receiver of `data` calls `consume(bytes)` when the bytes have left it again; a connection never
 *   lets more than its window of unconsumed bytes arrive. `write` returns false when the sender should stop until `drained`;
 *   it still takes the chunk.
 * - After `aborted`, or after both directions ended, nothing is called any more, and calls on the exchange do nothing.
 *
 * Tunnels are exchanges too: a CONNECT that is answered with 2xx (RFC 9110, 9.3.6), and a request with `head.upgrade` that
 * is answered with 101, whatever the version of the protocol has on its wire (200 in HTTP/2: RFC 8441). From then on `write`
 * and `data` carry the bytes of the tunnel, and `end`, without trailers, half-closes one direction: the exchange is over
 * when both have ended. Before the answer no byte of a tunnel is delivered upwards or sent to the routee. Any other answer
 * is an ordinary one, and what the client sends is no tunnel.
 */
export interface BodyEvents {
  data(chunk: Buffer): void;
  /** The same for a chunk that is good only until the call returns: what is kept of it is copied. Without it, `data` gets a copy. */
  lent?(chunk: Buffer): void;
  end(trailers: Fields | undefined): void;
  /** The exchange is over before its end. Nothing follows. */
  aborted(loss: Loss): void;
  /** Writing may go on. */
  drained(): void;
}

/** How an exchange was lost, as far as its other end can be known to have seen it. */
export interface Loss {
  /**
   * - `unprocessed`: the other side provably did nothing with it (connect failure, REFUSED_STREAM, GOAWAY above the last
   *   stream, the connection ended before one byte of it was written).
   * - `lost`: the connection ended, or the stream was reset, and nobody knows.
   * - `cancelled`: the other side wants no more of it (CANCEL, client went away).
   * - `invalid`: the other side broke the protocol.
   */
  readonly kind: "unprocessed" | "lost" | "cancelled" | "invalid";
  /** For logs: what was seen. */
  readonly because: string;
  /** The same for every exchange that ended because one connection did; undefined where the exchange alone ended. */
  readonly whole?: object;
}

interface Body {
  /** Takes the chunk; false asks to wait for `drained`. */
  write(chunk: Buffer): boolean;
  /** The same for a chunk that is good only until the call returns. Without it, `write` gets a copy. */
  writeLent?(chunk: Buffer): boolean;
  end(trailers?: Fields): void;
  /** Says that `bytes` of received body have left the receiver. */
  consume(bytes: number): void;
}

/** A request that a server connection received. */
export interface ServerExchange extends Body {
  readonly head: RequestHead;
  /** The request has no body: `events.end` will not be called. */
  readonly bodyless: boolean;
  readonly connection: ConnectionFacts;
  /** Called once, synchronously by the handler: who hears of the request's body and of its loss. */
  listen(events: BodyEvents): void;
  /** An interim answer, 100 to 199 without 101. */
  inform(head: ResponseHead): void;
  /** The answer's head; `end` where no body follows. Content-Length or chunking is written from `head.bodyLength`. */
  respond(head: ResponseHead, end: boolean): void;
  /** Gives the exchange up: RST_STREAM in HTTP/2, the end of the connection in HTTP/1. */
  abort(loss: Loss): void;
  /**
   * Keeps the exchange counted against the peer's limit, also after it was aborted, until what is returned is called.
   * For a handler that cannot stop its work at once: else resets would buy unlimited work (CVE-2023-44487).
   * Absent where one connection carries one exchange.
   */
  hold?(): () => void;
}

/** What is known about the peer of a connection. */
export interface ConnectionFacts {
  readonly protocol: "http/1.1" | "h2" | "tcp";
  /** The peer's address as text, without a port; "" for a Unix socket. */
  readonly remoteAddress: string;
  /** The port at which the connection arrived. */
  readonly localPort: number;
  /** Proven by TLS and by our own check; undefined on plain listeners. */
  readonly peer: PeerIdentity | undefined;
}

export interface PeerIdentity {
  readonly id: SpiffeId;
  readonly leaf: Certificate;
}

export interface ResponseEvents extends BodyEvents {
  informed(head: ResponseHead): void;
  /** `end` says that no body follows and `events.end` will not be called. */
  head(head: ResponseHead, end: boolean): void;
}

/** A request that was sent on a client connection. */
export interface ClientExchange extends Body {
  /** Wants no more of it: RST_STREAM(CANCEL), or the end of an HTTP/1 connection. */
  abort(loss: Loss): void;
}

export interface ClientConnection {
  readonly protocol: "http/1.1" | "h2";
  /** Open exchanges; `request` refuses above `exchangesMax`. */
  readonly exchanges: number;
  readonly exchangesMax: number;
  /** False from GOAWAY, drain or the end of the socket on: no new request is taken. */
  readonly open: boolean;
  /** Sends a request; undefined when it cannot take one now (nothing of it was written). */
  request(head: RequestHead, end: boolean, events: ResponseEvents): ClientExchange | undefined;
  /** Takes no new request, lets those under way end (at most `withinMs`), then closes. Called again: the last time counts. */
  drain(withinMs: number): void;
  destroy(because: string): void;
}

export interface ServerConnection {
  readonly exchanges: number;
  /**
   * Says goodbye (GOAWAY, Connection: close), lets what is under way end (at most `withinMs`), then closes. Called again: the
   * last time counts.
   */
  drain(withinMs: number): void;
  destroy(because: string): void;
}

export type Handler = (exchange: ServerExchange) => void;
