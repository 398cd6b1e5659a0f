import type { FieldList } from "./field-list.ts";
import { KnownBlocks } from "./known-blocks.ts";
import { markOf, markOfName } from "./field-mark.ts";
import { ENTRY_OVERHEAD, STATIC_MAX, staticNames, staticValues } from "./hpack-static.ts";
import { decodeHuffman } from "./huffman.ts";

const staticNameMarks = staticNames.map(markOfName);
const staticMarks = staticNames.map((_, index) =>
  markOf(staticNameMarks[index] as number, staticValues[index] as string),
);

/** No index, length or table size in HPACK needs more; longer integers are an attack (RFC 7541, 7.4). */
const INTEGER_MAX = 0x0fff_ffff;
const NONE = -1;
/** Between blocks; one for all connections. */
const noBytes = Buffer.alloc(0);

/** Decodes header blocks of one direction of one connection, in order (RFC 7541). */
export class HpackDecoder {
  /** What the last failure was, for logs. */
  because = "";
  #bytes: Buffer = noBytes;
  #at = 0;
  #end = 0;

  // The dynamic table: a ring, its newest entry just before `#next`.
  #names: string[] = [];
  #values: string[] = [];
  #nameMarks: number[] = [];
  #marks: number[] = [];
  #mask = 31;
  #next = 0;
  #count = 0;
  #size = 0;
  /** What the peer set by size updates. */
  #sizeMax: number;
  /** What we allow it to set: our SETTINGS_HEADER_TABLE_SIZE. */
  #sizeLimit: number;
  #mustShrink = false;
  /** How often the table, or what is allowed of it, has changed: what the same bytes mean depends on it. */
  #changes = 0;
  /** How many texts were read; what has none is read as fast as it is recognized. */
  #texts = 0;
  #known: KnownBlocks | undefined = undefined;

  /** `tableBytes` is what the connection begins with, `limit` what the peer may raise it to. */
  constructor(tableBytes = 4096, limit = tableBytes) {
    this.#sizeMax = tableBytes;
    this.#sizeLimit = limit;
  }

  /** Our SETTINGS_HEADER_TABLE_SIZE has been acknowledged; a smaller one has to be confirmed by a size update. */
  setLimit(bytes: number): void {
    this.#sizeLimit = bytes;
    this.#changes++;
    if (bytes < this.#sizeMax) this.#mustShrink = true;
  }

  /**
   * Decodes one whole block into `list`; false is a COMPRESSION_ERROR and the end of the connection, because the table
   * is then unknown.
   */
  decode(bytes: Buffer, start: number, end: number, list: FieldList): boolean {
    list.clear();
    const changes = this.#changes;
    const texts = this.#texts;
    if (this.#known?.repeat(bytes, start, end, changes, list) === true) return true;
    this.#bytes = bytes;
    this.#at = start;
    this.#end = end;
    if (!this.#sizeUpdates()) return false;
    while (this.#at < end) {
      const first = bytes[this.#at++] as number;
      if (first >= 0x80) {
        if (!this.#indexed(first, list)) return false;
      } else if (!this.#literal(first, list)) {
        return false;
      }
    }
    if (this.#texts > texts && this.#changes === changes)
      (this.#known ??= new KnownBlocks()).keep(bytes, start, end, changes, list);
    return true;
  }

  #fail(because: string): false {
    this.because = because;
    return false;
  }

  /** Size updates stand only at the beginning of a block, at most two of them (RFC 7541, 4.2). */
  #sizeUpdates(): boolean {
    let updates = 0;
    while (this.#at < this.#end) {
      const first = this.#bytes[this.#at] as number;
      if ((first & 0xe0) !== 0x20) break;
      this.#at++;
      const size = this.#integer(first, 0x1f);
      if (size === NONE) return false;
      if (size > this.#sizeLimit) return this.#fail("a dynamic table larger than allowed");
      if (++updates > 2) return this.#fail("more than two size updates in one block");
      this.#sizeMax = size;
      this.#changes++;
      this.#mustShrink = false;
      this.#evict(0);
    }
    if (this.#mustShrink && this.#at < this.#end) return this.#fail("no size update after the table was made smaller");
    return true;
  }

  #indexed(first: number, list: FieldList): boolean {
    let index = first & 0x7f;
    if (index === 0x7f) index = this.#integer(first, 0x7f);
    if (index <= 0) return index === NONE ? false : this.#fail("index 0");
    if (index <= STATIC_MAX) {
      list.add(staticNames[index] as string, staticValues[index] as string, staticMarks[index] as number);
      return true;
    }
    if (index - STATIC_MAX > this.#count) return this.#fail("an index above the table's end");
    const slot = (this.#next - (index - STATIC_MAX)) & this.#mask;
    list.add(this.#names[slot] as string, this.#values[slot] as string, this.#marks[slot] as number);
    return true;
  }

  #literal(first: number, list: FieldList): boolean {
    const keep = first >= 0x40;
    if (!keep && first >= 0x20) return this.#fail("a size update inside a block");
    const index = this.#integer(first, keep ? 0x3f : 0x0f);
    if (index === NONE) return false;
    let name: string | undefined;
    let nameMark: number;
    if (index === 0) {
      name = this.#text();
      if (name === undefined) return false;
      nameMark = markOfName(name);
    } else if (index <= STATIC_MAX) {
      name = staticNames[index] as string;
      nameMark = staticNameMarks[index] as number;
    } else {
      if (index - STATIC_MAX > this.#count) return this.#fail("an index above the table's end");
      const slot = (this.#next - (index - STATIC_MAX)) & this.#mask;
      name = this.#names[slot] as string;
      nameMark = this.#nameMarks[slot] as number;
    }
    const value = this.#text();
    if (value === undefined) return false;
    const mark = markOf(nameMark, value);
    list.add(name, value, mark);
    if (keep) this.#insert(name, value, nameMark, mark);
    return true;
  }

  /** An integer whose first byte has been read; -1 after a failure (RFC 7541, 5.1). */
  #integer(first: number, mask: number): number {
    let value = first & mask;
    if (value < mask) return value;
    for (let shift = 0; shift <= 21; shift += 7) {
      if (this.#at >= this.#end) {
        this.#fail("an integer that is cut off");
        return NONE;
      }
      const byte = this.#bytes[this.#at++] as number;
      value += (byte & 0x7f) << shift;
      if (byte < 0x80) {
        if (value <= INTEGER_MAX) return value;
        break;
      }
    }
    this.#fail("an integer above any use");
    return NONE;
  }

  #text(): string | undefined {
    if (this.#at >= this.#end) {
      this.#fail("a field that is cut off");
      return undefined;
    }
    this.#texts++;
    const first = this.#bytes[this.#at++] as number;
    const length = this.#integer(first, 0x7f);
    if (length === NONE) return undefined;
    const start = this.#at;
    if (length > this.#end - start) {
      this.#fail("a text longer than its block");
      return undefined;
    }
    this.#at = start + length;
    if (first < 0x80) return this.#bytes.toString("latin1", start, start + length);
    const text = decodeHuffman(this.#bytes, start, length);
    if (text === undefined) this.#fail("a Huffman text that ends wrongly");
    return text;
  }

  #insert(name: string, value: string, nameMark: number, mark: number): void {
    const size = name.length + value.length + ENTRY_OVERHEAD;
    this.#changes++;
    this.#evict(size);
    // An entry larger than the whole table empties it and is not kept (RFC 7541, 4.4).
    if (size > this.#sizeMax) return;
    if (this.#count > this.#mask) this.#grow();
    const slot = this.#next;
    this.#names[slot] = name;
    this.#values[slot] = value;
    this.#nameMarks[slot] = nameMark;
    this.#marks[slot] = mark;
    this.#next = (slot + 1) & this.#mask;
    this.#count++;
    this.#size += size;
  }

  /** Makes room for `bytes` more. */
  #evict(bytes: number): void {
    while (this.#count > 0 && this.#size + bytes > this.#sizeMax) {
      const oldest = (this.#next - this.#count) & this.#mask;
      this.#size -= (this.#names[oldest] as string).length + (this.#values[oldest] as string).length + ENTRY_OVERHEAD;
      this.#names[oldest] = "";
      this.#values[oldest] = "";
      this.#count--;
    }
  }

  #grow(): void {
    const first = (this.#next - this.#count) & this.#mask;
    const turned = <T>(ring: T[]): T[] => [...ring.slice(first), ...ring.slice(0, first)];
    this.#names = turned(this.#names);
    this.#values = turned(this.#values);
    this.#nameMarks = turned(this.#nameMarks);
    this.#marks = turned(this.#marks);
    this.#next = this.#count;
    this.#mask = this.#mask * 2 + 1;
  }
}
