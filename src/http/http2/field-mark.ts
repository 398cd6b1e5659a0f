/**
 * What is known of a field once and for all: a small number that travels with a table entry, so that a field repeated
 * by its index is judged without looking at its text again.
 */

/** The low four bits: which field this is, where it matters to the protocol. */
export const ORDINARY = 0;
export const METHOD = 1;
export const SCHEME = 2;
export const AUTHORITY = 3;
export const PATH = 4;
export const STATUS = 5;
export const PROTOCOL = 6;
export const HOST = 7;
export const CONTENT_LENGTH = 8;
export const COOKIE = 9;
/** Belongs to one connection of HTTP/1 and never stands in HTTP/2 (RFC 9113, 8.2.2). */
export const CONNECTION_SPECIFIC = 10;
export const TE = 11;
export const KIND_MASK = 15;

/** The name or value breaks RFC 9113: the message is malformed. */
export const MALFORMED = 16;
/** Allowed by the RFC, refused by Hauberk in a request: it is read differently by different programs. */
export const REFUSED = 32;

const kinds: ReadonlyMap<string, number> = new Map([
  [":method", METHOD],
  [":scheme", SCHEME],
  [":authority", AUTHORITY],
  [":path", PATH],
  [":status", STATUS],
  [":protocol", PROTOCOL],
  ["host", HOST],
  ["content-length", CONTENT_LENGTH],
  ["cookie", COOKIE],
  ["te", TE],
  ["connection", CONNECTION_SPECIFIC],
  ["keep-alive", CONNECTION_SPECIFIC],
  ["proxy-connection", CONNECTION_SPECIFIC],
  ["transfer-encoding", CONNECTION_SPECIFIC],
  ["upgrade", CONNECTION_SPECIFIC],
  ["http2-settings", CONNECTION_SPECIFIC],
]);

function charactersOf(allowed: string): Uint8Array {
  const set = new Uint8Array(256);
  for (let i = 0; i < allowed.length; i++) set[allowed.charCodeAt(i)] = 1;
  return set;
}

const digits = "0123456789";
const lower = "abcdefghijklmnopqrstuvwxyz";
const upper = lower.toUpperCase();
const nameCharacters = charactersOf(`!#$%&'*+-.^_\`|~${digits}${lower}`);
const methodCharacters = charactersOf(`!#$%&'*+-.^_\`|~${digits}${lower}${upper}`);
/** Host names, IPv4, bracketed IPv6 and a port; no user information (RFC 9113, 8.3.1). */
const authorityCharacters = charactersOf(`-._~%!$&'()*+,;=:[]${digits}${lower}${upper}`);

/** Visible characters, space, tab and bytes above 127 (RFC 9110, 5.5). */
export const valueCharacters = new Uint8Array(256).fill(1, 32).fill(0, 127, 128).fill(1, 9, 10);
/** Visible ASCII but for "#": a fragment never travels. */
const pathCharacters = new Uint8Array(256).fill(1, 33, 127).fill(0, 35, 36);

function consistsOf(text: string, set: Uint8Array): boolean {
  for (let i = 0; i < text.length; i++) if (set[text.charCodeAt(i)] !== 1) return false;
  return true;
}

/** Whether this is a field name of HTTP/2: a token without upper-case letters. */
export function isFieldName(name: string): boolean {
  return name !== "" && consistsOf(name, nameCharacters);
}

/** Whether this may be sent as a value: no control characters, latin1 only, no white space around it. */
export function isFieldValue(value: string): boolean {
  return consistsOf(value, valueCharacters) && !hasSpaceAround(value);
}

/** The mark of a name, to be joined with that of each value. */
export function markOfName(name: string): number {
  const kind = kinds.get(name);
  if (kind !== undefined) return kind;
  if (!isFieldName(name)) return MALFORMED;
  return name.includes("_") ? REFUSED : ORDINARY;
}

/** The mark of a whole field, given that of its name. */
export function markOf(nameMark: number, value: string): number {
  if (!consistsOf(value, valueCharacters) || hasSpaceAround(value)) return nameMark | MALFORMED;
  const kind = nameMark & KIND_MASK;
  return kind === ORDINARY ? nameMark : nameMark | markOfSpecial(kind, value);
}

function hasSpaceAround(value: string): boolean {
  if (value === "") return false;
  const first = value.charCodeAt(0);
  const last = value.charCodeAt(value.length - 1);
  return first === 32 || first === 9 || last === 32 || last === 9;
}

function markOfSpecial(kind: number, value: string): number {
  switch (kind) {
    case METHOD:
      return value !== "" && consistsOf(value, methodCharacters) ? 0 : MALFORMED;
    case SCHEME:
      return value === "http" || value === "https" ? 0 : MALFORMED;
    case HOST:
    case AUTHORITY:
      return value !== "" && consistsOf(value, authorityCharacters) ? 0 : MALFORMED;
    case PATH:
      return markOfPath(value);
    case STATUS:
      // RFC 9110, 15: 100 to 599, as over HTTP/1.1.
      return /^[1-5][0-9][0-9]$/.test(value) ? 0 : MALFORMED;
    case CONTENT_LENGTH:
      return /^[0-9]{1,15}$/.test(value) ? 0 : MALFORMED;
    case TE:
      return value.toLowerCase() === "trailers" ? 0 : MALFORMED;
    case CONNECTION_SPECIFIC:
      return MALFORMED;
    default:
      return 0;
  }
}

function markOfPath(value: string): number {
  if (value.charCodeAt(0) !== 47 && value !== "*") return MALFORMED;
  return consistsOf(value, pathCharacters) ? 0 : REFUSED;
}
