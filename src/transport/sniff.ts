/** The first bytes of an HTTP/2 connection (RFC 9113, 3.4). */
const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

/** Which protocol a plain connection speaks, by its first bytes; undefined: too few to say. */
export function sniffProtocol(first: Buffer): "http/1.1" | "h2" | undefined {
  const length = Math.min(first.length, preface.length);
  if (first.compare(preface, 0, length, 0, length) !== 0) return "http/1.1";
  // "PRI" is no method that HTTP/1.1 will ever have: three bytes would do, but the whole first line costs nothing.
  return length >= 16 ? "h2" : undefined;
}
