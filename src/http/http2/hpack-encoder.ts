import {
  CONNECTION_SPECIFIC,
  KIND_MASK,
  TE,
  isFieldName,
  isFieldValue,
  markOfName,
  valueCharacters,
} from "./field-mark.ts";
import { ENTRY_OVERHEAD, STATIC_MAX, staticIndexOf, staticNames, staticValues } from "./hpack-static.ts";

/** Values of one name that were sent once are remembered up to here, to be indexed when they come again. */
const SEEN_MAX = 64;
/** A name whose values never came twice is written without a look-up this often before it is tried again. */
const SKIPS = 1024;
const NAMES_MAX = 512;
/** Characters of values that are remembered on a connection, tables included: whoever sends ever new ones must not fill memory. */
const REMEMBERED_MAX = 262_144;
/** Sent once, in no table: known by this instead of a number in the table. */
const SEEN = 0;
/** Shorter texts are written by a loop, longer ones by one native call. */
const LOOP_MAX = 64;

const NORMAL = 0;
/** Written so that no intermediary may index it either: secrets (RFC 7541, 7.1.3). */
const NEVER = 1;
/** A short cookie could be guessed by trying; long ones are as good as random. The bound is nghttp2's. */
const COOKIE = 2;
const COOKIE_GUESSABLE_MAX = 20;
/** Has no meaning beyond one connection of HTTP/1. */
const DROPPED = 3;
const TRAILERS_ONLY = 4;
const INVALID = 5;
/**
 * Credentials: a short one (Basic) could be guessed by trying, and is never indexed. A token of this length cannot: HPACK matches
 * whole values only (RFC 7541, 7.1.1), and it comes again with every request of its bearer.
 */
const CREDENTIALS = 6;
const CREDENTIALS_GUESSABLE_MAX = 100;
/** Between blocks; one for all connections. */
const noBytes = Buffer.alloc(0);

/** What the encoder knows of one name. */
class NameEntry {
  readonly name: string;
  readonly rule: number;
  readonly staticIndex: number;
  /** The last value that was found in a table, and its place: spares the look-up for what is always the same. */
  last = "";
  lastPlace = SEEN;
  /** Value to place: below 0 a static index, above 0 the number of the insertion, 0 for seen once. */
  readonly places = new Map<string, number>();
  /** The insertion that can lend its name. */
  namePlace = 0;
  seen = 0;
  found = 0;
  skips = 0;

  constructor(name: string, rule: number) {
    this.name = name;
    this.rule = rule;
    this.staticIndex = staticIndexOf.get(name) ?? 0;
    for (let index = this.staticIndex; index > 0 && staticNames[index] === name; index++) {
      const value = staticValues[index] as string;
      if (value !== "") this.places.set(value, -index);
    }
  }
}

function ruleOf(name: string): number {
  if (name.startsWith(":")) return NORMAL;
  if (name === "proxy-authorization" || name === "set-cookie") return NEVER;
  if (name === "authorization") return CREDENTIALS;
  if (name === "cookie") return COOKIE;
  const kind = markOfName(name) & KIND_MASK;
  if (kind === CONNECTION_SPECIFIC) return DROPPED;
  if (kind === TE) return TRAILERS_ONLY;
  return isFieldName(name) ? NORMAL : INVALID;
}

/**
 * Encodes header blocks of one direction of one connection (RFC 7541). What comes a second time is put into the dynamic
 * table, so that values which never repeat push nothing out; from then on it costs one look-up and one byte. A name
 * that the static table lacks is put there once.
 * Texts are not Huffman coded: on the links of a mesh bytes are cheaper than the loop.
 *
 * `begin`, then `field` for each field, then read `at`. Fields of one HTTP/1 connection are left out, names are written
 * in lower case, and whatever HTTP/2 cannot carry sets `invalid`: then the block must not be sent, and `forget` called.
 */
export class HpackEncoder {
  /** Where the next byte goes. */
  at = 0;
  /** A field of this block cannot be carried; the name of the first. */
  invalid: string | undefined = undefined;
  #out: Buffer = noBytes;
  #names = new Map<string, NameEntry>();
  /** Since the names were last forgotten. */
  #remembered = 0;
  readonly method = new NameEntry(":method", NORMAL);
  readonly scheme = new NameEntry(":scheme", NORMAL);
  readonly authority = new NameEntry(":authority", NORMAL);
  readonly path = new NameEntry(":path", NORMAL);
  readonly status = new NameEntry(":status", NORMAL);
  readonly protocol = new NameEntry(":protocol", NORMAL);

  // The dynamic table is known by the sizes of its entries alone; entry n lies at index 61 + #inserted - n + 1.
  #sizes: number[] = [];
  #mask = 31;
  #inserted = 0;
  #count = 0;
  #size = 0;
  readonly #sizeOwnMax: number;
  #sizeMax: number;
  /** The smallest limit since the last block, and whether any update is due. */
  #sizeLeast: number;
  #updateDue = false;

  /** `tableBytesMax` is the most that this side wants to keep; the peer may allow less. */
  constructor(tableBytesMax = 4096) {
    this.#sizeOwnMax = tableBytesMax;
    this.#sizeMax = Math.min(4096, tableBytesMax);
    this.#sizeLeast = this.#sizeMax;
    this.#updateDue = this.#sizeMax !== 4096;
  }

  /** The peer's SETTINGS_HEADER_TABLE_SIZE: the next block begins with what it has to know (RFC 7541, 4.2). */
  setLimit(bytes: number): void {
    const max = Math.min(bytes, this.#sizeOwnMax);
    if (max === this.#sizeMax && !this.#updateDue) return;
    this.#sizeLeast = this.#updateDue ? Math.min(this.#sizeLeast, max) : max;
    this.#sizeMax = max;
    this.#updateDue = true;
    this.#evict(0, this.#sizeLeast);
  }

  /** Forgets all that is in the table, and tells the peer in the next block. */
  forget(): void {
    this.#forgetNames();
    this.#sizeLeast = 0;
    this.#updateDue = true;
    this.#count = 0;
    this.#size = 0;
  }

  /** Starts a block at `at` in `out`, which has room for it: see `boundOf`. */
  begin(out: Buffer, at: number): void {
    this.#out = out;
    this.at = at;
    this.invalid = undefined;
    if (!this.#updateDue) return;
    this.#updateDue = false;
    if (this.#sizeLeast < this.#sizeMax) this.#integer(this.#sizeLeast, 0x1f, 0x20);
    this.#integer(this.#sizeMax, 0x1f, 0x20);
    this.#sizeLeast = this.#sizeMax;
  }

  field(name: string, value: string): void {
    this.known(this.#names.get(name) ?? this.#learn(name), value);
  }

  /** A field whose entry is at hand: the pseudo-fields. */
  known(entry: NameEntry, value: string): void {
    if (entry.rule !== NORMAL && (entry.rule !== CREDENTIALS || value.length < CREDENTIALS_GUESSABLE_MAX)) {
      this.#special(entry, value);
      return;
    }
    let place: number | undefined;
    if (value === entry.last) {
      place = entry.lastPlace;
    } else if (entry.skips > 0) {
      entry.skips--;
      this.#once(entry, value);
      return;
    } else {
      place = entry.places.get(value);
    }
    if (place === undefined) {
      this.#firstTime(entry, value);
    } else if (place < 0) {
      this.#found(entry, value, place);
      this.#integer(-place, 0x7f, 0x80);
    } else if (place > this.#inserted - this.#count) {
      this.#found(entry, value, place);
      this.#integer(STATIC_MAX + 1 + this.#inserted - place, 0x7f, 0x80);
    } else {
      this.#insert(entry, value);
    }
  }

  #found(entry: NameEntry, value: string, place: number): void {
    entry.last = value;
    entry.lastPlace = place;
    entry.found++;
  }

  #firstTime(entry: NameEntry, value: string): void {
    if (++entry.seen > SEEN_MAX) {
      if (entry.found === 0) entry.skips = SKIPS;
      this.#forgetEntry(entry);
    }
    if (value.length <= this.#sizeMax >> 2) this.#remember(entry, value, SEEN);
    this.#once(entry, value);
  }

  /** A value that has not come again yet is not indexed, unless its name needs an entry that lends it from then on. */
  #once(entry: NameEntry, value: string): void {
    const named = entry.staticIndex > 0 || entry.namePlace > this.#inserted - this.#count;
    if (named) this.#literal(entry, value, 0x00);
    else this.#insert(entry, value);
  }

  #remember(entry: NameEntry, value: string, place: number): void {
    this.#remembered += value.length;
    if (this.#remembered > REMEMBERED_MAX) this.#forgetNames();
    entry.places.set(value, place);
  }

  /** What lies in the table is not found any more, and is put there again when it comes. */
  #forgetNames(): void {
    this.#remembered = 0;
    this.#names.clear();
    const { method, scheme, authority, path, status, protocol } = this;
    for (const entry of [method, scheme, authority, path, status, protocol]) this.#forgetEntry(entry);
  }

  #forgetEntry(entry: NameEntry): void {
    for (const [value, place] of entry.places) if (place >= 0) entry.places.delete(value);
    entry.last = "";
    entry.lastPlace = entry.places.get("") ?? SEEN;
    entry.seen = 0;
    entry.found = 0;
  }

  #insert(entry: NameEntry, value: string): void {
    const size = entry.name.length + value.length + ENTRY_OVERHEAD;
    if (size > this.#sizeMax >> 1) {
      this.#literal(entry, value, 0x00);
      return;
    }
    // The literal may lend its name from an entry that this very insertion pushes out: it is read first.
    this.#literal(entry, value, 0x40);
    this.#evict(size, this.#sizeMax);
    if (this.#count > this.#mask) this.#grow();
    this.#inserted++;
    this.#sizes[this.#inserted & this.#mask] = size;
    this.#count++;
    this.#size += size;
    this.#remember(entry, value, this.#inserted);
    entry.last = value;
    entry.lastPlace = this.#inserted;
    entry.namePlace = this.#inserted;
  }

  #evict(bytes: number, sizeMax: number): void {
    while (this.#count > 0 && this.#size + bytes > sizeMax) {
      this.#size -= this.#sizes[(this.#inserted - this.#count + 1) & this.#mask] as number;
      this.#count--;
    }
  }

  #grow(): void {
    const mask = this.#mask * 2 + 1;
    const sizes: number[] = Array.from({ length: mask + 1 }, () => 0);
    for (let n = this.#inserted - this.#count + 1; n <= this.#inserted; n++)
      sizes[n & mask] = this.#sizes[n & this.#mask] as number;
    this.#sizes = sizes;
    this.#mask = mask;
  }

  #special(entry: NameEntry, value: string): void {
    switch (entry.rule) {
      case NEVER:
      case CREDENTIALS:
        this.#literal(entry, value, 0x10);
        return;
      case COOKIE:
        this.#literal(entry, value, value.length < COOKIE_GUESSABLE_MAX ? 0x10 : 0x00);
        return;
      case TRAILERS_ONLY:
        if (value.toLowerCase() === "trailers") this.#literal(entry, "trailers", 0x00);
        return;
      case INVALID:
        this.invalid ??= entry.name;
        return;
      default:
        return;
    }
  }

  /** `form` is 0x40 to insert, 0x00 not to, 0x10 never to. */
  #literal(entry: NameEntry, value: string, form: number): void {
    const mask = form === 0x40 ? 0x3f : 0x0f;
    if (entry.staticIndex > 0) {
      this.#integer(entry.staticIndex, mask, form);
    } else if (entry.namePlace > this.#inserted - this.#count) {
      this.#integer(STATIC_MAX + 1 + this.#inserted - entry.namePlace, mask, form);
    } else {
      this.#out[this.at++] = form;
      this.#text(entry.name);
    }
    if (!this.#text(value)) this.invalid ??= entry.name;
  }

  /** Writes and checks in one pass; false when the text cannot be a field's value. */
  #text(text: string): boolean {
    const length = text.length;
    this.#integer(length, 0x7f, 0x00);
    const out = this.#out;
    let at = this.at;
    if (length > LOOP_MAX) {
      if (!isFieldValue(text)) return false;
      out.write(text, at, length, "latin1");
      this.at = at + length;
      return true;
    }
    let fine = 1;
    for (let i = 0; i < length; i++) {
      const code = text.charCodeAt(i);
      fine &= valueCharacters[code] ?? 0;
      out[at++] = code;
    }
    this.at = at;
    if (length === 0) return true;
    const first = text.charCodeAt(0);
    const last = text.charCodeAt(length - 1);
    return fine === 1 && first !== 32 && first !== 9 && last !== 32 && last !== 9;
  }

  #integer(value: number, mask: number, form: number): void {
    if (value < mask) {
      this.#out[this.at++] = form | value;
      return;
    }
    this.#out[this.at++] = form | mask;
    let rest = value - mask;
    while (rest >= 0x80) {
      this.#out[this.at++] = (rest & 0x7f) | 0x80;
      rest >>= 7;
    }
    this.#out[this.at++] = rest;
  }

  /** Names come in any case from HTTP/1: each spelling leads to the entry of the lower-case name. */
  #learn(name: string): NameEntry {
    if (this.#names.size >= NAMES_MAX) this.#names.clear();
    const lower = name.toLowerCase();
    let entry = this.#names.get(lower);
    if (entry === undefined) {
      entry = new NameEntry(lower, lower.startsWith(":") ? INVALID : ruleOf(lower));
      this.#names.set(lower, entry);
    }
    if (lower !== name) this.#names.set(name, entry);
    return entry;
  }
}

/** The most bytes that a block of these fields can take; pseudo-fields are counted by the caller. */
export function boundOf(fields: readonly string[]): number {
  let bytes = 16;
  for (let i = 0; i < fields.length; i++) bytes += (fields[i] as string).length + 6;
  return bytes;
}
