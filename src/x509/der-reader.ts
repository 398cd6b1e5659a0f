/**
 * A strict DER reader (X.690 §8 to §11): definite, minimal lengths, one-octet tags, canonical values, bounds
 * checked at every step. It throws `DerError` only; every exported reader of this room turns that into a refusal.
 */
export class DerError extends Error {
  override readonly name = "DerError";
}

export const tags = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  oid: 0x06,
  utf8String: 0x0c,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const;

/** A context-specific tag: `[n]`, constructed unless said otherwise. */
export function contextTag(n: number, constructed = true): number {
  return (constructed ? 0xa0 : 0x80) | n;
}

/** Deeper than any certificate or request goes (about ten). */
const depthMax = 24;

export class DerReader {
  readonly #bytes: Buffer;
  readonly #end: number;
  readonly #depth: number;
  #at: number;

  constructor(bytes: Buffer, range?: { start: number; end: number; depth: number }) {
    this.#bytes = bytes;
    this.#at = range?.start ?? 0;
    this.#end = range?.end ?? bytes.length;
    this.#depth = range?.depth ?? 0;
    if (this.#depth > depthMax) throw new DerError(`it is nested deeper than ${depthMax}`);
  }

  get done(): boolean {
    return this.#at >= this.#end;
  }

  /** The next tag, or -1 at the end. */
  get tag(): number {
    return this.done ? -1 : (this.#bytes[this.#at] as number);
  }

  /** Nothing may follow. */
  finish(what: string): void {
    if (!this.done) throw new DerError(`bytes follow ${what}`);
  }

  /** The content of the next element, as a reader. */
  enter(tag: number): DerReader {
    const { start, end } = this.#next(tag);
    return new DerReader(this.#bytes, { start, end, depth: this.#depth + 1 });
  }

  /** The content of the next element. */
  content(tag: number): Buffer {
    const { start, end } = this.#next(tag);
    return this.#bytes.subarray(start, end);
  }

  /** The whole next element, tag and length included. */
  element(tag: number): Buffer {
    const from = this.#at;
    return this.#bytes.subarray(from, this.#next(tag).end);
  }

  /** Passes over the next element, whatever it is. */
  skip(): void {
    this.#next(this.tag);
  }

  boolean(): boolean {
    const content = this.content(tags.boolean);
    if (content.length !== 1 || (content[0] !== 0 && content[0] !== 0xff)) {
      throw new DerError("a boolean is neither 00 nor FF");
    }
    return content[0] === 0xff;
  }

  /** An integer's content octets, minimal; the sign is in the first bit. */
  integer(): Buffer {
    const content = this.content(tags.integer);
    const [first, second] = content;
    if (first === undefined) throw new DerError("an integer is empty");
    if (second !== undefined && ((first === 0 && second < 0x80) || (first === 0xff && second >= 0x80))) {
      throw new DerError("an integer is not minimal");
    }
    return content;
  }

  /** An integer from 0 to 2^31 - 1. */
  smallInteger(): number {
    const content = this.integer();
    if (content.length > 4 || (content[0] as number) >= 0x80) throw new DerError("an integer is negative or too large");
    return content.readUIntBE(0, content.length);
  }

  /** An object identifier in dotted form. */
  oid(): string {
    const content = this.content(tags.oid);
    const known = knownOids.get(content.toString("latin1"));
    return known ?? oidText(content);
  }

  /** A bit string of whole octets. */
  bitOctets(): Buffer {
    const content = this.content(tags.bitString);
    if (content[0] !== 0) throw new DerError("a bit string is not of whole octets");
    return content.subarray(1);
  }

  /** The numbers of the bits set in a named bit list (X.690 §11.2.2: no trailing zero bits). */
  namedBits(): number[] {
    const content = this.content(tags.bitString);
    const unused = content[0];
    const last = content.at(-1);
    if (unused === undefined || unused > 7 || last === undefined) throw new DerError("a bit string is malformed");
    if (content.length === 1) {
      if (unused !== 0) throw new DerError("a bit string is malformed");
      return [];
    }
    if (((last >> unused) & 1) === 0 || (last & ((1 << unused) - 1)) !== 0) {
      throw new DerError("a bit list is not canonical");
    }
    const bits: number[] = [];
    for (let bit = 0; bit < (content.length - 1) * 8; bit++) {
      if ((((content[1 + (bit >> 3)] as number) >> (7 - (bit & 7))) & 1) === 1) bits.push(bit);
    }
    return bits;
  }

  /** A time of RFC 5280 §4.1.2.5 in milliseconds since 1970. */
  time(): number {
    if (this.tag === tags.utcTime) {
      const text = this.content(tags.utcTime).toString("latin1");
      const year = Number(text.slice(0, 2));
      return timeMs((year < 50 ? "20" : "19") + text);
    }
    const text = this.content(tags.generalizedTime).toString("latin1");
    if (Number(text.slice(0, 4)) < 2050) throw new DerError("a time before 2050 is no UTCTime");
    return timeMs(text);
  }

  /** Checks that everything from here on is well formed, constructed elements to their leaves. */
  walk(): void {
    while (!this.done) {
      const tag = this.tag;
      if ((tag & 0x20) !== 0) this.enter(tag).walk();
      else this.skip();
    }
  }

  #next(tag: number): { start: number; end: number } {
    const actual = this.tag;
    if (actual < 0) throw new DerError("it ends too early");
    if (actual !== tag) throw new DerError(`tag ${actual.toString(16)} stands where ${tag.toString(16)} was wanted`);
    if ((actual & 0x1f) === 0x1f) throw new DerError("a tag is of several octets");
    let start = this.#at + 1;
    if (start >= this.#end) throw new DerError("it ends too early");
    let length = this.#bytes[start++] as number;
    if (length >= 0x80) {
      const octets = length & 0x7f;
      if (octets === 0) throw new DerError("a length is indefinite");
      if (octets > 3) throw new DerError("a length is too large");
      if (start + octets > this.#end) throw new DerError("it ends too early");
      length = this.#bytes.readUIntBE(start, octets);
      if (length < 0x80 || length < 2 ** (8 * (octets - 1))) throw new DerError("a length is not minimal");
      start += octets;
    }
    const end = start + length;
    if (end > this.#end) throw new DerError("an element is longer than what holds it");
    this.#at = end;
    return { start, end };
  }
}

/** The content of the one sequence that `bytes` are, well formed to its leaves, with nothing after it. */
export function onlySequence(bytes: Buffer, what: string): DerReader {
  const outer = new DerReader(bytes);
  outer.element(tags.sequence);
  outer.finish(what);
  new DerReader(bytes).walk();
  return new DerReader(bytes).enter(tags.sequence);
}

const timeForm = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/;

function timeMs(text: string): number {
  const match = timeForm.exec(text);
  if (match === null) throw new DerError("a time is not YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ");
  const [year, month, day, hour, minute, second] = match.slice(1).map(Number) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const ms = Date.UTC(year, month - 1, day, hour, minute, second);
  // Date.UTC carries the 31st of April over into May: the way back shows it.
  const back = new Date(ms).toISOString();
  const same = `${match[1]}-${match[2]}-${match[3]}T${match[4]}:${match[5]}:${match[6]}.000Z`;
  if (back !== same) throw new DerError("a time names no moment");
  return ms;
}

function oidText(content: Buffer): string {
  const arcs: number[] = [];
  let value = 0;
  let fresh = true;
  for (const octet of content) {
    if (fresh && octet === 0x80) throw new DerError("an object identifier is not minimal");
    value = value * 128 + (octet & 0x7f);
    if (value > Number.MAX_SAFE_INTEGER / 128) throw new DerError("an object identifier is too large");
    fresh = octet < 0x80;
    if (fresh) {
      arcs.push(value);
      value = 0;
    }
  }
  const first = arcs[0];
  if (!fresh || first === undefined) throw new DerError("an object identifier is cut off");
  const top = Math.min(2, Math.floor(first / 40));
  return [top, first - top * 40, ...arcs.slice(1)].join(".");
}

/** Names of the identifiers that certificates are full of, so that reading one costs a lookup. */
const knownOids = new Map(
  [
    "551d0e",
    "551d0f",
    "551d11",
    "551d13",
    "551d1e",
    "551d23",
    "551d25",
    "2b06010505070301",
    "2b06010505070302",
    "2a8648ce3d040302",
  ].map((hex) => [Buffer.from(hex, "hex").toString("latin1"), oidText(Buffer.from(hex, "hex"))]),
);
