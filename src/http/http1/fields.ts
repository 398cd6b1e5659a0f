import type { FailureCode } from "../../base/errors.ts";
import type { Fields } from "../message.ts";
import { requestNameBytes, sameName, tokenBytes, valueBytes } from "./characters.ts";

export type FieldsKind = "request" | "response";

const absent = -1;

/**
 * Reads the field lines of one head in a single pass, and judges on the way what frames the message and what belongs to
 * this hop alone (RFC 9110, 7.6.1): such fields do not get into `fields`. One reader serves all messages of a connection.
 */
export class FieldReader {
  fields: Fields = [];
  host: string | undefined;
  /** -1: there was no Content-Length. */
  contentLength = absent;
  contentLengthText = "";
  chunked = false;
  close = false;
  keepAlive = false;
  /** Connection says that Upgrade is meant for this hop. */
  upgradeOption = false;
  /** The protocols of all Upgrade fields, as a list; "" for none. */
  upgrade = "";
  /** The request waits for `100 Continue` before it sends its body. */
  expectsContinue = false;
  code: FailureCode = "REQUEST_INVALID";
  because = "";
  readonly #fieldsMax: number;
  readonly #nameBytes: Uint8Array;
  readonly #kind: FieldsKind;
  /** What Connection names beside the well-known: fields to be taken out again. */
  #named: string[] = [];

  constructor(kind: FieldsKind, fieldsMax: number) {
    this.#kind = kind;
    this.#fieldsMax = fieldsMax;
    // An answer's X_Name deceives nobody about who called: applications may send it.
    this.#nameBytes = nameBytesOf(kind);
  }

  /** Reads whole lines from `at` to the end of the text, each with its CRLF; false: `code` and `because` say why not. */
  read(text: string, at: number): boolean {
    this.#reset();
    const names = this.#nameBytes;
    const fields = this.fields;
    const end = text.length;
    let count = 0;
    while (at < end) {
      const nameAt = at;
      let byte = text.charCodeAt(at);
      while (names[byte] === 1) byte = text.charCodeAt(++at);
      if (byte !== 58 || at === nameAt) return this.#failName(byte, at === nameAt);
      const nameEnd = at;
      do byte = text.charCodeAt(++at);
      while (byte === 32 || byte === 9);
      const valueAt = at;
      while (valueBytes[byte] === 1) byte = text.charCodeAt(++at);
      if (byte !== 13 || text.charCodeAt(at + 1) !== 10) return this.fail("a field value holds a control character");
      let valueEnd = at;
      while (valueEnd > valueAt && isBlank(text.charCodeAt(valueEnd - 1))) valueEnd--;
      at += 2;
      if (++count > this.#fieldsMax)
        return this.fail(`it has more than ${this.#fieldsMax} fields`, "HEADERS_TOO_LARGE");
      const known = this.#judge(text, nameAt, nameEnd, valueAt, valueEnd);
      if (known < 0) return false;
      if (known === 0) fields.push(text.slice(nameAt, nameEnd), text.slice(valueAt, valueEnd));
    }
    if (this.#named.length > 0) this.#removeNamed();
    return this.chunked && this.contentLength !== absent
      ? this.fail("it has both Content-Length and Transfer-Encoding")
      : true;
  }

  fail(because: string, code: FailureCode = "REQUEST_INVALID"): false {
    this.because = because;
    this.code = code;
    return false;
  }

  #reset(): void {
    this.fields = [];
    this.host = undefined;
    this.contentLength = absent;
    this.chunked = false;
    this.close = false;
    this.keepAlive = false;
    this.upgradeOption = false;
    this.upgrade = "";
    this.expectsContinue = false;
    if (this.#named.length > 0) this.#named = [];
  }

  #failName(byte: number, first: boolean): false {
    if (first && isBlank(byte)) return this.fail("a field line is folded or begins with white space");
    if (isBlank(byte)) return this.fail("there is white space between a field name and its colon");
    if (byte === 95) return this.fail('a field name holds "_"');
    return this.fail("a field name is empty or holds a character that no name may hold");
  }

  /** 0: an ordinary field; 1: judged, and not passed on; -1: refused. */
  #judge(text: string, nameAt: number, nameEnd: number, valueAt: number, valueEnd: number): number {
    switch (nameEnd - nameAt) {
      case 2:
        return sameName(text, nameAt, "te") ? 1 : 0;
      case 4:
        if (this.#kind === "response" || !sameName(text, nameAt, "host")) return 0;
        if (this.host !== undefined) return this.#refuse("it has more than one Host");
        this.host = text.slice(valueAt, valueEnd);
        return 1;
      case 6:
        if (this.#kind === "request" && sameName(text, nameAt, "expect")) {
          this.expectsContinue = text.slice(valueAt, valueEnd).toLowerCase() === "100-continue";
        }
        return 0; // End to end: who answers decides about the body.
      case 7:
        if (sameName(text, nameAt, "upgrade")) return this.#protocols(text.slice(valueAt, valueEnd));
        return sameName(text, nameAt, "trailer") ? 1 : 0;
      case 10:
        if (sameName(text, nameAt, "connection")) return this.#connection(text.slice(valueAt, valueEnd));
        return sameName(text, nameAt, "keep-alive") ? 1 : 0;
      case 14:
        if (sameName(text, nameAt, "content-length")) return this.#length(text, valueAt, valueEnd);
        return sameName(text, nameAt, "http2-settings") ? 1 : 0;
      case 16:
        if (!sameName(text, nameAt, "proxy-connection")) return 0;
        // Never standardized, and read like Connection by many.
        if (valueEnd - valueAt === 5 && sameName(text, valueAt, "close")) this.close = true;
        return 1;
      case 17:
        if (!sameName(text, nameAt, "transfer-encoding")) return 0;
        if (this.chunked) return this.#refuse("it has more than one Transfer-Encoding");
        // White space behind it is not trimmed: llhttp takes "chunked" and a tab for another coding.
        if (text.charCodeAt(valueAt + 7) !== 13 || !sameName(text, valueAt, "chunked")) {
          return this.#refuse("its Transfer-Encoding is not exactly chunked");
        }
        this.chunked = true;
        return 1;
      default:
        return 0;
    }
  }

  #refuse(because: string): -1 {
    this.fail(because);
    return -1;
  }

  #length(text: string, at: number, end: number): number {
    if (this.contentLength !== absent) return this.#refuse("it has more than one Content-Length");
    // Fifteen digits are a petabyte, and still an exact number.
    if (end === at || end - at > 15) return this.#refuse("its Content-Length is not a number of 1 to 15 digits");
    let length = 0;
    for (let i = at; i < end; i++) {
      const digit = text.charCodeAt(i) - 48;
      if (digit < 0 || digit > 9) return this.#refuse("its Content-Length is not a number of 1 to 15 digits");
      length = length * 10 + digit;
    }
    this.contentLength = length;
    this.contentLengthText = text.slice(at, end);
    return 1;
  }

  #protocols(value: string): number {
    this.upgrade = this.upgrade === "" ? value : `${this.upgrade},${value}`;
    return 1;
  }

  #connection(value: string): number {
    if (value === "keep-alive") {
      this.keepAlive = true;
      return 1;
    }
    for (const part of value.split(",")) {
      const option = part.trim().toLowerCase();
      if (option === "close") this.close = true;
      else if (option === "keep-alive") this.keepAlive = true;
      else if (option === "upgrade") this.upgradeOption = true;
      else if (option !== "") this.#named.push(option);
    }
    return 1;
  }

  #removeNamed(): void {
    const named = new Set(this.#named);
    const kept: Fields = [];
    for (let i = 0; i < this.fields.length; i += 2) {
      const name = this.fields[i] as string;
      if (!named.has(name.toLowerCase())) kept.push(name, this.fields[i + 1] as string);
    }
    this.fields = kept;
  }
}

function nameBytesOf(kind: FieldsKind): Uint8Array {
  return kind === "request" ? requestNameBytes : tokenBytes;
}

function isBlank(byte: number): boolean {
  return byte === 32 || byte === 9;
}

/**
 * What must not come behind a body, because it was needed before it (RFC 9110, 6.5.1): framing, routing, credentials,
 * what describes the content, and what controls the answer. Named by whole names.
 */
const neverTrailers = new Set(
  (
    "age authorization cache-control connection content-encoding content-length content-range content-type cookie date " +
    "expect expires forwarded host if-match if-modified-since if-none-match if-range if-unmodified-since keep-alive " +
    "location max-forwards pragma proxy-authenticate proxy-authorization proxy-connection range retry-after set-cookie " +
    "te trailer transfer-encoding upgrade vary warning www-authenticate x-forwarded-client-cert x-request-id traceparent"
  ).split(" "),
);

/** Whether a trailer field of this name may be passed on; what Hauberk itself writes never comes from a peer. */
export function mayTrail(name: string): boolean {
  const lower = name.toLowerCase();
  return !neverTrailers.has(lower) && !lower.startsWith("x-hauberk-") && !lower.startsWith("x-forwarded-");
}

/** Reads a trailer section; forbidden fields are dropped. A text: why it is refused. */
export function readTrailers(text: string, fieldsMax: number, kind: FieldsKind): Fields | string {
  const nameBytes = nameBytesOf(kind);
  const trailers: Fields = [];
  let at = 0;
  let count = 0;
  while (at < text.length) {
    const colon = text.indexOf(":", at);
    const end = text.indexOf("\r\n", at);
    if (end < 0 || colon < 0 || colon === at || colon > end) return "a trailer line has no name";
    for (let i = at; i < colon; i++) {
      if (nameBytes[text.charCodeAt(i)] !== 1) return "a trailer name holds a character that no name may hold";
    }
    for (let i = colon + 1; i < end; i++) {
      if (valueBytes[text.charCodeAt(i)] !== 1) return "a trailer value holds a control character";
    }
    if (++count > fieldsMax) return `it has more than ${fieldsMax} trailers`;
    const name = text.slice(at, colon);
    // The one body ended already: who reads these reads another one.
    if (frames(name)) return "a trailer frames the message";
    if (mayTrail(name)) trailers.push(name, trimBlanks(text, colon + 1, end));
    at = end + 2;
  }
  return trailers;
}

function frames(name: string): boolean {
  if (name.length === 14) return sameName(name, 0, "content-length");
  return name.length === 17 && sameName(name, 0, "transfer-encoding");
}

/** Only SP and HTAB: `trim` would take U+00A0 too, which is obs-text. */
function trimBlanks(text: string, at: number, end: number): string {
  while (at < end && isBlank(text.charCodeAt(at))) at++;
  while (end > at && isBlank(text.charCodeAt(end - 1))) end--;
  return text.slice(at, end);
}
