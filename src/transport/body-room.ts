/** A connection that wants room. */
export interface Roomer {
  /** There may be room now. */
  reopen(): void;
  /** That threw: it ends itself. Whoever gave room, and the others that wait, are not concerned. */
  broke(thrown: unknown): void;
}

/** Not everybody looks at once: a crowd of waiting connections would make each byte that is read a dear one. */
const wokenMax = 8;
/** Less than this is nobody woken for. */
const worthBytes = 16_384;

/** Connections that got less room than they asked for, first come, first served. */
class Waiting {
  readonly #roomers = new Set<Roomer>();
  readonly #freeBytes: () => number;
  #waking = false;

  constructor(freeBytes: () => number) {
    this.#freeBytes = freeBytes;
  }

  get size(): number {
    return this.#roomers.size;
  }

  add(roomer: Roomer): void {
    this.#roomers.add(roomer);
  }

  delete(roomer: Roomer): void {
    this.#roomers.delete(roomer);
  }

  /** Whoever is woken takes all that it wants, or all that there is: so this comes to an end. */
  wake(): void {
    if (this.#roomers.size === 0 || this.#waking || this.#freeBytes() < worthBytes) return;
    this.#waking = true;
    let left = wokenMax;
    for (const roomer of this.#roomers) {
      if (left-- === 0 || this.#freeBytes() < worthBytes) break;
      this.#roomers.delete(roomer);
      try {
        roomer.reopen();
      } catch (thrown) {
        roomer.broke(thrown);
      }
    }
    setImmediate(() => {
      this.#waking = false;
      this.wake();
    });
  }
}

/**
 * Room in a process for bodies of HTTP/2: what its peers may send, and what lies unconsumed, beyond the window that every
 * connection always has. A window is opened further only where there is room, so that all connections together hold no more
 * than `bytesMax` and what each has in any case, whatever their peers send and whoever does not read.
 */
export class BodyRoom {
  readonly bytesMax: number;
  readonly waiting: Waiting;
  taken = 0;
  /** Of peers that had all of their share: it grows with what others give. */
  readonly #atShare = new Set<Waiting>();
  #looking = false;

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax;
    this.waiting = new Waiting(() => this.bytesMax - this.taken);
  }

  /** More than half is taken: windows are opened for what is held, and no longer for speed. */
  get isPressed(): boolean {
    return this.taken * 2 > this.bytesMax;
  }

  waitsAtShare(waiting: Waiting): void {
    this.#atShare.add(waiting);
  }

  /** Some room was given back. */
  given(): void {
    this.waiting.wake();
    if (this.#looking || this.#atShare.size === 0) return;
    this.#looking = true;
    // Once a turn, however much is given in it: there may be many peers.
    setImmediate(() => {
      this.#looking = false;
      for (const waiting of this.#atShare) {
        if (waiting.size === 0) this.#atShare.delete(waiting);
        else waiting.wake();
      }
    });
  }

  /** Of the room that all others leave, the connections of one share together get at most `ratio`. */
  share(ratio: number): RoomShare {
    return new RoomShare(this, ratio);
  }
}

/** What the connections of one peer have together of the room. */
export class RoomShare {
  readonly #room: BodyRoom;
  readonly #ratio: number;
  readonly #waiting: Waiting;
  #own = 0;

  constructor(room: BodyRoom, ratio: number) {
    this.#room = room;
    this.#ratio = ratio;
    this.#waiting = new Waiting(() => this.#freeBytes);
  }

  get isPressed(): boolean {
    return this.#room.isPressed;
  }

  get #freeBytes(): number {
    const { bytesMax, taken } = this.#room;
    return Math.floor((bytesMax - taken + this.#own) * this.#ratio) - this.#own;
  }

  /** Takes up to `bytes`; gives how many there were. Where they were fewer, the roomer hears of it when there may be more. */
  take(bytes: number, roomer: Roomer): number {
    const room = this.#room;
    const free = room.bytesMax - room.taken;
    const left = this.#freeBytes;
    const got = Math.max(0, Math.min(bytes, free, left));
    room.taken += got;
    this.#own += got;
    if (got < bytes && left < free) {
      this.#waiting.add(roomer);
      room.waitsAtShare(this.#waiting);
    } else if (got < bytes) {
      room.waiting.add(roomer);
    }
    return got;
  }

  give(bytes: number): void {
    if (bytes === 0) return;
    this.#own -= bytes;
    this.#room.taken -= bytes;
    this.#waiting.wake();
    this.#room.given();
  }

  leaves(roomer: Roomer): void {
    this.#waiting.delete(roomer);
    this.#room.waiting.delete(roomer);
  }
}
