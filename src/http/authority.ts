import { refuse, type Refusal } from "../base/errors.ts";

/** A host and a port as they are compared and matched: one spelling for what means the same. */
export interface Authority {
  /** Lower case, without a trailing dot; IPv6 in brackets. */
  readonly host: string;
  readonly port: number | undefined;
}

const hostLengthMax = 253;
const labelLengthMax = 63;

/**
 * Reads `host[:port]` (RFC 3986, 3.2) strictly: `Orders.:80` is `orders` and 80. Userinfo, percent-encoding, an empty port,
 * a port with leading zeros, addresses in other notations than dotted decimal are refused: REQUEST_INVALID.
 */
export function readAuthority(text: string): Authority | Refusal {
  const bracket = text.charCodeAt(0) === 91;
  const close = bracket ? text.indexOf("]") : -1;
  const colon = bracket ? close + 1 : text.indexOf(":");
  if (bracket && (close < 0 || (colon < text.length && text.charCodeAt(colon) !== 58)))
    return odd("its brackets are wrong");
  const withPort = colon >= 0 && colon < text.length;
  const host = withPort ? text.slice(0, colon) : text;
  const port = withPort ? readPort(text, colon + 1) : undefined;
  if (port === 0) return odd("its port is not a number from 1 to 65535");
  if (bracket) return isIpv6(host) ? { host: host.toLowerCase(), port } : odd("its IPv6 address is malformed");
  return readName(host, port);
}

function readName(text: string, port: number | undefined): Authority | Refusal {
  const end = text.endsWith(".") ? text.length - 1 : text.length;
  if (end === 0 || end > hostLengthMax) return odd(`its host is not 1 to ${hostLengthMax} characters`);
  let labelAt = 0;
  let upper = false;
  for (let i = 0; i <= end; i++) {
    const code = i === end ? 46 : text.charCodeAt(i);
    if (code === 46) {
      if (i === labelAt || i - labelAt > labelLengthMax) return odd("its host has an empty or overlong label");
      if (i < end) labelAt = i + 1;
    } else if (code >= 65 && code <= 90) upper = true;
    else if (!((code >= 97 && code <= 122) || (code >= 48 && code <= 57) || code === 45 || code === 95)) {
      return odd("its host holds another character than letters, digits, -, _ and .");
    }
  }
  let host = end === text.length ? text : text.slice(0, end);
  if (upper) host = host.toLowerCase();
  // Where the last label is a number, resolvers read an address: 127.1, 0x7f.1 and 2130706433 all mean 127.0.0.1.
  const first = host.charCodeAt(labelAt);
  if (first >= 48 && first <= 57 && isNumber(host, labelAt) && !isIpv4(host))
    return odd("its address is not dotted decimal");
  return { host, port };
}

function isNumber(host: string, at: number): boolean {
  return /^(?:\d+|0x[0-9a-f]*)$/.test(host.slice(at));
}

function isIpv4(host: string): boolean {
  return /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.|$)){4}$/.test(host) && !host.endsWith(".");
}

/** `[…]` with up to eight groups, `::` once, an IPv4 tail; no zone. */
function isIpv6(text: string): boolean {
  let body = text.slice(1, -1);
  const tail = body.lastIndexOf(":");
  if (body.includes(".")) {
    if (tail < 0 || !isIpv4(body.slice(tail + 1))) return false;
    body = `${body.slice(0, tail + 1)}0:0`;
  }
  const halves = body.split("::");
  if (halves.length > 2) return false;
  const groups = halves.flatMap((half) => (half === "" ? [] : half.split(":")));
  if (!groups.every((group) => /^[0-9a-fA-F]{1,4}$/.test(group))) return false;
  return halves.length === 2 ? groups.length <= 7 : groups.length === 8;
}

/** 0 where it is no port. */
function readPort(text: string, at: number): number {
  if (text.length === at || text.length - at > 5 || text.charCodeAt(at) === 48) return 0;
  let port = 0;
  for (let i = at; i < text.length; i++) {
    const digit = text.charCodeAt(i) - 48;
    if (digit < 0 || digit > 9) return 0;
    port = port * 10 + digit;
  }
  return port <= 65_535 ? port : 0;
}

function odd(because: string): Refusal {
  return refuse("REQUEST_INVALID", `Cannot read the authority: ${because}`, "Write host or host:port");
}
