import { decodeHuffman } from "../../src/http/http2/huffman.ts";
import { staticNames, staticValues } from "../../src/http/http2/hpack-static.ts";

/**
 * HPACK read as RFC 7541 tells it, in the plainest way: a list that is spliced, integers without a bound but that of
 * our decoder, no marks. Only Huffman's table and the static one are shared with what it is compared to.
 */
export class ReferenceDecoder {
  #table: [string, string][] = [];
  #sizeMax: number;
  readonly #limit: number;

  constructor(limit: number) {
    this.#sizeMax = limit;
    this.#limit = limit;
  }

  /** The fields, or undefined where the block is none. */
  decode(block: Buffer): [string, string][] | undefined {
    try {
      return this.#decode(new Cursor(block));
    } catch (thrown) {
      if (thrown instanceof RangeError) return undefined;
      throw thrown;
    }
  }

  #decode(at: Cursor): [string, string][] {
    const fields: [string, string][] = [];
    let updates = 0;
    while (!at.done) {
      const first = at.byte();
      if (first >= 0x80) {
        fields.push(this.#entry(at.integer(first, 0x7f)));
        continue;
      }
      if (first >= 0x20 && first < 0x40) {
        const size = at.integer(first, 0x1f);
        if (fields.length > 0 || ++updates > 2 || size > this.#limit) throw new RangeError("size update");
        this.#sizeMax = size;
        this.#evict();
        continue;
      }
      const index = at.integer(first, first >= 0x40 ? 0x3f : 0x0f);
      const name = index === 0 ? at.text() : this.#entry(index)[0];
      const field: [string, string] = [name, at.text()];
      fields.push(field);
      if (first >= 0x40) {
        this.#table.unshift(field);
        this.#evict();
      }
    }
    return fields;
  }

  #entry(index: number): [string, string] {
    if (index >= 1 && index <= 61) return [staticNames[index] as string, staticValues[index] as string];
    const entry = this.#table[index - 62];
    if (entry === undefined) throw new RangeError("index");
    return entry;
  }

  #evict(): void {
    const size = (): number => this.#table.reduce((sum, [name, value]) => sum + name.length + value.length + 32, 0);
    while (size() > this.#sizeMax) this.#table.pop();
  }
}

class Cursor {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get done(): boolean {
    return this.#at >= this.#bytes.length;
  }

  byte(): number {
    if (this.done) throw new RangeError("cut off");
    return this.#bytes[this.#at++] as number;
  }

  integer(first: number, mask: number): number {
    let value = first & mask;
    if (value < mask) return value;
    for (let power = 0; ; power++) {
      const byte = this.byte();
      value += (byte & 0x7f) * 128 ** power;
      if (byte < 0x80 && value <= 0x0fff_ffff) return value;
      if (power === 3) throw new RangeError("integer");
    }
  }

  text(): string {
    const first = this.byte();
    const length = this.integer(first, 0x7f);
    if (length > this.#bytes.length - this.#at) throw new RangeError("text");
    const start = this.#at;
    this.#at += length;
    if (first < 0x80) return this.#bytes.toString("latin1", start, this.#at);
    const text = decodeHuffman(this.#bytes, start, length);
    if (text === undefined) throw new RangeError("Huffman");
    return text;
  }
}
