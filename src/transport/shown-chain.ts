import type { X509Certificate } from "node:crypto";
import type { TLSSocket } from "node:tls";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { readCertificate, type Certificate } from "../x509/certificate.ts";

/** What TLS itself bounds is 64 KiB; a workload sends its leaf and one intermediate. */
const chainMax = 4;

/**
 * Leaves that were read, by their bytes: a peer has several connections, and comes again. Reading is pure, and nothing is
 * verified here, so that one copy is as good as another.
 */
const readLeaves = new Map<string, Certificate>();
const readLeavesMax = 256;

function readOnce(raw: Buffer): Certificate | Refusal {
  const key = raw.toString("latin1");
  const known = readLeaves.get(key);
  if (known !== undefined) return known;
  const certificate = readCertificate(raw);
  if (isRefusal(certificate)) return certificate;
  if (readLeaves.size >= readLeavesMax) readLeaves.delete(readLeaves.keys().next().value as string);
  readLeaves.set(key, certificate);
  return certificate;
}

interface Trust {
  readonly roots: readonly Certificate[];
  readonly known?: readonly Certificate[];
}

type Shows = Pick<TLSSocket, "getPeerX509Certificate">;

/**
 * The leaf that the peer showed, and the authority that we hold of the name that issued it: whether it really signed it is for the
 * verifier to say. Undefined where we hold none, or the leaf cannot be read.
 */
export function shortChain(socket: Shows, trust: Trust): Certificate[] | undefined {
  const raw = socket.getPeerX509Certificate()?.raw;
  const leaf = raw === undefined ? undefined : readOnce(raw);
  if (leaf === undefined || isRefusal(leaf)) return undefined;
  const issuer = issuerOf(leaf, trust);
  return issuer === undefined ? undefined : [leaf, issuer];
}

function issuerOf(leaf: Certificate, { known }: Trust): Certificate | undefined {
  return known?.find((authority) => authority.ca && authority.subject.equals(leaf.issuer));
}

/**
 * The certificates that the peer showed in the handshake, leaf first, as our own reader sees them; a root that we hold is left
 * out, because ours are compared and not theirs. Nothing is verified here.
 *
 * Node 24 shows a server nothing of a client's chain but its leaf (measured on 24.21; 26.10 shows all of it). `known` completes
 * such a chain with authorities of our own: whether they signed it is for the verifier to say.
 */
export function shownChain(socket: Shows, trust: Trust): Certificate[] | Refusal {
  const chain: Certificate[] = [];
  let shown: X509Certificate | undefined = socket.getPeerX509Certificate();
  while (shown !== undefined) {
    const { raw } = shown;
    if (chain.some(({ der }) => der.equals(raw)) || trust.roots.some(({ der }) => der.equals(raw))) break;
    if (chain.length === chainMax) {
      return refuse(
        "PEER_UNTRUSTED",
        `Cannot trust the peer: it shows more than ${chainMax} certificates`,
        "Send the leaf and its intermediate only",
      );
    }
    // Of the intermediate that signed for both ends, one copy is enough for ten thousand connections.
    const certificate = trust.known?.find(({ der }) => der.equals(raw)) ?? readOnce(raw);
    if (isRefusal(certificate)) return refuse("PEER_UNTRUSTED", certificate.message, certificate.hint);
    chain.push(certificate);
    shown = shown.issuerCertificate;
  }
  const [leaf, ...more] = chain;
  if (leaf === undefined || more.length > 0) return chain;
  const issuer = issuerOf(leaf, trust);
  return issuer === undefined ? chain : [leaf, issuer];
}
