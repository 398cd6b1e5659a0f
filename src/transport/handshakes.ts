import type { Socket } from "node:net";
import { shareOf } from "../base/ip-address.ts";

/**
 * Connections that nobody has proven anything on yet, by address: whoever holds no certificate can open as many as it likes, and
 * one address must not take the places of all.
 */
export class Handshakes {
  readonly #max: number;
  readonly #byAddress = new Map<string, number>();
  /** By the far end, which raw and TLS socket have in common. */
  readonly #under = new Map<string, () => void>();

  constructor(max: number) {
    this.#max = max;
  }

  /** False where the address has its share already. */
  begin(socket: Socket): boolean {
    const share = shareOf(socket.remoteAddress ?? "");
    const count = this.#byAddress.get(share) ?? 0;
    if (count >= this.#max) return false;
    this.#byAddress.set(share, count + 1);
    const end = farEnd(socket);
    const over = (): void => {
      if (!this.#under.delete(end)) return;
      const left = (this.#byAddress.get(share) ?? 1) - 1;
      if (left === 0) this.#byAddress.delete(share);
      else this.#byAddress.set(share, left);
    };
    this.#under.set(end, over);
    socket.once("close", over);
    return true;
  }

  /** The handshake is done: from here on the peer is known. */
  done(socket: Socket): void {
    this.#under.get(farEnd(socket))?.();
  }

  get underWay(): number {
    return this.#under.size;
  }
}

function farEnd(socket: Socket): string {
  return `${socket.remoteAddress ?? ""} ${socket.remotePort ?? 0}`;
}
