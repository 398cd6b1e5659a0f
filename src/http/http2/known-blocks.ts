import type { FieldList } from "./field-list.ts";

/** A head and its trailers, of two kinds of message. */
const blocksMax = 4;
/** Longer ones are not kept, nor such of more fields. */
const bytesMax = 256;
const fieldsMax = 32;
/** After so many blocks in a row that were none of the known ones, it looks away for the next `rest`. */
const missesMax = 16;
const rest = 512;

interface Block {
  readonly bytes: Buffer;
  /** The state of the decoder in which these bytes mean this. */
  readonly changes: number;
  readonly names: readonly string[];
  readonly values: readonly string[];
  readonly marks: readonly number[];
}

/**
 * The last few blocks of a connection that changed nothing in the decoder's table, with what they said: answers of one kind are
 * the same bytes again and again, and servers that index nothing send them Huffman coded each time.
 */
export class KnownBlocks {
  readonly #blocks: Block[] = [];
  #next = 0;
  #misses = 0;
  #resting = 0;

  /** Fills the empty list with what the same bytes said in the same state; false where they are not known. */
  repeat(bytes: Buffer, start: number, end: number, changes: number, list: FieldList): boolean {
    if (this.#resting > 0) {
      this.#resting--;
      return false;
    }
    const length = end - start;
    for (let at = 0; at < this.#blocks.length; at++) {
      const block = this.#blocks[at] as Block;
      if (block.bytes.length !== length || block.changes !== changes || !isSame(block.bytes, bytes, start)) continue;
      const { names, values, marks } = block;
      for (let i = 0; i < names.length; i++) list.add(names[i] as string, values[i] as string, marks[i] as number);
      this.#misses = 0;
      return true;
    }
    return false;
  }

  keep(bytes: Buffer, start: number, end: number, changes: number, list: FieldList): void {
    if (this.#resting > 0) return;
    if (++this.#misses > missesMax) {
      this.#misses = 0;
      this.#resting = rest;
      return;
    }
    const { count } = list;
    if (end - start > bytesMax || count > fieldsMax || list.overflowed) return;
    this.#blocks[this.#next] = {
      bytes: Buffer.from(bytes.subarray(start, end)),
      changes,
      names: list.names.slice(0, count),
      values: list.values.slice(0, count),
      marks: list.marks.slice(0, count),
    };
    this.#next = (this.#next + 1) % blocksMax;
  }
}

function isSame(known: Buffer, bytes: Buffer, start: number): boolean {
  for (let i = 0; i < known.length; i++) if (known[i] !== bytes[start + i]) return false;
  return true;
}
