import type { TLSSocket } from "node:tls";
import type { Clock } from "../base/clock.ts";
import { isRefusal, type Refusal } from "../base/errors.ts";
import type { Certificate } from "../x509/certificate.ts";
import { exporterBytes, type ProofRole } from "../x509/proof.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { verifyWorkload } from "../x509/verify.ts";
import { tickMs } from "./http1-ticker.ts";
import type { ProvenPeer } from "./peer.ts";
import {
  InBandProof,
  type OnProof,
  type ProofExchange,
  type ProofStep,
  type ProofTerms,
  type ProofWire,
} from "./proof.ts";
import { limitLife, type Life, type LifeOwner } from "./tls-life.ts";

const noBytes = Buffer.alloc(0);
const unannounced = "a proof where none was announced";

/** The own certificate that a connection's peer has seen last. */
export type OwnCertificate = Pick<TlsIdentity, "generation" | "issuedAtMs" | "notAfterMs"> & {
  readonly leaf: Certificate;
};

/** What of a connection's protocol its tenure needs. */
export interface Carried {
  readonly exchanges: number;
  /** Takes no new exchange, lets those under way end in this time, then closes; called again, the last time counts. */
  drain(withinMs: number): void;
}

/** Who met. */
export interface TenureEnds {
  readonly peer: ProvenPeer;
  /** What this end showed in the handshake. */
  readonly own: OwnCertificate;
}

/** What connections of one listener have in common, or what one call wants. */
export interface TenureTerms {
  readonly role: ProofRole;
  readonly trustDomain: string;
  readonly clock: Clock;
  /** How long before its end the connection is asked to drain; a quarter of what is left where that is less. */
  readonly leadMs: number;
  /** What this side shows and trusts now; undefined where it has no valid certificate. */
  current(): TlsIdentity | undefined;
  readonly onProof?: OnProof | undefined;
  /** Something of ours threw: the connection ends, and this is for the log. */
  readonly onFault?: ((thrown: unknown) => void) | undefined;
  /** The end is near, and the connection takes nothing new from now on; it may still move. */
  onEnding?(withinMs: number): void;
  /** The socket is closed. */
  onClosed?(tenure: Tenure): void;
}

/**
 * - `serving`: takes new exchanges.
 * - `retired`: takes none; those under way go on to the connection's end, which moves with each certificate that is proven.
 * - `suspect`: the peer's chain does not stand under the roots of today. It has some time to prove one that does.
 * - `leaving`: is gone in some time, whatever is proven.
 */
type State = "serving" | "retired" | "suspect" | "leaving";

/**
 * How long one mutual TLS connection may go on: until the first of the two certificates ends that were proven last at its
 * ends (DESIGN, promise 4), in the handshake or since (docs/decisions/0010).
 *
 * It is its own terms for its life and its proofs: there is one for each of thousands of idle connections, and every closure
 * that one of them holds counts that often (bench/memory).
 */
export class Tenure implements LifeOwner, ProofExchange, ProofTerms {
  readonly peer: ProvenPeer;
  readonly #socket: TLSSocket;
  readonly #terms: TenureTerms;
  readonly #life: Life;
  #own: OwnCertificate;
  /** Where the peer takes proofs. */
  #proof: InBandProof | undefined = undefined;
  #carried: Carried | undefined = undefined;
  #state: State = "serving";

  constructor(socket: TLSSocket, terms: TenureTerms, { peer, own }: TenureEnds) {
    const { clock, leadMs } = terms;
    this.peer = peer;
    this.#socket = socket;
    this.#terms = terms;
    this.#own = own;
    this.#life = limitLife(this, { clock, endsAtMs: Math.min(own.notAfterMs, peer.leaf.notAfterMs), leadMs });
    // Not once: that costs four objects more, and a socket closes once in any case.
    socket.on("close", () => {
      this.#life.cancel();
      terms.onClosed?.(this);
    });
  }

  // For HTTP/2, which carries proofs.

  get proofs(): ProofExchange {
    return this;
  }

  begin(wire: ProofWire): void {
    this.#proof ??= new InBandProof(this);
    this.#proof.begin(wire);
  }

  received(payload: Buffer): string | undefined {
    return this.#proof === undefined ? unannounced : this.#proof.received(payload);
  }

  acknowledged(payload: Buffer): string | undefined {
    return this.#proof === undefined ? unannounced : this.#proof.acknowledged(payload);
  }

  // What proofs are made and judged by.

  get role(): ProofRole {
    return this.#terms.role;
  }

  get trustDomain(): string {
    return this.#terms.trustDomain;
  }

  get clock(): Clock {
    return this.#terms.clock;
  }

  get expect(): string {
    return this.peer.id.text;
  }

  exporter(label: string): Buffer {
    return this.#socket.exportKeyingMaterial(exporterBytes, label, noBytes);
  }

  roots(): readonly Certificate[] | undefined {
    return this.#terms.current()?.roots;
  }

  onProof(step: ProofStep, refusal?: Refusal): void {
    this.#terms.onProof?.(step, refusal);
  }

  /** This end's certificate, as far as the peer has seen it. */
  get own(): OwnCertificate {
    return this.#own;
  }

  get endsAtMs(): number {
    return this.#life.endsAtMs;
  }

  /** Who carries the exchanges of this connection. */
  carries(carried: Carried): void {
    this.#carried = carried;
  }

  /** This end has a new certificate: it is proven where something is under way. What is idle waits for its `retire`. */
  renewed(): void {
    const identity = this.#terms.current();
    const leaf = identity?.chain[0];
    if (identity === undefined || leaf === undefined) return;
    if (this.#state === "leaving" || identity.generation <= this.#own.generation) return;
    // The roots alone have changed.
    if (leaf.der.equals(this.#own.leaf.der)) this.#own = { ...this.#own, generation: identity.generation };
    else if ((this.#carried?.exchanges ?? 0) > 0) this.#proof?.prove(identity);
  }

  /** Takes no new exchange. Those under way go on to the connection's end, which a proof of the current certificate may move. */
  retire(): void {
    if (this.#state === "serving") {
      this.#state = "retired";
      this.#drainToTheEnd();
    }
    this.renewed();
  }

  /**
   * The roots have changed. A peer whose chain stands under the new ones as well gets no new exchange, and that is all; any
   * other is gone in `withinMs`, unless it proves a chain that does.
   */
  rejudge(withinMs: number): void {
    const identity = this.#terms.current();
    if (identity === undefined || this.#state === "leaving") return;
    const { trustDomain, clock } = this.#terms;
    const { roots } = identity;
    const { id, chain } = this.peer;
    const judged = verifyWorkload({ chain, roots, trustDomain, atMs: clock.wallMs(), expect: id.text });
    if (isRefusal(judged)) {
      this.#state = "suspect";
      this.#drainWithin(withinMs);
    } else {
      this.#stands();
    }
    this.retire();
  }

  /** Is gone in `withinMs`, at once where that is 0: nothing that is proven meanwhile changes it. */
  drain(withinMs: number): void {
    this.#state = "leaving";
    if (withinMs <= 0) this.#socket.destroy();
    else this.#drainWithin(withinMs);
  }

  onEnding(withinMs: number): void {
    if (this.#state === "serving") this.#state = "retired";
    if (this.#state === "retired") this.#carried?.drain(withinMs);
    this.renewed();
    this.#terms.onEnding?.(withinMs);
  }

  onEnd(): void {
    this.#socket.destroy();
  }

  onFault(thrown: unknown): void {
    this.#terms.onFault?.(thrown);
  }

  #drainWithin(withinMs: number): void {
    this.#life.shorten(this.#terms.clock.wallMs() + withinMs);
    this.#carried?.drain(withinMs);
  }

  /** A moment before the connection is cut, so that it can say goodbye. */
  #drainToTheEnd(): void {
    this.#carried?.drain(Math.max(1, this.#life.endsAtMs - tickMs - this.#terms.clock.wallMs()));
  }

  onPeerProven(chain: readonly Certificate[]): void {
    this.peer.renew(chain);
    this.#stands();
    this.#moved();
  }

  /** The peer's chain was judged under the roots of today, and is good. */
  #stands(): void {
    if (this.#state !== "suspect") return;
    this.#state = "retired";
    this.#life.relieve();
    this.#drainToTheEnd();
  }

  onOwnProven({ chain, generation, issuedAtMs, notAfterMs }: TlsIdentity): void {
    this.#own = { generation, issuedAtMs, notAfterMs, leaf: chain[0] ?? this.#own.leaf };
    this.#moved();
  }

  #moved(): void {
    this.#life.extend(Math.min(this.#own.notAfterMs, this.peer.leaf.notAfterMs));
    if (this.#state === "retired") this.#drainToTheEnd();
  }
}
