/** What bytes may stand where in HTTP/1.1 (RFC 9110, 5.6.2 and 5.5; RFC 9112, 3.2), as tables that a loop can index. */

function table(allowed: (code: number) => boolean): Uint8Array {
  return Uint8Array.from({ length: 256 }, (_, code) => (allowed(code) ? 1 : 0));
}

const tokenText = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/** `tchar`: what names are made of. */
export const tokenBytes = table((code) => tokenText.includes(String.fromCharCode(code)));

/**
 * `tchar` without "_" for the fields of requests: many servers read X_User and X-User as one name, so that a
 * field that was judged by one name would be believed by another.
 */
export const requestNameBytes = table((code) => code !== 95 && tokenBytes[code] === 1);

/** Methods: tokens without lower-case letters, because servers disagree about whether `get` is GET. */
export const methodBytes = table((code) => tokenBytes[code] === 1 && !(code >= 97 && code <= 122));

/** What a field value is made of: HTAB, SP, visible ASCII and obs-text; no other control character. */
export const valueBytes = table((code) => code === 9 || (code >= 32 && code !== 127));

/** What a request target is made of: visible ASCII without "#". */
export const targetBytes = table((code) => code > 32 && code < 127 && code !== 35);

/** What `host[:port]` is made of; no userinfo, no percent-encoding, no list. */
export const authorityBytes = table((code) => /[A-Za-z0-9._~:[\]-]/.test(String.fromCharCode(code)));

/** The value of a hexadecimal digit, 255 for any other byte. */
export const hexValues = Uint8Array.from({ length: 256 }, (_, code) => {
  const text = String.fromCharCode(code);
  return /[0-9a-fA-F]/.test(text) ? Number.parseInt(text, 16) : 255;
});

/** Whether `text` from `at` is `lower` (lower-case letters, digits, "-") in any case; what is compared are valid names. */
export function sameName(text: string, at: number, lower: string): boolean {
  for (let i = 0; i < lower.length; i++) {
    if ((text.charCodeAt(at + i) | 32) !== lower.charCodeAt(i)) return false;
  }
  return true;
}

/** Whether every character of `text` is allowed by `bytes`; characters above U+00FF never are. */
export function consistsOf(text: string, bytes: Uint8Array): boolean {
  for (let i = 0; i < text.length; i++) if (bytes[text.charCodeAt(i)] !== 1) return false;
  return true;
}
