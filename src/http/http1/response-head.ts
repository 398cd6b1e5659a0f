import type { FailureCode } from "../../base/errors.ts";
import type { ResponseHead } from "../message.ts";
import { valueBytes } from "./characters.ts";
import { FieldReader } from "./fields.ts";
import { framings, type Framing, type HeadReader } from "./framing.ts";
import type { Http1Limits } from "./limits.ts";
import { takeHandshake } from "./websocket.ts";

/** Reads response heads (RFC 9112, 4 and 6.3). `method` is that of the request they answer. */
export class ResponseHeadReader implements HeadReader<ResponseHead> {
  head: ResponseHead = { status: 0, fields: [], bodyLength: 0 };
  framing: Framing = framings.none;
  interim = false;
  persistent = false;
  method = "GET";
  /** The Sec-WebSocket-Accept that alone opens the tunnel; undefined where the request asked for none. */
  accept: string | undefined;
  readonly kind = "response";
  readonly #fields: FieldReader;
  #kept: ResponseHead = this.head;
  /** The method that the kept head answered. */
  #keptFor = "";

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
    if (status < 200 && status !== 101 && fields.close) return fields.fail("an interim answer ends the connection");
    this.persistent = old ? fields.keepAlive && !fields.close : !fields.close;
    if (this.accept !== undefined && status < 300) {
      if (status === 101) return this.#switch(old);
      // In HTTP/2 a 2xx would open the tunnel, and a client would be let through that nobody let in (CVE-2024-23326).
      if (status >= 200) return fields.fail(`it answers a WebSocket handshake with ${status} instead of 101`);
    }
    return this.#frame(status);
  }

  keep(): boolean {
    if (this.interim || this.accept !== undefined) return false;
    this.#kept = copyOf(this.head);
    this.#keptFor = this.method;
    return true;
  }

  /** What frames an answer depends on what was asked. */
  repeat(): boolean {
    if (this.method !== this.#keptFor || this.accept !== undefined) return false;
    this.head = copyOf(this.#kept);
    return true;
  }

  /** RFC 6455, 4.1: what a client has to see before it believes that the other side speaks WebSocket. */
  #switch(old: boolean): boolean {
    const fields = this.#fields;
    if (old) return fields.fail("it switches protocols in HTTP/1.0");
    if (fields.chunked || fields.contentLength > 0) return fields.fail("a 101 answer has no body");
    if (!fields.upgradeOption || fields.upgrade.toLowerCase() !== "websocket")
      return fields.fail("it switches to another protocol than WebSocket");
    if (takeHandshake(fields.fields, "accept") !== this.accept)
      return fields.fail("its Sec-WebSocket-Accept does not belong to the key");
    this.interim = false;
    this.persistent = false;
    this.framing = framings.untilClose;
    this.head = { status: 101, fields: fields.fields, bodyLength: -1 };
    return true;
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

function copyOf({ status, fields, bodyLength }: ResponseHead): ResponseHead {
  return { status, fields: fields.slice(), bodyLength };
}

/** 0 where it is no status: three digits, 100 to 599 (RFC 9110, 15). */
function readStatus(text: string): number {
  const hundreds = text.charCodeAt(9) - 48;
  const tens = text.charCodeAt(10) - 48;
  const ones = text.charCodeAt(11) - 48;
  if (!(hundreds >= 1 && hundreds <= 5 && tens >= 0 && tens <= 9 && ones >= 0 && ones <= 9)) return 0;
  return hundreds * 100 + tens * 10 + ones;
}
