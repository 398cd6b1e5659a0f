/**
 * Strikes secrets out of what is logged, by the name of the field and by the look of the text, at every depth.
 * pino's own redaction knows paths only; a secret inside a message or three levels down would pass it.
 */
const struck = "[secret]";
const depthMax = 5;
const itemsMax = 50;
const textMax = 4_096;

/** Names of fields, lower case and without "-" and "_". */
const secretNames: ReadonlySet<string> = new Set([
  "authorization",
  "proxyauthorization",
  "cookie",
  "setcookie",
  "token",
  "jwt",
  "password",
  "passphrase",
  "secret",
  "key",
  "privatekey",
  "recoverykey",
  "challenge",
  "signature",
  "csr",
]);

const secretTexts: readonly RegExp[] = [
  /-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g,
  // A compact JWS (RFC 7515, 7.1): its header always begins with {" in base64url.
  /\beyJ[\w-]{5,}(?:\.[\w-]*){0,2}/g,
  /\b(?:Bearer|Basic)\s+[\w+/=.~-]+/gi,
];

/** A copy of `value` that may be logged. */
export function scrub(value: unknown, depth = 0): unknown {
  if (typeof value === "string") return scrubText(value);
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "function" || typeof value === "symbol") return undefined;
  if (typeof value !== "object" || value === null) return value;
  if (depth >= depthMax) return "[deep]";
  if (value instanceof Error) return scrubError(value, depth);
  if (ArrayBuffer.isView(value)) return `[${value.byteLength} bytes]`;
  if (Array.isArray(value)) return value.slice(0, itemsMax).map((item) => scrub(item, depth + 1));
  const prototype: unknown = Object.getPrototypeOf(value);
  // A KeyObject, a socket, a Map: nothing whose inside is known to be harmless.
  if (prototype !== Object.prototype && prototype !== null) return `[${value.constructor?.name ?? "object"}]`;
  const copy: Record<string, unknown> = {};
  for (const [name, inner] of Object.entries(value)) {
    copy[name] = isSecretName(name) && inner !== undefined ? struck : scrub(inner, depth + 1);
  }
  return copy;
}

function isSecretName(name: string): boolean {
  return secretNames.has(name.toLowerCase().replace(/[-_]/g, ""));
}

function scrubText(text: string): string {
  let clean = text.length > textMax ? `${text.slice(0, textMax)}…` : text;
  for (const pattern of secretTexts) clean = clean.replace(pattern, struck);
  return clean;
}

/** Code, message, hint and cause: what the log carries and the wire does not. */
function scrubError(error: Error, depth: number): Record<string, unknown> {
  const { code, hint, cause } = error as { code?: unknown; hint?: unknown; cause?: unknown };
  const copy: Record<string, unknown> = { name: error.name, message: scrubText(error.message) };
  if (code !== undefined) copy["code"] = scrub(code, depth + 1);
  if (hint !== undefined) copy["hint"] = scrub(hint, depth + 1);
  if (cause !== undefined) copy["cause"] = scrub(cause, depth + 1);
  if (code === undefined && error.stack !== undefined) copy["stack"] = scrubText(error.stack);
  return copy;
}
