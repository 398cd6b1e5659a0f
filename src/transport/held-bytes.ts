/** Up to here a chunk is copied behind those before it: kept as an object of its own, it would cost more than its bytes do. */
const joinBytesMax = 4_096;
const blockBytesMin = 1_024;
const blockBytesMax = 65_536;

/**
 * Bytes that wait, in the order in which they came. Windows and limits count bytes, so a sender of single ones must not
 * cost us an object for each: small chunks are joined, and all that is held takes about twice its bytes at most.
 */
export class HeldBytes implements Iterable<Buffer> {
  bytes = 0;
  readonly #copy: (lent: Buffer) => Buffer;
  #chunks: Buffer[] = [];
  /**
   * The first small chunk, latin1, while it is all there is, as in most bodies: a small buffer of its own takes seven times
   * as long to make, and one out of Node's pool keeps 64 KiB.
   */
  #only = "";
  /** Where the next small chunk goes, and what of it is in no chunk yet. */
  #block: Buffer | undefined = undefined;
  #from = 0;
  #at = 0;

  /** `copy` makes what is kept of a chunk that is lent, and too large to be joined to others. */
  constructor(copy: (lent: Buffer) => Buffer = (lent) => Buffer.from(lent)) {
    this.#copy = copy;
  }

  /** `lent`: the chunk is good only until this returns. */
  add(chunk: Buffer, lent = false): void {
    const { length } = chunk;
    if (length === 0) return;
    this.bytes += length;
    if (length > joinBytesMax) {
      this.#seal();
      this.#chunks.push(lent ? this.#copy(chunk) : chunk);
    } else if (this.#block === undefined && this.#chunks.length === 0 && this.#only === "") {
      this.#only = chunk.toString("latin1");
    } else {
      const block = this.#blockFor(this.#only.length + length);
      this.#at += block.write(this.#only, this.#at, "latin1");
      this.#only = "";
      this.#at += chunk.copy(block, this.#at);
    }
  }

  /** The chunk that came first, or undefined where nothing is held. */
  get first(): Buffer | undefined {
    if (this.#chunks.length === 0) this.#seal();
    return this.#chunks[0];
  }

  /** Takes so many bytes off the first chunk, all of it by default. */
  drop(bytes?: number): void {
    const { first } = this;
    if (first === undefined) return;
    const dropped = bytes ?? first.length;
    this.bytes -= dropped;
    if (dropped < first.length) this.#chunks[0] = first.subarray(dropped);
    else this.#chunks.shift();
  }

  /** All that is held, which stays held. */
  [Symbol.iterator](): IterableIterator<Buffer> {
    this.#seal();
    return this.#chunks.values();
  }

  #blockFor(bytes: number): Buffer {
    const before = this.#block;
    if (before !== undefined && before.length - this.#at >= bytes) return before;
    if (before !== undefined) this.#seal();
    const size = before === undefined ? blockBytesMin : Math.min(2 * before.length, blockBytesMax);
    const block = Buffer.allocUnsafeSlow(Math.max(size, bytes));
    this.#block = block;
    this.#from = 0;
    this.#at = 0;
    return block;
  }

  /** Makes a chunk of what was joined. The rest of its block is for those that follow. */
  #seal(): void {
    if (this.#only !== "") {
      const chunk = Buffer.allocUnsafeSlow(this.#only.length);
      chunk.write(this.#only, "latin1");
      this.#only = "";
      this.#chunks.push(chunk);
    }
    if (this.#block === undefined || this.#at === this.#from) return;
    this.#chunks.push(this.#block.subarray(this.#from, this.#at));
    this.#from = this.#at;
  }
}
