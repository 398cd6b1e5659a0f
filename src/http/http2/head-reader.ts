import type { Refusal } from "../../base/errors.ts";
import { refuse } from "../../base/errors.ts";
import type { Fields, RequestHead, ResponseHead } from "../message.ts";
import type { FieldList } from "./field-list.ts";
import {
  AUTHORITY,
  CONTENT_LENGTH,
  COOKIE,
  HOST,
  KIND_MASK,
  MALFORMED,
  METHOD,
  ORDINARY,
  PATH,
  PROTOCOL,
  REFUSED,
  SCHEME,
  STATUS,
} from "./field-mark.ts";

/** Why a list of fields is no message: the stream is reset, or, where the RFC leaves the choice, answered with 400. */
export class BadHead {
  readonly because: string;
  /** The answer to give; undefined for PROTOCOL_ERROR. */
  readonly answer: Refusal | undefined;

  constructor(because: string, answer?: Refusal) {
    this.because = because;
    this.answer = answer;
  }
}

function refused(what: string, hint: string): BadHead {
  const message = `Cannot take the request: ${what}`;
  return new BadHead(what, refuse("REQUEST_INVALID", message, hint));
}

const malformedField = new BadHead("a malformed field");
const pseudoLate = new BadHead("a pseudo-field after a field");
const pseudoTwice = new BadHead("a pseudo-field twice");
const pseudoForeign = new BadHead("a pseudo-field that does not belong there");
/** RFC 9220, 3: the answer to a protocol that is not known is 501. */
const protocolUnknown = new BadHead(
  "a :protocol that is not known",
  refuse(
    "METHOD_UNSUPPORTED",
    "Cannot go over to the protocol that was asked for: websocket is the only one that is carried",
    "Send :protocol websocket, or open a TCP tunnel with CONNECT alone",
  ),
);
const lengthsDiffer = new BadHead("two content lengths that differ");

/** Judges every request head of a connection (RFC 9113, 8.2 and 8.3). */
export function readRequest(list: FieldList, endStream: boolean): RequestHead | BadHead {
  const { names, values, marks, count } = list;
  let method = "";
  let scheme = "";
  let authority = "";
  let path = "";
  let protocol = "";
  let host: string | undefined;
  let length = -1;
  let cookieAt = -1;
  let pseudoOver = false;
  let refusable = false;
  const fields: Fields = [];
  for (let i = 0; i < count; i++) {
    const mark = marks[i] as number;
    const value = values[i] as string;
    if (mark === ORDINARY) {
      pseudoOver = true;
      fields.push(names[i] as string, value);
      continue;
    }
    if ((mark & MALFORMED) !== 0) return malformedField;
    if ((mark & REFUSED) !== 0) refusable = true;
    const kind = mark & KIND_MASK;
    if (kind >= METHOD && kind <= PROTOCOL) {
      if (pseudoOver) return pseudoLate;
      switch (kind) {
        case METHOD:
          if (method !== "") return pseudoTwice;
          method = value;
          break;
        case SCHEME:
          if (scheme !== "") return pseudoTwice;
          scheme = value;
          break;
        case AUTHORITY:
          if (authority !== "") return pseudoTwice;
          authority = value;
          break;
        case PATH:
          if (path !== "") return pseudoTwice;
          path = value;
          break;
        case PROTOCOL:
          if (protocol !== "") return pseudoTwice;
          protocol = value;
          break;
        default:
          return pseudoForeign;
      }
      continue;
    }
    pseudoOver = true;
    switch (kind) {
      case HOST:
        if (host !== undefined) return refused("two Host fields, one was wanted", "Send the authority once");
        host = value;
        break;
      case CONTENT_LENGTH:
        if (length >= 0 && length !== Number(value)) return lengthsDiffer;
        length = Number(value);
        break;
      case COOKIE:
        if (cookieAt < 0) {
          cookieAt = fields.length + 1;
          fields.push("cookie", value);
        } else if (value !== "") {
          // Crumbs (RFC 9113, 8.2.3) become the one field that HTTP/1 has.
          const before = fields[cookieAt] as string;
          fields[cookieAt] = before === "" ? value : `${before}; ${value}`;
        }
        break;
      default:
        fields.push(names[i] as string, value);
    }
  }
  if (method === "") return new BadHead("no :method");
  if (method === "CONNECT" && protocol === "") {
    if (scheme !== "" || path !== "" || authority === "")
      return new BadHead("CONNECT with a scheme or path, or without an authority");
  } else {
    if (protocol !== "" && method !== "CONNECT") return new BadHead(":protocol without CONNECT");
    if (scheme === "" || path === "") return new BadHead("no :scheme or no :path");
    if (path === "*" && method !== "OPTIONS") return new BadHead("a path of * without OPTIONS");
  }
  if (refusable)
    return refused(
      "its path or a field's name holds characters that are not taken",
      "Encode the path's special characters, send no fragment, and name fields without underscores",
    );
  if (host !== undefined) {
    if (authority === "") authority = host;
    else if (host !== authority && host.toLowerCase() !== authority.toLowerCase())
      return refused("its :authority and Host differ", "Send one of them, or the same in both");
  }
  if (authority === "") return refused("it has no authority", "Send :authority");
  if (method === "CONNECT") {
    // What follows is no content (RFC 9110, 9.3.6), and two readers must not differ on where it ends.
    if (length >= 0) return new BadHead("CONNECT with a content length");
    length = endStream ? 0 : -1;
    if (protocol === "") return { method, scheme, authority, path, fields, bodyLength: length };
    return protocol.toLowerCase() === "websocket"
      ? { method: "GET", scheme, authority, path, fields, bodyLength: length, upgrade: "websocket" }
      : protocolUnknown;
  }
  if (endStream) {
    if (length > 0) return new BadHead("a content length without content");
    length = 0;
  }
  return { method, scheme, authority, path, fields, bodyLength: length };
}

/** Judges the head of an answer. What opens a tunnel has 101 where the request asked for another protocol (RFC 8441, 5). */
export function readResponse(
  list: FieldList,
  endStream: boolean,
  request: { readonly method: string; readonly upgrade?: string | undefined },
): ResponseHead | BadHead {
  const { names, values, marks, count } = list;
  let status = 0;
  let length = -1;
  const fields: Fields = [];
  for (let i = 0; i < count; i++) {
    const mark = marks[i] as number;
    const kind = mark & KIND_MASK;
    if ((mark & MALFORMED) !== 0) return malformedField;
    if (kind >= METHOD && kind <= PROTOCOL) {
      if (kind !== STATUS) return pseudoForeign;
      if (status !== 0) return pseudoTwice;
      if (i > 0) return pseudoLate;
      status = Number(values[i]);
    } else if (kind === CONTENT_LENGTH) {
      if (length >= 0 && length !== Number(values[i])) return lengthsDiffer;
      length = Number(values[i]);
    } else if (kind !== HOST) {
      fields.push(names[i] as string, values[i] as string);
    }
  }
  if (status === 0) return new BadHead("no :status");
  if (status === 101) return new BadHead("status 101, which HTTP/2 does not have");
  if (status < 200) return { status, fields, bodyLength: 0 };
  const { method, upgrade } = request;
  // A tunnel has no length, whatever is said of it (RFC 9110, 9.3.6).
  if (status < 300 && (method === "CONNECT" || upgrade !== undefined))
    return { status: upgrade === undefined ? status : 101, fields, bodyLength: endStream ? 0 : -1 };
  if (method === "HEAD" || status === 304 || status === 204) {
    if (length >= 0 && status !== 204) fields.push("content-length", String(length));
    else if (length > 0) return new BadHead("status 204 with a content length");
    return { status, fields, bodyLength: 0 };
  }
  if (endStream) {
    if (length > 0) return new BadHead("a content length without content");
    length = 0;
  }
  return { status, fields, bodyLength: length };
}

/** Fields after the body: no pseudo-fields, no framing (RFC 9113, 8.1; RFC 9110, 6.5.1). `refusals` are the marks that spoil it. */
export function readTrailers(list: FieldList, refusals: number): Fields | BadHead {
  const fields: Fields = [];
  for (let i = 0; i < list.count; i++) {
    const mark = list.marks[i] as number;
    const kind = mark & KIND_MASK;
    if ((mark & refusals) !== 0) return malformedField;
    if (kind >= METHOD && kind <= CONTENT_LENGTH)
      return new BadHead("a field in the trailers that does not belong there");
    fields.push(list.names[i] as string, list.values[i] as string);
  }
  return fields;
}
