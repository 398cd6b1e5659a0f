/** How a stream ended; what may still arrive for it depends on that (RFC 9113, 5.1). */
export const ENDED = 1;
/** We reset it: the peer may not know yet, so whatever comes is dropped. */
export const RESET_BY_US = 2;
export const RESET_BY_PEER = 3;
/** So long ago that nobody remembers. */
export const FORGOTTEN = 4;
/** Never opened, and skipped by a higher number. */
export const SKIPPED = 5;

const KEPT = 256;

/** The last streams that ended on a connection. Written for every stream, read only when a frame comes too late. */
export class ClosedStreams {
  #ids: Uint32Array | undefined = undefined;
  #how: Uint8Array | undefined = undefined;
  #total = 0;

  add(id: number, how: number): void {
    this.#ids ??= new Uint32Array(KEPT);
    this.#how ??= new Uint8Array(KEPT);
    const slot = this.#total % KEPT;
    this.#total++;
    this.#ids[slot] = id;
    this.#how[slot] = how;
  }

  /** How a stream ended that is neither open nor idle. */
  find(id: number): number {
    const slot = this.#ids?.lastIndexOf(id) ?? -1;
    if (slot >= 0) return this.#how?.[slot] ?? FORGOTTEN;
    return this.#total <= KEPT ? SKIPPED : FORGOTTEN;
  }
}
