import type { Socket } from "node:net";
import { shareOf } from "../base/ip-address.ts";

/**
 * Connections that nobody has proven anything on yet, by address: whoever holds no certificate can open as many as it likes, and
 * one address must not take the places of all.
 */
export class Handshakes {
  readonly #max: number;
  readonly #byAddress = new Map<string, number>();
  /** The address's share, by the far end, which raw and TLS socket have in common. */
  readonly #under = new Map<string, string>();

  constructor(max: number) {
    this.#max = max;
  }

  /** False where the address has its share already. */
  begin(socket: Socket): boolean {
    const share = shareOf(socket.remoteAddress ?? "");
    const count = this.#byAddress.get(share) ?? 0;
    if (count >= this.#max) return false;
    this.#byAddress.set(share, count + 1);
    this.#under.set(farEnd(socket), share);
    return true;
  }

  /** The handshake is done, or its connection closed. From here on the peer is known; said again, it changes nothing. */
  done(socket: Socket): void {
    const end = farEnd(socket);
    const share = this.#under.get(end);
    if (share === undefined) return;
    this.#under.delete(end);
    const left = (this.#byAddress.get(share) ?? 1) - 1;
    if (left === 0) this.#byAddress.delete(share);
    else this.#byAddress.set(share, left);
  }

  get underWay(): number {
    return this.#under.size;
  }
}

function farEnd(socket: Socket): string {
  return `${socket.remoteAddress ?? ""} ${socket.remotePort ?? 0}`;
}
