const slotsMin = 16;
/** Of tables that are empty; never written to. */
const noSlots: never[] = [];

/** What a table needs to know of what it holds. */
interface Numbered {
  readonly id: number;
}

/**
 * The open streams of a connection by their number: open addressing, at most half full. A `Map` would do, but for what it
 * costs the collector where entries come and go all the time: each table that a Map has outgrown points to its successor, so
 * that one which has grown old keeps every later one, and all streams in them, until a full collection (measured: a third of
 * all that was allocated for requests).
 */
export class StreamTable<S extends Numbered> {
  #slots: (S | undefined)[] = noSlots;
  #mask = -1;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get(id: number): S | undefined {
    if (this.#size === 0) return undefined;
    return this.#slots[this.#find(id)];
  }

  /** Puts it where its number is; one of the same number goes. */
  set(stream: S): void {
    if (this.#size * 2 >= this.#slots.length) this.#grow();
    const at = this.#find(stream.id);
    if (this.#slots[at] === undefined) this.#size++;
    this.#slots[at] = stream;
  }

  delete(id: number): void {
    if (this.#size === 0) return;
    const slots = this.#slots;
    const mask = this.#mask;
    let hole = this.#find(id);
    if (slots[hole] === undefined) return;
    this.#size--;
    // Whoever was pushed further because of this one moves back, so that no search ends at the hole too early.
    for (let at = (hole + 1) & mask; slots[at] !== undefined; at = (at + 1) & mask) {
      const home = this.#home((slots[at] as S).id);
      if (((at - home) & mask) < ((at - hole) & mask)) continue;
      slots[hole] = slots[at];
      hole = at;
    }
    slots[hole] = undefined;
  }

  clear(): void {
    this.#slots = noSlots;
    this.#mask = -1;
    this.#size = 0;
  }

  /** All of now, in no order: what comes and goes meanwhile changes nothing of it. */
  values(): S[] {
    return this.#slots.filter((stream) => stream !== undefined);
  }

  /** Where it is, or the free place where it would be. */
  #find(id: number): number {
    const slots = this.#slots;
    let at = this.#home(id);
    for (;;) {
      const stream = slots[at];
      if (stream === undefined || stream.id === id) return at;
      at = (at + 1) & this.#mask;
    }
  }

  /** Multiplied by the golden ratio, so that a peer's choice of numbers does not put them side by side. */
  #home(id: number): number {
    return (Math.imul(id, 0x9e37_79b1) >>> 16) & this.#mask;
  }

  #grow(): void {
    const before = this.#slots;
    const length = Math.max(slotsMin, before.length * 2);
    this.#slots = Array.from({ length }, () => undefined);
    this.#mask = length - 1;
    for (const stream of before) if (stream !== undefined) this.#slots[this.#find(stream.id)] = stream;
  }
}
