import { ourRequests, ourResponses } from "./read-http1.ts";

/**
 * What the strict parser refuses although llhttp, the parser of `node:http`, takes it: one example for each reason. The page
 * docs/HTTP1.md is made from this table; its test sees that each example is refused by us and taken by llhttp, and the
 * fuzz targets that no other reason exists.
 */
export interface Beyond {
  readonly of: "request" | "answer";
  readonly bytes: string;
  readonly why: string;
}

const start = "POST / HTTP/1.1\r\nHost: a\r\n";
const chunked = `${start}Transfer-Encoding: chunked\r\n\r\n`;
const ok = "HTTP/1.1 200 OK\r\n";
const upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";

export const beyondExamples: readonly Beyond[] = [
  {
    of: "request",
    bytes: "\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    why: "One empty line, with its CR, is an old client's habit; anything else is noise.",
  },
  { of: "request", bytes: "\n", why: "The same, seen before the head is whole." },
  { of: "request", bytes: "\r\r", why: "The same." },
  {
    of: "request",
    bytes: "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    why: "Servers disagree about where a target with spaces around it begins.",
  },
  { of: "request", bytes: "GET /  HTTP/1.1\r\nHost: a\r\n\r\n", why: "The same for its end." },
  { of: "request", bytes: "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", why: "Nothing here speaks it." },
  {
    of: "request",
    bytes: "GET http://a;/ HTTP/1.1\r\nHost: a\r\n\r\n",
    why: "Userinfo and other odd authorities are read differently by everybody.",
  },
  {
    of: "request",
    bytes: "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    why: "Who is asked is said twice, and not the same.",
  },
  { of: "request", bytes: "GET * HTTP/1.1\r\nHost: a\r\n\r\n", why: "RFC 9112, 3.2.4." },
  { of: "request", bytes: "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", why: "RFC 9112, 3.2.3." },
  {
    of: "request",
    bytes: "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
    why: "What follows is the tunnel's, or a body: nobody can say.",
  },
  {
    of: "request",
    bytes: "GET / HTTP/1.1\r\n\r\n",
    why: "RFC 9112, 3.2; `node:http` refuses it too, behind its parser.",
  },
  {
    of: "request",
    bytes: "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    why: "RFC 9112, 3.2; `node:http` takes the first.",
  },
  {
    of: "request",
    bytes: "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    why: "The same in one field; also an empty Host, userinfo, a path.",
  },
  {
    of: "request",
    bytes: "GET / HTTP/1.1\r\nHost: a\r\nX_User: b\r\n\r\n",
    why: "CGI and WSGI read X_User as X-User: a field that was judged by one name would be believed by another.",
  },
  {
    of: "request",
    bytes: `${start}Content-Length: 9999999999999999\r\n\r\n`,
    why: "Above 15 digits it is no exact number in JavaScript.",
  },
  {
    of: "request",
    bytes: `${start}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`,
    why: "Exactly `chunked`, once: every list of codings is read differently by somebody.",
  },
  {
    of: "request",
    bytes: "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    why: "RFC 9112, 6.1: its framing is faulty.",
  },
  {
    of: "request",
    bytes: `${chunked}1;a=\r\na\r\n0\r\n\r\n`,
    why: "Chunk extensions are parsed strictly, bounded to 4 KiB in a message, and sizes to 12 digits.",
  },
  { of: "request", bytes: `${chunked}0\r\nX_Sum: 1\r\n\r\n`, why: "As in a head." },
  { of: "request", bytes: `POST / HTTP/1.1\r\nHost: a\r\n${upgrade}\r\n`, why: "RFC 6455, 4.1." },
  {
    of: "request",
    bytes: `GET / HTTP/1.1\r\nHost: a\r\n${upgrade}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n\r\n`,
    why: "RFC 6455, 4.1.",
  },
  {
    of: "request",
    bytes: `GET / HTTP/1.1\r\nHost: a\r\n${upgrade}Content-Length: 1\r\n\r\n`,
    why: "What follows is the tunnel's, or a body: nobody can say.",
  },
  { of: "answer", bytes: "\nHTTP/1.1 200 OK\r\n\r\n", why: "No server begins so; what does is another protocol." },
  { of: "answer", bytes: "RTSP/1.0 ", why: "llhttp knows a second protocol." },
  { of: "answer", bytes: "HTTP/1.1 200 \0", why: "The same, for a control character that nothing may hold." },
  { of: "answer", bytes: "HTTP/1.1 600 X\r\n\r\n", why: "RFC 9110, 15: 100 to 599." },
  {
    of: "answer",
    bytes: "HTTP/1.1 200 \0\r\n\r\n",
    why: "A control character in the reason, which no log should get.",
  },
  {
    of: "answer",
    bytes: "HTTP/1.1 101 X\r\n\r\n",
    why: "Only who asked for another protocol gets one (CVE-2024-23326).",
  },
  { of: "answer", bytes: "HTTP/1.0 100 X\r\n\r\n", why: "RFC 9110, 15.2: that version has none." },
  {
    of: "answer",
    bytes: "HTTP/1.1 100 X\r\nConnection: close\r\n\r\n",
    why: "It says that an answer follows, and that none does.",
  },
  {
    of: "answer",
    bytes: "HTTP/1.1 204 X\r\nContent-Length: 1\r\n\r\n",
    why: "RFC 9110, 8.6: bytes behind it would be the next answer.",
  },
  { of: "answer", bytes: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", why: "RFC 9112, 6.1." },
  { of: "answer", bytes: `${ok}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`, why: "As in a request." },
  {
    of: "answer",
    bytes: `${ok}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    why: "Once is enough.",
  },
  { of: "answer", bytes: `${ok}Content-Length: 9999999999999999\r\n\r\n`, why: "As in a request." },
  { of: "answer", bytes: `${ok}Transfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n`, why: "As in a request." },
  {
    of: "answer",
    bytes: `${ok}Transfer-Encoding: chunked\r\n\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n`,
    why: "The one body ended already; llhttp refuses Content-Length there.",
  },
];

/** The sentence of a refusal without its figures. */
export function kindOfRefusal(because: string): string {
  return because.replaceAll(/\d+/g, "N");
}

export function refusalOf({ of, bytes }: Beyond): string | undefined {
  const piece = Buffer.from(bytes, "latin1");
  return (of === "request" ? ourRequests([piece]) : ourResponses("GET", [piece])).failed;
}

export const beyond: ReadonlySet<string> = new Set(beyondExamples.map((one) => kindOfRefusal(refusalOf(one) ?? "")));

/** The page docs/HTTP1.md. */
export function beyondPage(): string {
  const rows = beyondExamples.map(
    (one) => `| ${one.of} | ${code(one.bytes)} | ${refusalOf(one) ?? "taken"} | ${one.why} |`,
  );
  return [
    "# What the HTTP/1.1 parser refuses",
    "",
    "The parser takes nothing that llhttp, the parser of `node:http`, refuses, and reads what both take in the same way: `npm run fuzz` compares the two on generated streams.",
    "Beyond that it refuses what this table shows, one example for each reason. It is made from `test/fuzz/http1-beyond.ts`; a test keeps it true, and the fuzz fails on a reason that is not here.",
    "",
    "`GET`, `HEAD` and the other methods are those that IANA lists and llhttp knows; any other word is refused by both. Limits on size (`headBytesMax`, `fieldsMax`: see OPTIONS.md) are not part of the comparison.",
    "",
    "| In | Example | Refused because | Why |",
    "|---|---|---|---|",
    ...rows,
    "",
  ].join("\n");
}

function code(bytes: string): string {
  const text = JSON.stringify(bytes)
    .slice(1, -1)
    .replaceAll("|", "\\|")
    .replaceAll(String.raw`\"`, '"');
  return `\`${text}\``;
}
