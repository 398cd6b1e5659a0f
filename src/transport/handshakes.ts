import type { Socket } from "node:net";
import { shareOf } from "../base/ip-address.ts";

/**
 * Connections that nobody has proven anything on yet, by address: whoever holds no certificate can open as many as it likes, and
 * one address must not take the places of all.
 */
export class Handshakes<Own> {
  readonly #max: number;
  readonly #byAddress = new Map<string, number>();
  /** By the far end, which raw and TLS socket have in common. */
  readonly #under = new Map<string, { readonly share: string; readonly own: Own }>();

  constructor(max: number) {
    this.#max = max;
  }

  /** With the certificate that this side shows from now on; false where the address has its share already. */
  begin(socket: Socket, own: Own): boolean {
    const share = shareOf(socket.remoteAddress ?? "");
    const count = this.#byAddress.get(share) ?? 0;
    if (count >= this.#max) return false;
    this.#byAddress.set(share, count + 1);
    this.#under.set(farEnd(socket), { share, own });
    return true;
  }

  /**
   * The handshake is done, or its connection closed: gives the certificate that it was begun with. From here on the peer is known;
   * said again, it changes nothing and gives none.
   */
  done(socket: Socket): Own | undefined {
    const end = farEnd(socket);
    const begun = this.#under.get(end);
    if (begun === undefined) return undefined;
    const { share, own } = begun;
    this.#under.delete(end);
    const left = (this.#byAddress.get(share) ?? 1) - 1;
    if (left === 0) this.#byAddress.delete(share);
    else this.#byAddress.set(share, left);
    return own;
  }

  get underWay(): number {
    return this.#under.size;
  }
}

function farEnd(socket: Socket): string {
  return `${socket.remoteAddress ?? ""} ${socket.remotePort ?? 0}`;
}
