import type { TLSSocket } from "node:tls";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { runsTheMesh, type SpiffeId } from "../base/spiffe-id.ts";
import type { Certificate } from "../x509/certificate.ts";
import { verifyWorkload } from "../x509/verify.ts";
import type { PeerIdentity } from "./exchange.ts";
import { shortChain, shownChain } from "./shown-chain.ts";

/** By what a peer is judged. */
export interface PeerTrust {
  readonly roots: readonly Certificate[];
  readonly trustDomain: string;
  readonly atMs: number;
  /** What we hold ourselves: an authority for a chain that this Node does not show whole, and one copy of what peers show. */
  readonly known?: readonly Certificate[];
  /** The one SPIFFE ID that will do; undefined: any workload of the trust domain. */
  readonly expect?: string;
}

/** Who is at the other end, by the certificate that was proven last: its name stays, its leaf is renewed. */
export class ProvenPeer implements PeerIdentity {
  readonly id: SpiffeId;
  #chain: readonly [Certificate, ...Certificate[]];

  constructor(id: SpiffeId, chain: readonly [Certificate, ...Certificate[]]) {
    this.id = id;
    this.#chain = chain;
  }

  get leaf(): Certificate {
    return this.#chain[0];
  }

  /** Leaf first. */
  get chain(): readonly Certificate[] {
    return this.#chain;
  }

  /** The peer proved this chain, for the same SPIFFE ID, on the running connection. */
  renew(chain: readonly Certificate[]): void {
    const [leaf, ...above] = chain;
    if (leaf !== undefined) this.#chain = [leaf, ...above];
  }
}

const proven = new WeakMap<TLSSocket, PeerIdentity>();

/**
 * Judges the certificates that the peer showed in the handshake, once more and by our own rules: node:tls accepts a leaf
 * with two URI names, and shows neither key usage nor path length. What is verified and what the identity is read from
 * are the same bytes. Refuses with PEER_UNTRUSTED, PEER_EXPIRED, PEER_NOT_A_WORKLOAD or PEER_NOT_THE_SERVICE.
 */
export function provePeer(socket: TLSSocket, trust: PeerTrust): ProvenPeer | Refusal {
  // Nearly every peer was signed by the authority that signed for us. Each certificate that node:tls shows is an object of its
  // own until somebody collects garbage, so the others are looked at only where that does not do.
  const short = shortChain(socket, trust);
  let chain: Certificate[] | Refusal | undefined = short;
  let peer = short === undefined ? undefined : verifyWorkload({ chain: short, ...trust });
  if (peer === undefined || isRefusal(peer)) {
    chain = shownChain(socket, trust);
    if (isRefusal(chain)) return chain;
    peer = verifyWorkload({ chain, ...trust });
    if (isRefusal(peer)) return peer;
  }
  // Their certificates have the same root and the same form, and are for the control plane's own listeners only.
  if (runsTheMesh(peer.id)) {
    return refuse(
      "PEER_NOT_A_WORKLOAD",
      `Cannot trust the peer: it is "${peer.id.text}", which runs the mesh and is no workload`,
      "Call with the identity of a workload: hauberk token create --service NAME",
    );
  }
  const identity = new ProvenPeer(peer.id, [peer.leaf, ...(chain as Certificate[]).slice(1)]);
  proven.set(socket, identity);
  return identity;
}

/** Who was proven at the other end of a socket; undefined where nobody was. */
export function provenPeerOf(socket: TLSSocket): PeerIdentity | undefined {
  return proven.get(socket);
}
