import type { X509Certificate } from "node:crypto";
import type { TLSSocket } from "node:tls";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { runsTheMesh } from "../base/spiffe-id.ts";
import { readCertificate, type Certificate } from "../x509/certificate.ts";
import { verifyWorkload } from "../x509/verify.ts";
import type { PeerIdentity } from "./exchange.ts";

/** By what a peer is judged. */
export interface PeerTrust {
  readonly roots: readonly Certificate[];
  readonly trustDomain: string;
  readonly atMs: number;
  /** The one SPIFFE ID that will do; undefined: any workload of the trust domain. */
  readonly expect?: string;
}

/** What TLS itself bounds is 64 KiB; a workload sends its leaf and one intermediate. */
const chainMax = 4;

const proven = new WeakMap<TLSSocket, PeerIdentity>();

/**
 * Judges the certificates that the peer showed in the handshake, once more and by our own rules: node:tls accepts a leaf
 * with two URI names, and shows neither key usage nor path length. What is verified and what the identity is read from
 * are the same bytes. Refuses with PEER_UNTRUSTED, PEER_EXPIRED, PEER_NOT_A_WORKLOAD or PEER_NOT_THE_SERVICE.
 */
export function provePeer(socket: TLSSocket, trust: PeerTrust): PeerIdentity | Refusal {
  const chain = shownChain(socket, trust.roots);
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

function shownChain(socket: TLSSocket, roots: readonly Certificate[]): readonly Certificate[] | Refusal {
  const chain: Certificate[] = [];
  let shown: X509Certificate | undefined = socket.getPeerX509Certificate();
  while (shown !== undefined) {
    const der = shown.raw;
    // A root that the peer sent along proves nothing: ours are compared, not theirs.
    if (roots.some((root) => root.der.equals(der))) break;
    if (chain.length === chainMax) {
      return refuse(
        "PEER_UNTRUSTED",
        `Cannot trust the peer: it shows more than ${chainMax} certificates`,
        "Send the leaf and its intermediate only",
      );
    }
    const certificate = readCertificate(der);
    if (isRefusal(certificate)) return refuse("PEER_UNTRUSTED", certificate.message, certificate.hint);
    chain.push(certificate);
    shown = shown.issuerCertificate;
  }
  return chain;
}
