import { ENTRY_OVERHEAD } from "./hpack-static.ts";

/** Limits of one decoded list of fields, pseudo-fields and cookie crumbs included. */
export interface FieldLimits {
  readonly fieldsMax: number;
  /** Names and values and 32 bytes for each field (RFC 9113, 6.5.2). */
  readonly bytesMax: number;
}

/** A decoded header block; one per connection, used again for every block. */
export class FieldList {
  readonly names: string[] = [];
  readonly values: string[] = [];
  /** See field-mark.ts. */
  readonly marks: number[] = [];
  count = 0;
  bytes = 0;
  /** The list is larger than allowed; what came after was decoded, for the table's sake, and dropped. */
  overflowed = false;
  readonly #limits: FieldLimits;

  constructor(limits: FieldLimits) {
    this.#limits = limits;
  }

  clear(): void {
    this.count = 0;
    this.bytes = 0;
    this.overflowed = false;
  }

  add(name: string, value: string, mark: number): void {
    const count = this.count;
    this.bytes += name.length + value.length + ENTRY_OVERHEAD;
    if (this.bytes > this.#limits.bytesMax || count >= this.#limits.fieldsMax) {
      this.overflowed = true;
      return;
    }
    this.names[count] = name;
    this.values[count] = value;
    this.marks[count] = mark;
    this.count = count + 1;
  }
}
