import type { Clock } from "../base/clock.ts";
import { isRefusal, messageOf, refuse, type Refusal } from "../base/errors.ts";
import type { Certificate } from "../x509/certificate.ts";
import {
  exporterLabel,
  isSignedProof,
  readProof,
  writeProof,
  type ProofBinding,
  type ProofRole,
} from "../x509/proof.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { verifyWorkload } from "../x509/verify.ts";

/** What a connection's protocol does with proofs, for HTTP/2 to call (docs/decisions/0010). */
export interface ProofExchange {
  /** Both ends take proofs. Called at most once. */
  begin(wire: ProofWire): void;
  /** A proof of the peer's came; the bytes are lent. Gives why the connection has to end. */
  received(payload: Buffer): string | undefined;
  /** The peer took one of ours; the bytes are lent. Gives why the connection has to end. */
  acknowledged(payload: Buffer): string | undefined;
}

/** What a connection's protocol does for proofs. */
export interface ProofWire {
  prove(payload: Buffer): void;
  acknowledge(payload: Buffer): void;
}

/** What happened to a proof, at the end that says so. */
export type ProofStep = "sent" | "acknowledged" | "accepted" | "refused";

/** Called at each step; with the reason where a proof of the peer's was refused. */
export type OnProof = (step: ProofStep, refusal?: Refusal) => void;

export interface ProofTerms {
  /** This end's. */
  readonly role: ProofRole;
  readonly trustDomain: string;
  /** The SPIFFE ID that the peer proved in the handshake: no other will do. */
  readonly expect: string;
  readonly clock: Clock;
  /** The TLS exporter of this connection (RFC 8446, 7.5), with an empty context. Throws where TLS has ended. */
  exporter(label: string): Buffer;
  /** By what proofs of the peer are judged when they come; undefined where this side trusts nobody now. */
  roots(): readonly Certificate[] | undefined;
  /** The peer proved this chain, leaf first. */
  onPeerProven(chain: readonly Certificate[]): void;
  /** The peer took this end's proof of that identity. */
  onOwnProven(identity: TlsIdentity): void;
  readonly onProof: OnProof;
}

const counterMax = 0xffff_ffff;

/** At once: a renewal is one proof, and roots that change may bring another. */
const proofsMax = 4;
/** In the life that is left to a certificate when it is proven: nobody renews before half of it is over. */
const proofsPerLife = 4;
const everyMinMs = 1_000;
const everyMaxMs = 60_000;

/**
 * How often a peer may prove. Each proof costs its receiver two signatures' verification and the reading of a key, about a
 * millisecond, and its sender a tenth of that: what comes more often than renewals plausibly do was never meant well.
 */
export class ProofPace {
  #left = proofsMax;
  #everyMs = everyMaxMs;
  #atMs: number;

  constructor(nowMs: number) {
    this.#atMs = nowMs;
  }

  take(nowMs: number): boolean {
    this.#left = Math.min(proofsMax, this.#left + (nowMs - this.#atMs) / this.#everyMs);
    this.#atMs = nowMs;
    if (this.#left < 1) return false;
    this.#left--;
    return true;
  }

  /** A certificate was proven that has so long to live. */
  proven(leftMs: number): void {
    this.#everyMs = Math.min(everyMaxMs, Math.max(everyMinMs, leftMs / proofsPerLife));
  }
}

/**
 * Proves renewed certificates on one running connection, in both directions, after RFC 9261. One proof of this end is
 * under way at a time; the newest identity that came meanwhile follows. Fail closed: a proof that is not perfect, whatever
 * is wrong with it, ends the connection, as its certificate would end a handshake.
 */
export class InBandProof implements ProofExchange {
  readonly #terms: ProofTerms;
  /** Made with the first proof that comes: most connections never see one. */
  #pace: ProofPace | undefined = undefined;
  #exporters: { client?: Buffer; server?: Buffer } | undefined = undefined;
  #wire: ProofWire | undefined = undefined;
  #sent = 0;
  #underWay: TlsIdentity | undefined = undefined;
  #next: TlsIdentity | undefined = undefined;
  #received = 0;

  constructor(terms: ProofTerms) {
    this.#terms = terms;
  }

  begin(wire: ProofWire): void {
    this.#wire = wire;
  }

  /** Proves `identity` to the peer; false where the peer takes no proofs, or TLS has ended. */
  prove(identity: TlsIdentity): boolean {
    const wire = this.#wire;
    if (wire === undefined || this.#sent === counterMax) return false;
    const latest = this.#next ?? this.#underWay;
    if (latest !== undefined && latest.generation >= identity.generation) return true;
    if (this.#underWay !== undefined) {
      this.#next = identity;
      return true;
    }
    let payload: Buffer;
    try {
      payload = writeProof(identity, { ...this.#binding(this.#terms.role), counter: this.#sent + 1 });
    } catch {
      return false; // Without a proof the connection ends with the certificate that it has.
    }
    this.#sent++;
    this.#underWay = identity;
    wire.prove(payload);
    this.#terms.onProof("sent");
    return true;
  }

  received(payload: Buffer): string | undefined {
    const refusal = this.#judge(payload);
    if (refusal === undefined) return undefined;
    this.#terms.onProof("refused", refusal);
    return refusal.message;
  }

  acknowledged(payload: Buffer): string | undefined {
    const identity = this.#underWay;
    if (identity === undefined || payload.length !== 4 || payload.readUInt32BE(0) !== this.#sent)
      return "an acknowledgement of a proof that was not sent";
    this.#underWay = undefined;
    this.#terms.onProof("acknowledged");
    this.#terms.onOwnProven(identity);
    const next = this.#next;
    this.#next = undefined;
    if (next !== undefined) this.prove(next);
    return undefined;
  }

  /** What is cheap is looked at first. */
  #judge(payload: Buffer): Refusal | undefined {
    const { clock, trustDomain, expect } = this.#terms;
    const nowMs = clock.monotonicMs();
    this.#pace ??= new ProofPace(nowMs);
    if (!this.#pace.take(nowMs)) return refused("there are too many");
    const proof = readProof(payload);
    if (isRefusal(proof)) return proof;
    if (proof.counter !== this.#received + 1)
      return refused(`its number is ${proof.counter}, wanted ${this.#received + 1}`);
    const roots = this.#terms.roots();
    if (roots === undefined) return refused("this side has no identity now");
    const { chain } = proof;
    const peer = verifyWorkload({ chain, roots, trustDomain, atMs: clock.wallMs(), expect });
    if (isRefusal(peer)) return peer;
    const signed = this.#isSigned(proof);
    if (signed !== true) return signed;
    this.#received = proof.counter;
    this.#pace.proven(peer.leaf.notAfterMs - clock.wallMs());
    this.#terms.onProof("accepted");
    const acknowledgement = Buffer.alloc(4);
    acknowledgement.writeUInt32BE(proof.counter);
    this.#wire?.acknowledge(acknowledgement);
    this.#terms.onPeerProven(chain);
    return undefined;
  }

  #isSigned(proof: Parameters<typeof isSignedProof>[0]): true | Refusal {
    try {
      const binding = this.#binding(this.#terms.role === "client" ? "server" : "client");
      return isSignedProof(proof, binding) ? true : refused("its signature is wrong for this connection");
    } catch (thrown) {
      return refused(messageOf(thrown));
    }
  }

  /** Exported once for each role: it never changes while the connection lives. */
  #binding(role: ProofRole): Omit<ProofBinding, "counter"> {
    this.#exporters ??= {};
    const exporter = (this.#exporters[role] ??= this.#terms.exporter(exporterLabel(role)));
    return { role, trustDomain: this.#terms.trustDomain, exporter };
  }
}

function refused(because: string): Refusal {
  return refuse(
    "PEER_UNTRUSTED",
    `Cannot take the peer's proof of a certificate: ${because}`,
    "Look at the peer's log, and whether something between both ends TLS",
  );
}
