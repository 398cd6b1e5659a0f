import * as fc from "fast-check";
import { mutated } from "./target.ts";

/** Streams of HTTP/1 messages: mostly legal, with what parsers are known to disagree about, then mutated. */

const end = fc.oneof(
  { weight: 40, arbitrary: fc.constant("\r\n") },
  { weight: 1, arbitrary: fc.constantFrom("\n", "\r", "\r\r\n", "\n\r\n", " \r\n") },
);
const often = <T>(usual: readonly T[], odd: readonly T[]): fc.Arbitrary<T> =>
  fc.oneof({ weight: 12, arbitrary: fc.constantFrom(...usual) }, { weight: 2, arbitrary: fc.constantFrom(...odd) });

const method = often(
  ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH"],
  [
    "CONNECT",
    "get",
    "Get",
    "G(T",
    "FOO",
    "PROPFIND",
    "M-SEARCH",
    "TRACE",
    "PRI",
    "A".repeat(33),
    "",
    "\r\nGET",
    "DESCRIBE",
  ],
);
const target = often(
  ["/", "/a", "/a?b=1", "/a/b%20c?d"],
  [
    "*",
    "http://a/",
    "HTTP://a:80/x?y",
    "http://b/",
    "https://a",
    "ftp://a/",
    "a:1",
    "a:443",
    "/a#b",
    "/a b",
    "/\xe9",
    "//",
    "",
    "/\\",
    "/\x7f",
    "?",
    "http://a",
    "http://u@a/",
    "/../",
    "http:/a",
  ],
);
const version = often(
  ["HTTP/1.1"],
  ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/1.1 ", "http/1.1", "HTTP/01.1", "HTTP/1.10", "", "HTTP/ 1.1"],
);
const fieldLine = often(
  [
    "Host: a",
    "X-One: 1",
    "accept: */*",
    "X-Long: " + "v".repeat(40),
    "Connection: keep-alive",
    "Cookie: a=b; c=d",
    "TE: trailers",
    "X-Text:\tcaf\xe9 \t",
    "X-Empty:",
  ],
  [
    "Host: b",
    "Host:",
    "Host: a:80",
    "Host: a, b",
    "Host: u@a",
    "host : a",
    "Host: a/b",
    "Connection: close",
    "Connection: close, X-One",
    "Connection: keep-alive, te",
    "Connection: upgrade",
    "Upgrade: h2c",
    "Upgrade: websocket",
    "Connection: X",
    "Expect: 100-continue",
    "Expect: x",
    "X_Two: 2",
    "X Three: 3",
    ": 4",
    "X-Five",
    " X-Six: 6",
    "X-Seven: \0",
    "X-Eight: a\rb",
    "X-Nine: a\nb",
    "X-\xe9: 1",
    "X-Ten: \x7f",
    "X-Eleven: \x0b",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: close",
    "Trailer: X-Sum",
    "HTTP2-Settings: AAMAAABk",
    "\tX: 1",
    "X(: 1",
    "Transfer-Encoding : chunked",
    "Content-Length : 3",
    "Content-Length:\x0b3",
    "Transfer-Encoding:\x0bchunked",
  ],
);
const fieldLines = fc.array(fieldLine, { maxLength: 5 });
const text = fc.oneof(
  fc.constantFrom("", "a", "hello", "\r\n\r\n", "0\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
  fc.string({ unit: "binary-ascii", maxLength: 12 }),
);

const chunkSize = fc.oneof(
  { weight: 12, arbitrary: fc.constant((length: number) => length.toString(16)) },
  {
    weight: 1,
    arbitrary: fc.constantFrom<(length: number) => string>(
      (length) => `0${length.toString(16)}`,
      (length) => length.toString(16).toUpperCase(),
      (length) => `0x${length.toString(16)}`,
      (length) => `+${length}`,
      (length) => `${length} `,
      (length) => ` ${length}`,
      () => "",
      () => "ffffffffffffffff",
      () => "fffffffffffff",
      (length) => String(length + 1),
      () => "-1",
      (length) => `${length}_`,
    ),
  },
);
const extension = often(
  ["", "", ""],
  [
    ";a",
    ";a=b",
    ';a="b"',
    ';a="\\""',
    ";",
    "; a",
    ";a=",
    ';a="',
    ";a=b;c",
    " ;a",
    ";a\t",
    ";\x00",
    ";a=b\rc",
    ";a=b\nc",
    ";a=b;",
  ],
);
const chunk = fc
  .tuple(text, chunkSize, extension, end, end)
  .map(([data, size, more, lineEnd, dataEnd]) => `${size(data.length)}${more}${lineEnd}${data}${dataEnd}`);
const trailer = often(
  ["X-Sum: 1", "X-Sum: 2"],
  ["Content-Length: 3", "Host: a", "X_Y: 1", "X : 1", " X: 1", "X", "X: \0", "Transfer-Encoding: chunked"],
);
const chunked = fc
  .tuple(
    fc.array(chunk, { maxLength: 4 }),
    often(["0"], ["00", "000", "0;a", "0 ", ""]),
    fc.array(trailer, { maxLength: 2 }),
    end,
    end,
  )
  .map(
    ([chunks, last, trailers, lineEnd, finalEnd]) =>
      `${chunks.join("")}${last}${lineEnd}${trailers.map((line) => `${line}\r\n`).join("")}${finalEnd}`,
  );

const encoding = often(
  ["Transfer-Encoding: chunked"],
  [
    "Transfer-Encoding: Chunked",
    "transfer-encoding:chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked ",
    'Transfer-Encoding: "chunked"',
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 3",
    "Transfer-Encoding:",
  ],
);
const length = fc.oneof(
  { weight: 12, arbitrary: fc.constant((size: number) => `Content-Length: ${size}`) },
  {
    weight: 2,
    arbitrary: fc.constantFrom<(size: number) => string>(
      (size) => `content-length:${size}`,
      (size) => `Content-Length: 0${size}`,
      (size) => `Content-Length: +${size}`,
      (size) => `Content-Length: ${size}, ${size}`,
      (size) => `Content-Length: ${size}\r\nContent-Length: ${size}`,
      (size) => `Content-Length: ${size}\r\nTransfer-Encoding: chunked`,
      () => "Content-Length:",
      () => "Content-Length: 0x3",
      () => "Content-Length: -1",
      () => "Content-Length: 99999999999999999999",
      (size) => `Content-Length: ${size} `,
      (size) => `Content-Length: ${size} 1`,
    ),
  },
);
/** Framing field and body; neither for most. */
const framed = fc.oneof(
  { weight: 3, arbitrary: fc.constant(["", ""] as const) },
  { weight: 2, arbitrary: fc.tuple(length, text).map(([field, body]) => [`${field(body.length)}\r\n`, body] as const) },
  { weight: 2, arbitrary: fc.tuple(encoding, chunked).map(([field, body]) => [`${field}\r\n`, body] as const) },
);

const host = often(["Host: a\r\n"], ["", "Host: a\r\nHost: a\r\n"]);
const request = fc
  .tuple(
    method,
    often([" "], ["  ", "\t", ""]),
    target,
    often([" "], ["  ", "\t"]),
    version,
    end,
    host,
    fieldLines,
    framed,
    end,
  )
  .map(
    ([verb, gap, path, gap2, protocol, lineEnd, first, lines, [field, body], headEnd]) =>
      `${verb}${gap}${path}${gap2}${protocol}${lineEnd}${first}${lines.map((line) => `${line}\r\n`).join("")}${field}${headEnd}${body}`,
  );

const status = often(
  ["200 OK", "204 No Content", "304 Not Modified", "404 Not Found"],
  [
    "100 Continue",
    "103 Early",
    "101 Switching Protocols",
    "200",
    "200 ",
    "099 X",
    "600 X",
    "20 X",
    "2000 X",
    "200  X",
    "200 \0",
    "200 caf\xe9",
    "1xx X",
    "-20 X",
    "200X",
  ],
);
const response = fc
  .tuple(version, status, end, fieldLines, framed, end)
  .map(
    ([protocol, code, lineEnd, lines, [field, body], headEnd]) =>
      `${protocol} ${code}${lineEnd}${lines.map((line) => `${line}\r\n`).join("")}${field}${headEnd}${body}`,
  );

const between = often(["", "", ""], ["\r\n", "\r\n\r\n", "\n", " ", "\0", "x"]);
/** The same message may come again and again: a parser that knows it must not read it in another way. */
const again = often([1, 1, 2], [3]);
const stream = (message: fc.Arbitrary<string>): fc.Arbitrary<Buffer> =>
  mutated(
    fc.oneof(
      {
        weight: 20,
        arbitrary: fc
          .array(fc.tuple(between, message, again), { minLength: 1, maxLength: 3 })
          .map((list) => Buffer.from(list.map(([gap, one, times]) => gap + one.repeat(times)).join(""), "latin1")),
      },
      { weight: 1, arbitrary: fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)) },
    ),
  );

export const requestStream = stream(request);
export const responseStream = stream(response);
