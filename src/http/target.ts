import { refuse, type Refusal } from "../base/errors.ts";
import { hexValues } from "./http1/characters.ts";

/** A request target in the one spelling that is matched and forwarded. */
export interface Target {
  /** Without the query: what policies and routes match. */
  readonly path: string;
  /** With the query: the bytes that are sent. */
  readonly target: string;
}

const unreserved = Uint8Array.from({ length: 256 }, (_, code) =>
  /[A-Za-z0-9._~-]/.test(String.fromCharCode(code)) ? 1 : 0,
);

/**
 * Normalizes a path (RFC 3986, 6.2.2) so that who decides and who serves read the same: escapes of unreserved characters
 * are decoded once, the hexadecimal digits of all others become upper case, several slashes become one, then dot segments
 * are removed. `;` and letters' case stay. The query keeps its bytes.
 *
 * Refused with REQUEST_INVALID, because servers disagree about them: `..` above the root, encoded slashes and
 * backslashes, backslashes, encoded control characters with NUL, malformed escapes, fragments, anything but visible ASCII.
 * "*" and "" (OPTIONS *, CONNECT) stay as they are. A path that is clean already is returned as the same string.
 */
export function normalizePath(path: string): Target | Refusal {
  if (path === "*" || path === "") return { path, target: path };
  if (path.charCodeAt(0) !== 47) return odd("it does not begin with /");
  let clean = true;
  let before = 0;
  let at = 0;
  for (; at < path.length; at++) {
    const code = path.charCodeAt(at);
    if (code === 63) break;
    if (code <= 32 || code >= 127 || code === 35 || code === 92) return oddCharacter(code);
    // "//", "/." and "%" may change: the slow path looks closely.
    if (code === 37 || (before === 47 && (code === 47 || code === 46))) clean = false;
    before = code;
  }
  for (let i = at + 1; i < path.length; i++) {
    const code = path.charCodeAt(i);
    if (code <= 32 || code >= 127 || code === 35) return oddCharacter(code);
  }
  const query = at < path.length;
  if (clean) return { path: query ? path.slice(0, at) : path, target: path };
  const normal = normalizeSlowly(query ? path.slice(0, at) : path);
  if (typeof normal !== "string") return normal;
  return { path: normal, target: query ? normal + path.slice(at) : normal };
}

function normalizeSlowly(path: string): string | Refusal {
  const decoded = path.includes("%") ? decodeUnreserved(path) : path;
  if (typeof decoded !== "string") return decoded;
  const kept: string[] = [];
  const segments = decoded.split("/");
  const last = segments.length - 1;
  for (let i = 1; i <= last; i++) {
    const segment = segments[i] as string;
    if (segment === "..") {
      if (kept.pop() === undefined) return odd("its .. leads above the root");
    } else if (segment !== "" && segment !== ".") {
      kept.push(segment);
      continue;
    }
    if (i === last) kept.push(""); // "/a/", "/a/." and "/a/b/.." name the folder.
  }
  return `/${kept.join("/")}`;
}

function decodeUnreserved(path: string): string | Refusal {
  let text = "";
  let from = 0;
  for (let at = path.indexOf("%"); at >= 0; at = path.indexOf("%", at + 3)) {
    const high = hexValues[path.charCodeAt(at + 1)] ?? 255;
    const low = hexValues[path.charCodeAt(at + 2)] ?? 255;
    if (high > 15 || low > 15) return odd("it has a malformed escape");
    const code = high * 16 + low;
    if (code === 47 || code === 92) return odd("it has an encoded slash or backslash");
    if (code < 32 || code === 127) return odd("it has an encoded control character");
    text +=
      path.slice(from, at) +
      (unreserved[code] === 1 ? String.fromCharCode(code) : path.slice(at, at + 3).toUpperCase());
    from = at + 3;
  }
  return text + path.slice(from);
}

function oddCharacter(code: number): Refusal {
  if (code === 35) return odd("it has a fragment");
  if (code === 92) return odd("it has a backslash");
  return odd("it has another character than visible ASCII");
}

function odd(because: string): Refusal {
  return refuse("REQUEST_INVALID", `Cannot read the path: ${because}`, "Send the path in its plain form, RFC 3986");
}
