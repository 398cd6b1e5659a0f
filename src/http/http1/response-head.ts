import type { FailureCode } from "../../base/errors.ts";
import type { ResponseHead } from "../message.ts";
import { valueBytes } from "./characters.ts";
import { FieldReader } from "./fields.ts";
import { framings, type Framing, type HeadReader } from "./framing.ts";
import type { Http1Limits } from "./limits.ts";

/** Reads response heads (RFC 9112, 4 and 6.3). `method` is that of the request they answer. */
export class ResponseHeadReader implements HeadReader<ResponseHead> {
  head: ResponseHead = { status: 0, fields: [], bodyLength: 0 };
  framing: Framing = framings.none;
  interim = false;
  persistent = false;
  method = "GET";
  readonly kind = "response";
  readonly #fields: FieldReader;

  constructor(limits: Http1Limits) {
    this.#fields = new FieldReader("response", limits.fieldsMax);
  }

  get code(): FailureCode {
    return "UPSTREAM_INVALID";
  }

  get because(): string {
    return this.#fields.because;
  }

  read(text: string): boolean {
    const fields = this.#fields;
    const old = text.charCodeAt(7) === 48;
    if (!text.startsWith(old ? "HTTP/1.0 " : "HTTP/1.1 "))
      return fields.fail("its version is not HTTP/1.1 or HTTP/1.0");
    const status = readStatus(text);
    if (status === 0) return fields.fail("its status is not a number from 100 to 599");
    let at = 12;
    if (text.charCodeAt(at) === 32) {
      // The space is the grammar's even before an empty reason; servers that leave both out deceive nobody.
      do at++;
      while (valueBytes[text.charCodeAt(at)] === 1);
    }
    if (text.charCodeAt(at) !== 13 || text.charCodeAt(at + 1) !== 10)
      return fields.fail("its status line is malformed");
    if (!fields.read(text, at + 2)) return false;
    if (fields.chunked && old) return fields.fail("HTTP/1.0 knows no Transfer-Encoding");
    if (status < 200 && old) return fields.fail("HTTP/1.0 knows no interim answers");
    this.persistent = old ? fields.keepAlive && !fields.close : !fields.close;
    return this.#frame(status);
  }

  #frame(status: number): boolean {
    const fields = this.#fields;
    this.interim = status < 200;
    this.framing = framings.none;
    let bodyLength = 0;
    if (this.interim || status === 204) {
      if (status === 101) return fields.fail("it switches protocols, which was not asked for");
      if (fields.chunked || fields.contentLength > 0) return fields.fail(`a ${status} answer has no body`);
    } else if (this.method === "HEAD" || status === 304) {
      if (fields.contentLength >= 0) fields.fields.push("content-length", fields.contentLengthText);
    } else if (fields.chunked) {
      this.framing = framings.chunked;
      bodyLength = -1;
    } else if (fields.contentLength > 0) {
      this.framing = framings.fixed;
      bodyLength = fields.contentLength;
    } else if (fields.contentLength < 0) {
      this.framing = framings.untilClose;
      this.persistent = false;
      bodyLength = -1;
    }
    this.head = { status, fields: fields.fields, bodyLength };
    return true;
  }
}

/** 0 where it is no status: three digits, 100 to 599 (RFC 9110, 15). */
function readStatus(text: string): number {
  const hundreds = text.charCodeAt(9) - 48;
  const tens = text.charCodeAt(10) - 48;
  const ones = text.charCodeAt(11) - 48;
  if (!(hundreds >= 1 && hundreds <= 5 && tens >= 0 && tens <= 9 && ones >= 0 && ones <= 9)) return 0;
  return hundreds * 100 + tens * 10 + ones;
}
