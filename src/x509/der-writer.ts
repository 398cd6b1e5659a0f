import { contextTag, tags } from "./der-reader.ts";

/** One DER element: tag, minimal length, content. */
export function der(tag: number, ...contents: readonly Uint8Array[]): Buffer {
  let length = 0;
  for (const content of contents) length += content.length;
  return Buffer.concat([header(tag, length), ...contents]);
}

/** Tag and minimal length of an element whose content has `length` octets, below 2^24. */
export function header(tag: number, length: number): Buffer {
  if (length < 0x80) return Buffer.from([tag, length]);
  if (length < 0x100) return Buffer.from([tag, 0x81, length]);
  if (length < 0x10000) return Buffer.from([tag, 0x82, length >> 8, length & 0xff]);
  return Buffer.from([tag, 0x83, length >> 16, (length >> 8) & 0xff, length & 0xff]);
}

export function sequence(...contents: readonly Uint8Array[]): Buffer {
  return der(tags.sequence, ...contents);
}

export function octetString(content: Uint8Array): Buffer {
  return der(tags.octetString, content);
}

/** A bit string of whole octets. */
export function bitOctets(content: Uint8Array): Buffer {
  return der(tags.bitString, zero, content);
}

/** A non-negative integer from its big-endian octets: leading zeros go, a sign octet comes where it is needed. */
export function integer(octets: Uint8Array): Buffer {
  let start = 0;
  while (start < octets.length - 1 && octets[start] === 0) start++;
  const minimal = octets.subarray(start);
  if (minimal.length === 0) return der(tags.integer, zero);
  return (minimal[0] as number) >= 0x80 ? der(tags.integer, zero, minimal) : der(tags.integer, minimal);
}

/** A non-negative integer below 2^48. */
export function smallInteger(value: number): Buffer {
  const octets = Buffer.alloc(6);
  octets.writeUIntBE(value, 0, 6);
  return integer(octets);
}

export function explicit(n: number, ...contents: readonly Uint8Array[]): Buffer {
  return der(contextTag(n), ...contents);
}

/** An object identifier from its dotted form. */
export function oid(text: string): Buffer {
  const [top = 0, second = 0, ...rest] = text.split(".").map(Number);
  const octets: number[] = [];
  for (const arc of [top * 40 + second, ...rest]) {
    const groups = [arc % 128];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128)) groups.unshift((left % 128) | 0x80);
    octets.push(...groups);
  }
  return der(tags.oid, Buffer.from(octets));
}

/** A time of RFC 5280 §4.1.2.5: UTCTime before 2050, GeneralizedTime from then on; fractions of a second are cut. */
export function time(atMs: number): Buffer {
  const digits = new Date(atMs).toISOString().slice(0, 19).replace(/[-T:]/g, "");
  const utc = atMs >= utcFromMs && atMs < generalizedFromMs;
  return der(utc ? tags.utcTime : tags.generalizedTime, Buffer.from(`${utc ? digits.slice(2) : digits}Z`, "latin1"));
}

/** Certificates know whole seconds only; what is asked for is cut, never rounded up. */
export function wholeSecondsMs(atMs: number): number {
  return Math.floor(atMs / 1000) * 1000;
}

const zero = Buffer.from([0]);
const utcFromMs = Date.UTC(1950, 0, 1);
const generalizedFromMs = Date.UTC(2050, 0, 1);
