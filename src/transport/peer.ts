import type { TLSSocket } from "node:tls";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { runsTheMesh } from "../base/spiffe-id.ts";
import type { Certificate } from "../x509/certificate.ts";
import { verifyWorkload } from "../x509/verify.ts";
import type { PeerIdentity } from "./exchange.ts";
import { shownChain } from "./shown-chain.ts";

/** By what a peer is judged. */
export interface PeerTrust {
  readonly roots: readonly Certificate[];
  readonly trustDomain: string;
  readonly atMs: number;
  /** Certificate authorities that we hold ourselves: for a chain that this Node does not show whole. */
  readonly known?: readonly Certificate[];
  /** The one SPIFFE ID that will do; undefined: any workload of the trust domain. */
  readonly expect?: string;
}

const proven = new WeakMap<TLSSocket, PeerIdentity>();

/**
 * Judges the certificates that the peer showed in the handshake, once more and by our own rules: node:tls accepts a leaf
 * with two URI names, and shows neither key usage nor path length. What is verified and what the identity is read from
 * are the same bytes. Refuses with PEER_UNTRUSTED, PEER_EXPIRED, PEER_NOT_A_WORKLOAD or PEER_NOT_THE_SERVICE.
 */
export function provePeer(socket: TLSSocket, trust: PeerTrust): PeerIdentity | Refusal {
  const chain = shownChain(socket, trust);
  if (isRefusal(chain)) return chain;
  const peer = verifyWorkload({ chain, ...trust });
  if (isRefusal(peer)) return peer;
  // Their certificates have the same root and the same form, and are for the control plane's own listeners only.
  if (runsTheMesh(peer.id)) {
    return refuse(
      "PEER_NOT_A_WORKLOAD",
      `Cannot trust the peer: it is "${peer.id.text}", which runs the mesh and is no workload`,
      "Call with the identity of a workload: hauberk token create --service NAME",
    );
  }
  const identity: PeerIdentity = { id: peer.id, leaf: peer.leaf };
  proven.set(socket, identity);
  return identity;
}

/** Who was proven at the other end of a socket; undefined where nobody was. */
export function provenPeerOf(socket: TLSSocket): PeerIdentity | undefined {
  return proven.get(socket);
}
