import type { Socket } from "node:net";
import { shareOf } from "../base/ip-address.ts";

/**
 * Connections that nobody has proven anything on yet, by address: whoever holds no certificate can open as many as it likes, and
 * one address must not take the places of all.
 */
export class Handshakes<Own> {
  readonly #max: number;
  readonly #byAddress = new Map<string, number>();
  /** By both ends, which raw and TLS socket have in common. */
  readonly #under = new Map<string, { readonly socket: Socket; readonly share: string; readonly own: Own }>();
  /** A socket that has closed does not know its own end any more. */
  readonly #ends = new Map<Socket, string>();

  constructor(max: number) {
    this.#max = max;
  }

  /** With the certificate that this side shows from now on; false where the address has its share already. */
  begin(socket: Socket, own: Own): boolean {
    const ends = endsOf(socket);
    // Two connections never have the same ends: the one before has closed, and we shall hear of that.
    this.#over(ends);
    const share = shareOf(socket.remoteAddress ?? "");
    const count = this.#byAddress.get(share) ?? 0;
    if (count >= this.#max) return false;
    this.#byAddress.set(share, count + 1);
    this.#under.set(ends, { socket, share, own });
    this.#ends.set(socket, ends);
    return true;
  }

  /**
   * The handshake is done: gives the certificate that it was begun with. From here on the peer is known; said again, it changes
   * nothing and gives none.
   */
  done(socket: Socket): Own | undefined {
    return this.#over(endsOf(socket));
  }

  /** The connection of this raw socket has closed; the next one with the same ends may have begun before. */
  forget(socket: Socket): void {
    const ends = this.#ends.get(socket);
    if (ends !== undefined) this.#over(ends);
  }

  get underWay(): number {
    return this.#under.size;
  }

  #over(ends: string): Own | undefined {
    const begun = this.#under.get(ends);
    if (begun === undefined) return undefined;
    const { socket, share, own } = begun;
    this.#under.delete(ends);
    this.#ends.delete(socket);
    const left = (this.#byAddress.get(share) ?? 1) - 1;
    if (left === 0) this.#byAddress.delete(share);
    else this.#byAddress.set(share, left);
    return own;
  }
}

/** Of this end the address: one port may connect to several of ours. */
function endsOf({ remoteAddress = "", remotePort = 0, localAddress = "" }: Socket): string {
  return `${remoteAddress} ${remotePort} ${localAddress}`;
}
