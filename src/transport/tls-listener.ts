import type { AddressInfo, Socket } from "node:net";
import type { Server, TLSSocket } from "node:tls";
import type { Clock } from "../base/clock.ts";
import { HauberkError, isRefusal, messageOf, refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { Published } from "../base/published.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import type { PeerIdentity } from "./exchange.ts";
import { Handshakes } from "./handshakes.ts";
import { createServer } from "./node-tls.ts";
import type { tlsOptions } from "./options.ts";
import { isOverShare } from "../resilience/fair-share.ts";
import { provePeer, type ProvenPeer } from "./peer.ts";
import type { OnProof, ProofExchange } from "./proof.ts";
import { secureContextOptions } from "./tls-context.ts";
import { Tenure, type Carried, type OwnCertificate, type TenureEnds, type TenureTerms } from "./tls-tenure.ts";
import { inTurns } from "./turns.ts";

export interface MutualTlsTerms {
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  /** Whether other processes of this user may listen on it too (Linux's SO_REUSEPORT): the system spreads connections over them. */
  readonly shared?: boolean | undefined;
  readonly identity: Published<TlsIdentity>;
  readonly trustDomain: string;
  readonly clock: Clock;
  readonly options: OptionValues<typeof tlsOptions>;
  /** The most that one identity gets of the connections, of those that all others leave; 1, all of them, by default. */
  readonly peerShareRatio?: number;
  /** A peer was proven. What is returned is asked to drain before the connection has to end. */
  onConnection(
    socket: TLSSocket,
    peer: PeerIdentity,
    alpn: "h2" | "http/1.1",
    life: ConnectionLife,
  ): Carried | undefined;
  onRefused(refusal: Refusal, remoteAddress: string): void;
  /** What became of proofs of renewed certificates on accepted connections. */
  readonly onProof?: OnProof;
  /** Something of ours threw: it cost one connection, and this is for the log. */
  readonly onFault?: ((thrown: unknown) => void) | undefined;
}

/** How long an accepted connection may live. */
export interface ConnectionLife {
  /** Milliseconds since 1970; moves when a renewed certificate is proven. */
  readonly endsAtMs: number;
  /** For HTTP/2, which carries them. */
  readonly proofs: ProofExchange;
  /** Of the identity that this end showed in the handshake. */
  readonly generation: number;
}

export interface Listener {
  readonly port: number;
  /** Connections with a proven peer. */
  readonly connections: number;
  /**
   * Takes no new exchange on the connections of which `holds` is true: of those that were made with an older identity, for
   * example. What is under way on them may go on to the connection's end, and that moves when its ends prove new certificates.
   */
  retireWhere(holds: (peer: PeerIdentity, generation: number) => boolean): void;
  /** The roots have changed: peers that do not stand under them are gone in `withinMs` (30 s by default), unless they prove that they do. */
  rejudge(withinMs?: number): void;
  /** Drains every connection that was made with an identity older than `generation`; `withinMs`: 30 s by default. */
  drainBefore(generation: number, withinMs?: number): void;
  /** Drains the connections of which `holds` is true, whatever they prove: of a revoked peer, for example. */
  drainWhere(holds: (peer: PeerIdentity, generation: number) => boolean, withinMs?: number): void;
  /** Accepts no more, drains what is there (at once by default), and resolves when all is closed. */
  close(withinMs?: number): Promise<void>;
}

/**
 * Accepts mutual TLS 1.3: a certificate is demanded and verified by TLS itself, then by our own rules over the same
 * bytes. A new identity is used from the next handshake on; connections keep the one they were made with, and end before
 * it does, unless both ends prove their new ones on it. Throws PORT_TAKEN where the port is in use, UNAVAILABLE where it cannot be listened on.
 */
export async function listenMutualTls(terms: MutualTlsTerms): Promise<Listener> {
  const listener = new MutualTlsListener(terms);
  await listener.listen();
  return listener;
}

const drainWithinMs = 30_000;
/** Of what costs a signature each: a turn takes a millisecond or two then. */
const membersPerTurn = 8;

class MutualTlsListener implements Listener {
  readonly #terms: MutualTlsTerms;
  readonly #server: Server;
  readonly #tenureTerms: TenureTerms;
  readonly #members = new Set<Member>();
  /** How many of them each identity has. */
  readonly #byPeer = new Map<string, number>();
  /** Every accepted socket, also those still in their handshake. */
  readonly #sockets = new Set<Socket>();
  /** Each has the certificate that it was begun with: the server takes one of its context for a socket when it accepts it. */
  readonly #handshakes: Handshakes<OwnCertificate>;
  #own: OwnCertificate;
  /** One for all sockets, each of which would hold one of its own. */
  readonly #forget = forgetting((socket) => {
    this.#sockets.delete(socket);
    this.#handshakes.forget(socket);
  });
  #closing = false;
  #unsubscribe: () => void = () => undefined;

  constructor(terms: MutualTlsTerms) {
    this.#terms = terms;
    const identity = terms.identity.read();
    this.#tenureTerms = {
      role: "server",
      trustDomain: terms.trustDomain,
      clock: terms.clock,
      leadMs: terms.options.expiryLeadMs,
      current: () => terms.identity.read(),
      onProof: terms.onProof,
      onFault: terms.onFault,
      onClosed: (member) => this.#gone(member as Member),
    };
    this.#own = ownCertificateOf(identity);
    this.#server = createServer({
      ...secureContextOptions(identity),
      requestCert: true,
      rejectUnauthorized: true,
      // No SNICallback and no ALPNCallback: one that throws ends the process (CVE-2026-21637).
      ALPNProtocols: ["h2", "http/1.1"],
      handshakeTimeout: terms.options.handshakeMs,
      noDelay: true,
      keepAlive: true,
    });
    const { tlsConnectionsMax, handshakesPerAddressMax } = terms.options;
    this.#server.maxConnections = tlsConnectionsMax;
    this.#handshakes = new Handshakes(Math.min(handshakesPerAddressMax, Math.ceil(tlsConnectionsMax / 2)));
    this.#server.on("connection", (socket: Socket) => this.#guarded(socket, () => this.#accepted(socket)));
    this.#server.on("secureConnection", (socket: TLSSocket) => this.#guarded(socket, () => this.#connected(socket)));
    this.#server.on("tlsClientError", (error: NodeJS.ErrnoException, socket: TLSSocket) =>
      this.#guarded(socket, () => this.#failed(error, socket)),
    );
    this.#server.on("drop", (data) => this.#guarded(undefined, () => this.#dropped(data?.remoteAddress)));
  }

  async listen(): Promise<void> {
    const { host, port, shared = false, identity } = this.#terms;
    // From now on, not only once it listens: what is published meanwhile would be missed until the next renewal.
    this.#unsubscribe = identity.subscribe((next) => this.#swap(next));
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", (error: NodeJS.ErrnoException) => {
        this.#unsubscribe();
        reject(cannotListen(error, `${host}:${port}`));
      });
      this.#server.listen({ host, port, reusePort: shared }, resolve);
    });
    this.#server.removeAllListeners("error");
    // Later ones are of accepting (no file descriptors left): the connection is lost, the listener stays.
    this.#server.on("error", (error: Error) =>
      this.#guarded(undefined, () => this.#terms.onRefused(cannotAccept(error.message), "")),
    );
  }

  get port(): number {
    return (this.#server.address() as AddressInfo | null)?.port ?? 0;
  }

  get connections(): number {
    return this.#members.size;
  }

  drainBefore(generation: number, withinMs = drainWithinMs): void {
    this.drainWhere((_, of) => of < generation, withinMs);
  }

  drainWhere(holds: (peer: PeerIdentity, generation: number) => boolean, withinMs = drainWithinMs): void {
    this.#each((member) => {
      if (holds(member.peer, member.generation)) member.drain(withinMs);
    });
  }

  retireWhere(holds: (peer: PeerIdentity, generation: number) => boolean): void {
    this.#each((member) => {
      if (holds(member.peer, member.generation)) member.retire();
    });
  }

  rejudge(withinMs = drainWithinMs): void {
    this.#inTurns((member) => member.rejudge(withinMs));
  }

  close(withinMs = 0): Promise<void> {
    this.#closing = true;
    this.#unsubscribe();
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.drainWhere(() => true, withinMs);
    if (withinMs <= 0) for (const socket of this.#sockets) socket.destroy();
    return closed;
  }

  #swap(identity: TlsIdentity): void {
    const own = ownCertificateOf(identity);
    this.#server.setSecureContext(secureContextOptions(identity));
    this.#own = own;
    this.#inTurns((member) => member.renewed());
  }

  #inTurns(task: (member: Member) => void): void {
    inTurns(this.#members, { perTurn: membersPerTurn, onFault: (thrown) => this.#terms.onFault?.(thrown) }, (member) =>
      this.#guarded(member, () => task(member)),
    );
  }

  #each(task: (member: Member) => void): void {
    for (const member of this.#members) this.#guarded(member, () => task(member));
  }

  /** What throws here costs one connection: a server's events have nobody else who would catch it. */
  #guarded(connection: { destroy(): void } | undefined, task: () => void): void {
    try {
      task();
    } catch (thrown) {
      this.#terms.onFault?.(thrown);
      connection?.destroy();
    }
  }

  #accepted(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("close", this.#forget);
    if (this.#handshakes.begin(socket, this.#own)) return;
    const because = "Cannot accept the connection: its address has as many handshakes under way as one address may";
    const hint = "Find out who opens so many, or raise HAUBERK_TLS_HANDSHAKES_PER_ADDRESS_MAX";
    this.#terms.onRefused(refuse("LIMIT_CONNECTIONS", because, hint), socket.remoteAddress ?? "");
    socket.destroy();
  }

  #connected(socket: TLSSocket): void {
    const own = this.#handshakes.done(socket);
    socket.on("error", ignore); // `close` follows, and whoever carries the connection hears of it.
    const { identity, trustDomain, clock } = this.#terms;
    const remoteAddress = socket.remoteAddress ?? "";
    try {
      const { roots, chain: known } = identity.read();
      const atMs = clock.wallMs();
      const peer = provePeer(socket, { roots, known, trustDomain, atMs });
      if (isRefusal(peer)) return this.#refuse(socket, peer, remoteAddress);
      if (own === undefined || own.notAfterMs <= atMs || this.#closing) {
        const because = this.#closing ? "this side ends" : "it was made with a certificate that has ended";
        return this.#refuse(socket, cannotAccept(because), remoteAddress);
      }
      if (this.#hasItsShare(peer.id.text)) return this.#refuse(socket, overShare(peer.id.text), remoteAddress);
      const member = this.#admit(socket, peer, own);
      const alpn = socket.alpnProtocol === "h2" ? "h2" : "http/1.1";
      const carried = this.#terms.onConnection(socket, peer, alpn, member);
      if (carried !== undefined) member.carries(carried);
    } catch (thrown) {
      this.#terms.onFault?.(thrown);
      this.#refuse(socket, cannotAccept(messageOf(thrown)), remoteAddress);
    }
  }

  #admit(socket: TLSSocket, peer: ProvenPeer, own: OwnCertificate): Member {
    const member = new Member(socket, this.#tenureTerms, { peer, own });
    this.#members.add(member);
    const { text } = peer.id;
    this.#byPeer.set(text, (this.#byPeer.get(text) ?? 0) + 1);
    return member;
  }

  #gone(member: Member): void {
    this.#members.delete(member);
    const id = member.peer.id.text;
    const left = (this.#byPeer.get(id) ?? 1) - 1;
    if (left === 0) this.#byPeer.delete(id);
    else this.#byPeer.set(id, left);
  }

  #hasItsShare(id: string): boolean {
    const { options, peerShareRatio: ratio = 1 } = this.#terms;
    const own = this.#byPeer.get(id) ?? 0;
    return ratio < 1 && isOverShare({ max: options.tlsConnectionsMax, taken: this.#members.size, own, ratio });
  }

  #refuse(socket: TLSSocket, refusal: Refusal, remoteAddress: string): void {
    this.#terms.onRefused(refusal, remoteAddress);
    socket.destroy();
  }

  #failed(error: NodeJS.ErrnoException, socket: TLSSocket): void {
    // For a certificate that TLS refused, the error may only be the reset that follows.
    const because = String(socket.authorizationError ?? error.code ?? error.message);
    const code = because === "CERT_HAS_EXPIRED" ? "PEER_EXPIRED" : "PEER_UNTRUSTED";
    const hint = "Look at the certificate that the peer shows: hauberk certs inspect";
    this.#terms.onRefused(
      refuse(code, `Cannot trust the peer: its handshake failed with ${because}`, hint),
      socket.remoteAddress ?? "",
    );
    socket.destroy();
  }

  #dropped(remoteAddress: string | undefined): void {
    const max = this.#terms.options.tlsConnectionsMax;
    const because = `Cannot accept the connection: there are ${max} already`;
    this.#terms.onRefused(
      refuse("LIMIT_CONNECTIONS", because, "Raise HAUBERK_TLS_CONNECTIONS_MAX, or find out who opens so many"),
      remoteAddress ?? "",
    );
  }
}

/** One accepted connection. */
class Member extends Tenure implements ConnectionLife {
  readonly generation: number;

  constructor(socket: TLSSocket, terms: TenureTerms, ends: TenureEnds) {
    super(socket, terms, ends);
    this.generation = ends.own.generation;
  }

  destroy(): void {
    this.drain(0);
  }
}

/** A listener for what it is called on. */
function forgetting(forget: (socket: Socket) => void): (this: Socket) => void {
  return function (this: Socket): void {
    forget(this);
  };
}

function ignore(): void {
  // Nothing is to be done.
}

function cannotListen(error: NodeJS.ErrnoException, where: string): HauberkError {
  return error.code === "EADDRINUSE"
    ? new HauberkError("PORT_TAKEN", `Cannot listen on ${where}: the port is in use`, "Choose another port", error)
    : new HauberkError(
        "UNAVAILABLE",
        `Cannot listen on ${where}: ${error.message}`,
        "Choose an address of this machine",
        error,
      );
}

function overShare(id: string): Refusal {
  return refuse(
    "LIMIT_PEER",
    `Cannot accept the connection: "${id}" has its share of them`,
    "Find out why it opens so many, or raise HAUBERK_TLS_CONNECTIONS_MAX or HAUBERK_PEER_SHARE_RATIO",
  );
}

function cannotAccept(because: string): Refusal {
  return refuse("UNAVAILABLE", `Cannot accept the connection: ${because}`, "Look at the log of this side");
}

function ownCertificateOf({ chain, generation, issuedAtMs, notAfterMs }: TlsIdentity): OwnCertificate {
  const [leaf] = chain;
  if (leaf === undefined)
    throw new HauberkError("BUG", "Cannot listen: the identity has no certificate", "Report this with the log");
  return { leaf, generation, issuedAtMs, notAfterMs };
}
