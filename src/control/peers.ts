import type { Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import type { Authority, Standing } from "../authority/authority.ts";
import type { Clock } from "../base/clock.ts";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import type { Published } from "../base/published.ts";
import { adminOf, serviceOf, type SpiffeId } from "../base/spiffe-id.ts";
import { machineOf } from "../registry/machine.ts";
import { shownChain } from "../transport/shown-chain.ts";
import type { Certificate } from "../x509/certificate.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { verifyWorkload } from "../x509/verify.ts";

/** Who is at the other end of a connection to the mesh API. */
export interface Peer {
  readonly id: SpiffeId;
  readonly leaf: Certificate;
  readonly standing: Exclude<Standing, { is: "control" }>;
  readonly remoteAddress: string;
  readonly machine: string;
  /** The earlier end of both certificates: the connection is cut then, on the wall clock. */
  readonly endsAtMs: number;
  /** What its requests are counted by. */
  readonly rateKey: string;
}

export interface PeersContext {
  readonly authority: Authority;
  readonly identity: Published<TlsIdentity>;
  readonly clock: Clock;
  /** A clone of the leaf's instance showed up, which is locked now: its stream and endpoint have to end as well. */
  readonly shutOut: (serial: string, refusal: Refusal) => void;
}

/** Timers take 31 bits of milliseconds; a connection that stands this long is made anew. */
const delayMaxMs = 2 ** 30;

/**
 * Identifies peers by our own verification over the raw certificates, once per connection, and asks the authority
 * whether it signed that leaf and lets its holder go on. TLS has required a certificate of our roots before that.
 */
export class Peers {
  readonly #context: PeersContext;
  readonly #known = new WeakMap<Socket, Promise<Peer | Refusal>>();

  constructor(context: PeersContext) {
    this.#context = context;
  }

  of(socket: Socket): Promise<Peer | Refusal> {
    const known = this.#known.get(socket);
    if (known !== undefined) return known;
    const asked = this.#identify(socket as TLSSocket);
    this.#known.set(socket, asked);
    // Only what was decided is remembered: a store that failed once may answer the connection's next request.
    asked.catch(() => this.#known.delete(socket));
    return asked;
  }

  async #identify(socket: TLSSocket): Promise<Peer | Refusal> {
    const { authority, clock, identity } = this.#context;
    const own = identity.read();
    const { roots, chain: known } = own;
    const chain = shownChain(socket, { roots, known });
    if (isRefusal(chain)) return chain;
    const verified = verifyWorkload({ chain, roots, trustDomain: authority.trustDomain, atMs: clock.wallMs() });
    if (isRefusal(verified)) return verified;
    const remoteAddress = socket.remoteAddress ?? "";
    const standing = await authority.seen(verified.leaf, remoteAddress);
    if (isRefusal(standing)) {
      if (standing.code === "CLONE_DETECTED") this.#context.shutOut(verified.leaf.serial, standing);
      return standing;
    }
    if (!isExpected(verified.id, standing)) return stranger(verified.id);
    const endsAtMs = Math.min(verified.leaf.notAfterMs, own.notAfterMs);
    this.#cutAt(socket, endsAtMs);
    return {
      id: verified.id,
      leaf: verified.leaf,
      standing,
      remoteAddress,
      machine: machineOf({ remote: remoteAddress, local: socket.localAddress ?? "" }),
      endsAtMs,
      rateKey: standing.is === "workload" ? standing.instance : `admin/${standing.name}`,
    };
  }

  /** No connection outlives a certificate that it was made with. */
  #cutAt(socket: TLSSocket, endsAtMs: number): void {
    // Gone while its peer was looked up: nothing would cancel the timer, which holds the socket for as long as the leaf lives.
    if (socket.destroyed) return;
    const delayMs = Math.min(delayMaxMs, Math.max(0, endsAtMs - this.#context.clock.wallMs()));
    const cancel = this.#context.clock.after(delayMs, () => socket.destroy());
    socket.once("close", cancel);
  }
}

/** The leaf's name and what the store says about its serial have to agree, and to be of a kind that this API is for. */
function isExpected(id: SpiffeId, standing: Standing): standing is Exclude<Standing, { is: "control" }> {
  if (standing.is === "workload") return serviceOf(id) !== undefined && standing.identity === id.text;
  return standing.is === "administrator" && adminOf(id) === standing.name;
}

function stranger(id: SpiffeId): Refusal {
  return refuse(
    "NOT_A_WORKLOAD",
    `Cannot answer "${id.text}": the mesh API is for enrolled workloads and administrators`,
    "Use the identity of an instance or of an administrator",
  );
}
