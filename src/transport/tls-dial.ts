import type { TLSSocket } from "node:tls";
import type { Clock } from "../base/clock.ts";
import { isRefusal, messageOf, refuse, type Refusal } from "../base/errors.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { endpointLookup } from "./endpoint-lookup.ts";
import type { LentReads } from "./lent-reads.ts";
import { connect } from "./node-tls.ts";
import { tlsOptions } from "./options.ts";
import { provePeer } from "./peer.ts";
import type { OnProof } from "./proof.ts";
import { dialContextOf } from "./tls-context.ts";
import { Tenure, type TenureTerms } from "./tls-tenure.ts";

const lookup = endpointLookup();

export interface MutualTlsCall {
  readonly address: string;
  readonly port: number;
  readonly identity: TlsIdentity;
  /** The SPIFFE ID that must answer; anyone else hears nothing. */
  readonly expect: string;
  readonly clock: Clock;
  /** For TCP and TLS together. */
  readonly timeoutMs: number;
  /** What may be spoken, the best first. */
  readonly alpn: readonly ("h2" | "http/1.1")[];
  /** How long before either certificate ends `onEnding` is called; 30 s by default. The socket ends with the first of them. */
  readonly expiryLeadMs?: number;
  readonly onEnding?: (withinMs: number) => void;
  /** What this side shows and trusts at that time, for proofs of renewed certificates; `identity` by default. */
  readonly current?: () => TlsIdentity | undefined;
  readonly onProof?: OnProof;
  /** Something of ours threw: the connection ends, and this is for the log. */
  readonly onFault?: ((thrown: unknown) => void) | undefined;
  /** What the socket reads with, in place of buffers of its own. */
  readonly reads?: LentReads;
}

const tenures = new WeakMap<TLSSocket, Tenure>();

/** How long a socket of `dialMutualTls` may live; whoever speaks HTTP/2 on it says so to it, and gives HTTP/2 its proofs. */
export function tenureOf(socket: TLSSocket): Tenure | undefined {
  return tenures.get(socket);
}

/**
 * Connects by mutual TLS 1.3 to exactly one SPIFFE ID. Not a byte is written before the peer is proven.
 * Refuses with CONNECT_FAILED, PEER_UNTRUSTED, PEER_EXPIRED, PEER_NOT_A_WORKLOAD or PEER_NOT_THE_SERVICE.
 *
 * In TLS 1.3 this end is connected before the other has judged our certificate: an answer in the protocol (SETTINGS in
 * HTTP/2) is the first sign that it did.
 */
export function dialMutualTls(call: MutualTlsCall): Promise<TLSSocket | Refusal> {
  return new Promise((resolve) => {
    const lent = call.reads === undefined ? {} : { onread: call.reads.onread };
    const socket = connect({
      ...lent,
      host: call.address,
      port: call.port,
      lookup,
      secureContext: dialContextOf(call.identity),
      ALPNProtocols: [...call.alpn],
      rejectUnauthorized: true,
      // Workloads are no hosts: names in certificates are SPIFFE IDs. Ours is compared below, before a byte is written.
      checkServerIdentity: () => undefined,
      servername: "",
    });
    let because = `it did not answer within ${call.timeoutMs} ms`;
    const cancel = call.clock.after(call.timeoutMs, () => socket.destroy());
    socket.setNoDelay(true);
    socket.on("error", (error: Error) => (because = error.message));
    const onClose = (): void => {
      cancel();
      resolve(refusalOf(socket, call, because));
    };
    socket.once("close", onClose);
    socket.once("secureConnect", () => {
      cancel();
      socket.off("close", onClose);
      resolve(judgeSafely(socket, call));
    });
  });
}

/** What throws here was written by a stranger: it costs this call, not the process. */
function judgeSafely(socket: TLSSocket, call: MutualTlsCall): TLSSocket | Refusal {
  try {
    return judge(socket, call);
  } catch (thrown) {
    socket.destroy();
    return failed(call, `its certificate could not be judged (${messageOf(thrown)})`);
  }
}

function judge(socket: TLSSocket, call: MutualTlsCall): TLSSocket | Refusal {
  const { identity, clock, expect, alpn } = call;
  const { roots, chain: known } = identity;
  const { trustDomain } = identity.id;
  const trust = { roots, known, trustDomain, atMs: clock.wallMs(), expect };
  const peer = provePeer(socket, trust);
  if (isRefusal(peer)) {
    socket.destroy();
    return peer;
  }
  const [leaf] = known;
  if (leaf === undefined || !alpn.some((protocol) => protocol === socket.alpnProtocol)) {
    socket.destroy();
    return failed(call, leaf === undefined ? "this side has no certificate" : `it speaks none of ${alpn.join(", ")}`);
  }
  const { generation, issuedAtMs, notAfterMs } = identity;
  const terms: TenureTerms = {
    role: "client",
    trustDomain,
    clock,
    leadMs: call.expiryLeadMs ?? tlsOptions.expiryLeadMs.default,
    current: call.current ?? (() => identity),
    onProof: call.onProof,
    onFault: call.onFault,
    onEnding: (withinMs) => call.onEnding?.(withinMs),
  };
  const own = { leaf, generation, issuedAtMs, notAfterMs };
  tenures.set(socket, new Tenure(socket, terms, { peer, own }));
  return socket;
}

function refusalOf(socket: TLSSocket, call: MutualTlsCall, because: string): Refusal {
  // Set only where TLS refused the peer's chain; @types/node calls it an Error, Node sets the code's text.
  const wrong = socket.authorizationError as unknown;
  if (typeof wrong !== "string") return failed(call, because);
  const code = wrong === "CERT_HAS_EXPIRED" ? "PEER_EXPIRED" : "PEER_UNTRUSTED";
  return refuse(
    code,
    `Cannot trust the peer at ${call.address}:${call.port}: ${wrong}`,
    "Look at its certificate, and at this side's bundle",
  );
}

function failed(call: MutualTlsCall, because: string): Refusal {
  return refuse(
    "CONNECT_FAILED",
    `Cannot connect to ${call.address}:${call.port}: ${because}`,
    "See whether the peer's sidecar runs and can be reached",
  );
}
