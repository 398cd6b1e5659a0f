import type { Fields, RequestHead, ResponseHead } from "../message.ts";
import { authorityBytes, consistsOf, methodBytes, targetBytes, tokenBytes, valueBytes } from "./characters.ts";
import { mayTrail } from "./fields.ts";
import { withoutHandshake } from "./websocket.ts";

/** Writes heads and chunks as latin1 text. Undefined: the head cannot be written without changing what it means. */

const reasons: Readonly<Record<number, string>> = {
  100: "Continue",
  102: "Processing",
  103: "Early Hints",
  200: "OK",
  201: "Created",
  202: "Accepted",
  203: "Non-Authoritative Information",
  204: "No Content",
  205: "Reset Content",
  206: "Partial Content",
  300: "Multiple Choices",
  301: "Moved Permanently",
  302: "Found",
  303: "See Other",
  304: "Not Modified",
  307: "Temporary Redirect",
  308: "Permanent Redirect",
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  406: "Not Acceptable",
  407: "Proxy Authentication Required",
  408: "Request Timeout",
  409: "Conflict",
  410: "Gone",
  411: "Length Required",
  412: "Precondition Failed",
  413: "Content Too Large",
  414: "URI Too Long",
  415: "Unsupported Media Type",
  416: "Range Not Satisfiable",
  417: "Expectation Failed",
  421: "Misdirected Request",
  422: "Unprocessable Content",
  425: "Too Early",
  426: "Upgrade Required",
  428: "Precondition Required",
  429: "Too Many Requests",
  431: "Request Header Fields Too Large",
  500: "Internal Server Error",
  501: "Not Implemented",
  502: "Bad Gateway",
  503: "Service Unavailable",
  504: "Gateway Timeout",
  505: "HTTP Version Not Supported",
};

const statusLines: readonly string[] = Array.from(
  { length: 600 },
  (_, status) => `HTTP/1.1 ${status} ${reasons[status] ?? ""}\r\n`,
);

/** How the answer's body is framed, and what the connection does after it. */
export interface AnswerFraming {
  /** The answer describes no body: to HEAD, or 204, 304, 1xx. */
  readonly bodyless: boolean;
  /** Bytes; -1: chunked, or up to the end of the connection where `old`. */
  readonly bodyLength: number;
  /** For an HTTP/1.0 client. */
  readonly old: boolean;
  readonly persistent: boolean;
}

/** Status line and fields with their last empty line. */
export function responseHeadText(head: ResponseHead, framing: AnswerFraming): string | undefined {
  const line = statusLines[head.status];
  if (line === undefined || head.status < 100) return undefined;
  const fields = fieldsText(head.fields, framing.bodyless && head.status !== 204 && head.status >= 200);
  if (fields === undefined) return undefined;
  let text = line + fields;
  if (!framing.bodyless) {
    if (framing.bodyLength >= 0) text += `Content-Length: ${framing.bodyLength}\r\n`;
    else if (!framing.old) text += "Transfer-Encoding: chunked\r\n";
  }
  if (!framing.persistent) text += "Connection: close\r\n";
  else if (framing.old) text += "Connection: keep-alive\r\n";
  return text + "\r\n";
}

/** An interim answer: no framing. */
export function interimHeadText(head: ResponseHead): string | undefined {
  const fields = fieldsText(head.fields, false);
  return fields === undefined || head.status < 100 || head.status > 199
    ? undefined
    : `${statusLines[head.status]}${fields}\r\n`;
}

/** What opens a tunnel: 101 with the `accept` of a WebSocket handshake, or a 2xx to CONNECT; no framing, raw bytes follow. */
export function tunnelHeadText(head: ResponseHead, accept: string | undefined): string | undefined {
  if (accept === undefined) {
    const fields = fieldsText(head.fields, false);
    return fields === undefined ? undefined : `${statusLines[head.status]}${fields}\r\n`;
  }
  const fields = fieldsText(withoutHandshake(head.fields), false);
  if (fields === undefined) return undefined;
  return (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
    `Sec-WebSocket-Accept: ${accept}\r\n${fields}\r\n`
  );
}

/** Asks for WebSocket with a key of this connection's own. */
export function upgradeHeadText(head: RequestHead, key: string): string | undefined {
  if (head.method !== "GET" || head.upgrade !== "websocket") return undefined;
  const text = requestHeadText({ ...head, fields: withoutHandshake(head.fields) }, true);
  return text === undefined
    ? undefined
    : `${text.slice(0, -2)}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: ${key}\r\n\r\n`;
}

/** Request line, Host, fields and framing; `bodyless`: nothing follows. */
export function requestHeadText(head: RequestHead, bodyless: boolean): string | undefined {
  const { method, path, authority } = head;
  if (method === "" || path === "" || !consistsOf(method, methodBytes)) return undefined;
  if (!consistsOf(path, targetBytes) || !consistsOf(authority, authorityBytes)) return undefined;
  const fields = fieldsText(head.fields, false);
  if (fields === undefined) return undefined;
  const text = `${method} ${path} HTTP/1.1\r\nHost: ${authority}\r\n${fields}`;
  if (!bodyless) {
    return head.bodyLength < 0
      ? `${text}Transfer-Encoding: chunked\r\n\r\n`
      : `${text}Content-Length: ${head.bodyLength}\r\n\r\n`;
  }
  // RFC 9110, 8.6: methods that are made for a body say that there is none.
  return method === "POST" || method === "PUT" || method === "PATCH"
    ? `${text}Content-Length: 0\r\n\r\n`
    : `${text}\r\n`;
}

/** The last chunk with what trails it; undefined where a trailer cannot be written. */
export function lastChunkText(trailers: Fields | undefined): string | undefined {
  if (trailers === undefined || trailers.length === 0) return "0\r\n\r\n";
  const allowed: Fields = [];
  for (let i = 0; i < trailers.length; i += 2) {
    const name = trailers[i] as string;
    if (mayTrail(name)) allowed.push(name, trailers[i + 1] as string);
  }
  const fields = fieldsText(allowed, false);
  return fields === undefined ? undefined : `0\r\n${fields}\r\n`;
}

/**
 * Field lines. Names and values are checked once more although parsers checked them: a line end, or a character above
 * U+00FF that latin1 would fold into one, would split a message in two.
 */
function fieldsText(fields: Fields, withLength: boolean): string | undefined {
  let text = "";
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i] as string;
    const value = fields[i + 1] as string;
    const start = starts.get(name) ?? learnStart(name);
    if (start.value === value) {
      text += start.line;
      continue;
    }
    if (start.is === "invalid" || !consistsOf(value, valueBytes)) return undefined;
    if (start.is === "framing" || (start.is === "length" && !withLength)) continue;
    const line = `${start.text}${value}\r\n`;
    if (start.is === "ordinary" && value.length <= valueLengthMax) {
      start.value = value;
      start.line = line;
    }
    text += line;
  }
  return text;
}

/** How the line of a name begins, judged once; "framing" is for this hop's own to say, and "length" but where none is sent. */
interface Start {
  readonly is: "ordinary" | "length" | "framing" | "invalid";
  readonly text: string;
  /** The last value that was judged and found good, if it was short, and the whole line with it. */
  value: string | undefined;
  line: string;
}

const starts = new Map<string, Start>();
const startsMax = 512;
const nameLengthMax = 64;
const valueLengthMax = 128;

/** A handful of names come all the time. Bounded; the oldest goes. */
function learnStart(name: string): Start {
  const start: Start = { is: kindOf(name), text: `${name}: `, value: undefined, line: "" };
  if (name.length > nameLengthMax) return start;
  if (starts.size >= startsMax) {
    const oldest = starts.keys().next();
    if (oldest.done !== true) starts.delete(oldest.value);
  }
  starts.set(name, start);
  return start;
}

function kindOf(name: string): Start["is"] {
  if (name === "" || !consistsOf(name, tokenBytes)) return "invalid";
  const lower = name.toLowerCase();
  if (lower === "content-length") return "length";
  return framing.has(lower) ? "framing" : "ordinary";
}

/** What only this hop's own framing may say; Content-Length too, but where it describes a body that is not sent. */
const framing: ReadonlySet<string> = new Set([
  "te",
  "host",
  "upgrade",
  "trailer",
  "connection",
  "keep-alive",
  "proxy-connection",
  "transfer-encoding",
]);
