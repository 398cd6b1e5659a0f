import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import * as fc from "fast-check";
import { expect, test } from "vitest";
import type { RequestHead, ResponseHead } from "../message.ts";
import type { Http1Limits } from "./limits.ts";
import { MessageParser } from "./message-parser.ts";
import { RequestHeadReader } from "./request-head.ts";
import { ResponseHeadReader } from "./response-head.ts";
import { lastChunkText, requestHeadText, responseHeadText } from "./write.ts";

const limits: Http1Limits = { headBytesMax: 16_384, fieldsMax: 100, extensionBytesMax: 4096 };

type Event = ["head", unknown, boolean] | ["data", string] | ["end", unknown] | ["failed", string, string];

function record(): {
  events: Event[];
  sink: ConstructorParameters<typeof MessageParser<RequestHead | ResponseHead>>[1];
} {
  const events: Event[] = [];
  return {
    events,
    sink: {
      head: (head, bodyless) => events.push(["head", { ...head }, bodyless]),
      data: (chunk) => {
        const last = events.at(-1);
        if (last?.[0] === "data") last[1] += chunk.toString("latin1");
        else events.push(["data", chunk.toString("latin1")]);
      },
      end: (trailers) => events.push(["end", trailers]),
      failed: (code, because) => events.push(["failed", code, because]),
    },
  };
}

function requests(...pieces: (string | Buffer)[]): Event[] {
  const { events, sink } = record();
  const parser = new MessageParser<RequestHead>(new RequestHeadReader("http", limits), sink, limits);
  for (const piece of pieces) parser.feed(Buffer.from(piece as string, "latin1"));
  return events;
}

function responses(method: string, ...pieces: (string | Buffer)[]): Event[] {
  const { events, sink } = record();
  const reader = new ResponseHeadReader(limits);
  reader.method = method;
  const parser = new MessageParser<ResponseHead>(reader, sink, limits);
  for (const piece of pieces) parser.feed(Buffer.from(piece as string, "latin1"));
  parser.finish();
  return events;
}

function headOf(text: string): RequestHead {
  const first = requests(text)[0];
  expect(first?.[0], JSON.stringify(first)).toBe("head");
  return first?.[1] as RequestHead;
}

test("an answer's trailers may have the names that its fields may have, and a request's may not", () => {
  const body = "Transfer-Encoding: chunked\r\n\r\n0\r\nX_Sum: 1\r\n\r\n";
  expect(responses("GET", `HTTP/1.1 200 OK\r\nX_Name: a\r\n${body}`)).toEqual([
    ["head", { status: 200, fields: ["X_Name", "a"], bodyLength: -1 }, false],
    ["end", ["X_Sum", "1"]],
  ]);
  expect(requests(`POST / HTTP/1.1\r\nHost: a\r\n${body}`).at(-1)?.[0]).toBe("failed");
});

test("a head that came in pieces is not kept when it has been read: an idle connection costs what it costs", async () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const head = `GET / HTTP/1.1\r\nHost: a\r\nX: ${"y".repeat(15_000)}\r\n\r\n`;
  const idle = Array.from({ length: 300 }, () => {
    const { sink } = record();
    return new MessageParser<RequestHead>(new RequestHeadReader("http", limits), { ...sink, head() {} }, limits);
  });
  collect();
  const before = process.memoryUsage().arrayBuffers;
  for (const parser of idle) {
    parser.feed(Buffer.from(head.slice(0, 10_000)));
    parser.feed(Buffer.from(head.slice(10_000)));
  }
  expect(idle.every((parser) => parser.idle)).toBe(true);
  // What was collected is given back by another thread, a little later.
  const kept = (): number => {
    collect();
    return (process.memoryUsage().arrayBuffers - before) / idle.length;
  };
  await expect.poll(kept, { timeout: 10_000 }).toBeLessThan(2_000);
});

test("a request is read with its names as they came, and without what belongs to this hop", () => {
  const head = headOf(
    "GET /a?b=1 HTTP/1.1\r\nHost: Orders:80\r\nX-One:  1 \t\r\nConnection: close, X-Hop, te\r\nx-hop: 2\r\nTE: trailers\r\n" +
      "Upgrade: h2c\r\nHTTP2-Settings: AAM\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nTrailer: x\r\nempty:\r\n\r\n",
  );
  expect(head).toEqual({
    method: "GET",
    scheme: "http",
    authority: "Orders:80",
    path: "/a?b=1",
    fields: ["X-One", "1", "empty", ""],
    bodyLength: 0,
  });
});

test("requests behind each other are told in order, each with its body", () => {
  const events = requests(
    "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n" +
      '3\r\nxyz\r\n00a;a;b=c;d="e\\"f"\r\n0123456789\r\n0\r\nX-Sum: 1\r\nHost: b\r\n\r\nGET /3 HTTP/1.0\r\n\r\n',
  );
  expect(events.map((event) => event[0])).toEqual(["head", "data", "end", "head", "data", "end", "head"]);
  expect(events[1]).toEqual(["data", "abc"]);
  expect(events[4]).toEqual(["data", "xyz0123456789"]);
  expect(events[5]).toEqual(["end", ["X-Sum", "1"]]);
});

const start = "POST /a HTTP/1.1\r\nHost: a\r\n";

/** The rows of attacks.md, 5.3, that concern HTTP/1, and their neighbours. */
const refused: Readonly<Record<string, string>> = {
  "CL and TE": `${start}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n`,
  "TE and CL": `${start}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n`,
  "two equal CL": `${start}Content-Length: 3\r\nContent-Length: 3\r\n\r\n`,
  "two CL": `${start}Content-Length: 3\r\nContent-Length: 4\r\n\r\n`,
  "CL list": `${start}Content-Length: 3, 3\r\n\r\n`,
  "CL +1": `${start}Content-Length: +1\r\n\r\n`,
  "CL -1": `${start}Content-Length: -1\r\n\r\n`,
  "CL 0x1": `${start}Content-Length: 0x1\r\n\r\n`,
  "CL empty": `${start}Content-Length:\r\n\r\n`,
  "CL huge": `${start}Content-Length: 9999999999999999\r\n\r\n`,
  "TE twice": `${start}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n`,
  "TE xchunked": `${start}Transfer-Encoding: xchunked\r\n\r\n`,
  "TE ,chunked": `${start}Transfer-Encoding: ,chunked\r\n\r\n`,
  "TE identity, chunked": `${start}Transfer-Encoding: identity, chunked\r\n\r\n`,
  "TE identity": `${start}Transfer-Encoding: identity\r\n\r\n`,
  "TE with \\v": `${start}Transfer-Encoding: \x0bchunked\r\n\r\n`,
  "TE with a tab behind it": `${start}Transfer-Encoding: chunked\t\r\n\r\n`,
  "TE quoted": `${start}Transfer-Encoding: "chunked"\r\n\r\n`,
  "TE in 1.0": "POST /a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
  "two Hosts": "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
  "no Host": "GET / HTTP/1.1\r\nX: y\r\n\r\n",
  "empty Host": "GET / HTTP/1.1\r\nHost:\r\n\r\n",
  "Host with userinfo": "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
  "Host with a path": "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
  "Host list": "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
  "absolute form with another Host": "GET http://evil/admin HTTP/1.1\r\nHost: a\r\n\r\n",
  "absolute form with another port": "GET http://a:81/admin HTTP/1.1\r\nHost: a\r\n\r\n",
  "absolute form with userinfo": "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
  "absolute form of another scheme": "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
  fragment: "GET /admin#x HTTP/1.1\r\nHost: a\r\n\r\n",
  "path without /": "GET admin HTTP/1.1\r\nHost: a\r\n\r\n",
  "* for GET": "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
  "non-ASCII path": "GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
  "empty target": "GET  HTTP/1.1\r\nHost: a\r\n\r\n",
  "tab behind the method": "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
  "two spaces": "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
  "version 2.0": "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
  "version 1.2": "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
  "version 1.32": "GET / HTTP/1.32\r\nHost: a\r\n\r\n",
  "version in lower case": "GET / http/1.1\r\nHost: a\r\n\r\n",
  "version 0.9": "GET /\r\n\r\n",
  "the HTTP/2 preface": "PRI * HTTP/2.0\r\n\r\n",
  "method that nobody knows": "FROB / HTTP/1.1\r\nHost: a\r\n\r\n",
  "lower-case method": "get / HTTP/1.1\r\nHost: a\r\n\r\n",
  "method with a separator": "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n",
  "overlong method": `${"A".repeat(33)} / HTTP/1.1\r\nHost: a\r\n\r\n`,
  "leading space": " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
  "two empty lines first": "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
  "obs-fold": "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
  "space before the first field": "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
  "space before colon": "GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
  "no colon": "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
  "empty name": "GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n",
  "name with _": "GET / HTTP/1.1\r\nHost: a\r\nX_User: 1\r\n\r\n",
  "name with obs-text": "GET / HTTP/1.1\r\nHost: a\r\nX\xe9: 1\r\n\r\n",
  "bare LF": "GET / HTTP/1.1\nHost: a\n\n",
  "bare LF in a value": "GET / HTTP/1.1\r\nHost: a\r\nX: 1\nY: 2\r\n\r\n",
  "bare CR in a value": "GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n",
  "bare CR behind the request line": "GET / HTTP/1.1\rHost: a\r\n\r\n",
  "NUL in a value": "GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
  "DEL in a value": "GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n",
  "ESC in a value": "GET / HTTP/1.1\r\nHost: a\r\nX: \x1b\r\n\r\n",
  "TLS on this port": "\x16\x03\x01\x02\x00\x01",
  "CONNECT without a port": "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n",
  "CONNECT with a body": "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\n\r\n",
  "CONNECT with another Host": "CONNECT a:1 HTTP/1.1\r\nHost: b:1\r\n\r\n",
};

for (const [name, text] of Object.entries(refused)) {
  test(`a request is refused: ${name}`, () => {
    const events = requests(text);
    expect(events).toHaveLength(1);
    expect(events[0]?.slice(0, 2)).toEqual(["failed", "REQUEST_INVALID"]);
  });
}

const chunkedStart = `${start}Transfer-Encoding: chunked\r\n\r\n`;
test.each([
  "0x1\r\na\r\n",
  "+1\r\na\r\n",
  " 1\r\na\r\n",
  "1 \r\na\r\n",
  "1\na\r\n",
  "1\r\na\n",
  "1\r\nab\r\n",
  "\r\n",
  "g\r\n",
  "-1\r\n",
  "1;\r\na\r\n",
  "1; a\r\na\r\n",
  "1;a=\r\na\r\n",
  '1;a="b\r\na\r\n',
  "1;a\nb\r\na\r\n",
  "1\rX\r\na\r\n",
  "0000000000001\r\na\r\n",
  "ffffffffffffff\r\n",
  "0\r\n\n",
  "0\r\nX : 1\r\n\r\n",
  "0\r\n X: 1\r\n\r\n",
  "0\r\nX\r\n\r\n",
  "0\r\nX: \x00\r\n\r\n",
  "0\r\nContent-Length: 3\r\n\r\n",
  "0\r\ntransfer-encoding: chunked\r\n\r\n",
  `1;a=${"b".repeat(5000)}\r\na\r\n`,
])("the chunk %j is refused", (body) => {
  const events = requests(chunkedStart + body);
  expect(events.at(-1)?.slice(0, 2)).toEqual(["failed", "REQUEST_INVALID"]);
});

test("extensions are bounded over the whole message, not only by line", () => {
  const events = requests(chunkedStart + `1;${"b".repeat(100)}\r\na\r\n`.repeat(50));
  expect(events.at(-1)?.[0]).toBe("failed");
});

test("a head over its limit is refused as too large, whether it comes whole or in pieces", () => {
  const large = `GET / HTTP/1.1\r\nHost: a\r\nX: ${"y".repeat(17_000)}\r\n\r\n`;
  expect(requests(large)[0]?.[1]).toBe("HEADERS_TOO_LARGE");
  expect(requests(...(large.match(/.{1,1000}/gs) ?? []))[0]?.[1]).toBe("HEADERS_TOO_LARGE");
  const many = `GET / HTTP/1.1\r\nHost: a\r\n${"X: y\r\n".repeat(100)}\r\n`;
  expect(requests(many)[0]?.[1]).toBe("HEADERS_TOO_LARGE");
  expect(requests(many.replace("X: y\r\n", ""))[0]?.[0]).toBe("head");
  const trailers = `${chunkedStart}0\r\nX: ${"y".repeat(17_000)}\r\n\r\n`;
  expect(requests(trailers).at(-1)?.[1]).toBe("HEADERS_TOO_LARGE");
});

test("the absolute form gives the authority, and Host may agree with it in other words", () => {
  const head = headOf("GET HTTP://Orders:80/a?b HTTP/1.1\r\nHost: orders\r\n\r\n");
  expect([head.scheme, head.authority, head.path]).toEqual(["http", "Orders:80", "/a?b"]);
  expect(headOf("GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n").path).toBe("/?b");
  expect(headOf("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n").path).toBe("/");
  expect(headOf("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n").path).toBe("*");
  expect(headOf("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").path).toBe("*");
});

test("Proxy-Connection: close ends the connection, and goes no further", () => {
  const reader = new RequestHeadReader("http", limits);
  expect(reader.read("GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: Close\r\n")).toBe(true);
  expect([reader.persistent, reader.head.fields]).toEqual([false, []]);
  expect(reader.read("GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: keep-alive\r\n")).toBe(true);
  expect(reader.persistent).toBe(true);
});

test("CONNECT has an authority and no path", () => {
  const head = headOf("CONNECT orders:5672 HTTP/1.1\r\nHost: orders\r\n\r\n");
  expect([head.method, head.authority, head.path]).toEqual(["CONNECT", "orders:5672", ""]);
});

test.each([
  ["CL and TE", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"],
  ["two CL", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n"],
  ["TE gzip, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"],
  ["interim in 1.0", "HTTP/1.0 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n"],
  ["interim that closes", "HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\nHTTP/1.1 204 No\r\n\r\n"],
  ["TE in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"],
  ["unasked 101", "HTTP/1.1 101 Switching\r\n\r\n"],
  ["204 with a body", "HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\n"],
  ["status 99", "HTTP/1.1 099 No\r\n\r\n"],
  ["status 600", "HTTP/1.1 600 No\r\n\r\n"],
  ["status of two digits", "HTTP/1.1 20 OK\r\n\r\n"],
  ["status of four digits", "HTTP/1.1 2000 OK\r\n\r\n"],
  ["HTTP/2.0", "HTTP/2.0 200 OK\r\n\r\n"],
  ["empty line first", "\r\nHTTP/1.1 200 OK\r\n\r\n"],
  ["NUL in the reason", "HTTP/1.1 200 \x00\r\n\r\n"],
  ["obs-fold", "HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n"],
  ["bare LF", "HTTP/1.1 200 OK\nX: 1\n\n"],
])("an answer is refused: %s", (_, text) => {
  expect(responses("GET", text)[0]?.slice(0, 2)).toEqual(["failed", "UPSTREAM_INVALID"]);
});

test("answers to HEAD, 204 and 304 have no body, and interim ones come before", () => {
  expect(responses("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")).toEqual([
    ["head", { status: 200, fields: ["content-length", "5"], bodyLength: 0 }, true],
  ]);
  expect(responses("GET", "HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n")[0]?.[2]).toBe(true);
  expect(responses("GET", "HTTP/1.1 103 \r\nLink: x\r\n\r\nHTTP/1.1 204\r\n\r\n").map((event) => event[0])).toEqual([
    "head",
    "head",
  ]);
});

test("an answer without length ends with its connection", () => {
  expect(responses("GET", "HTTP/1.0 200 OK\r\n\r\nab", "cd")).toEqual([
    ["head", { status: 200, fields: [], bodyLength: -1 }, false],
    ["data", "abcd"],
    ["end", undefined],
  ]);
});

test("an answer's field may have _ in its name", () => {
  expect(responses("GET", "HTTP/1.1 204 No\r\nX_A: 1\r\n\r\n")[0]?.[0]).toBe("head");
});

const samples = [
  "GET /a HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n",
  "\r\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
  'POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x="y"\r\n!\r\n0\r\n\r\n',
  "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\nX-Sum: 1\r\nTE: no\r\n\r\n",
  "GET /bad HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
];

function comparable(events: Event[]): unknown[] {
  // How much of a refused message's body was told before the refusal is not part of the contract.
  return events.map((event) => (event[0] === "failed" ? ["failed", event[1]] : event));
}

test("bytes that are cut anywhere, or everywhere, give the same events as whole", () => {
  const message = fc.constantFrom(...samples);
  fc.assert(
    fc.property(
      fc.array(message, { minLength: 1, maxLength: 4 }),
      fc.array(fc.nat(), { maxLength: 8 }),
      (messages, cuts) => {
        const text = messages.join("");
        const whole = comparable(requests(text));
        const at = [0, ...cuts.map((cut) => cut % text.length).sort((a, b) => a - b), text.length];
        expect(comparable(requests(...at.slice(1).map((to, i) => text.slice(at[i], to))))).toEqual(whole);
      },
    ),
  );
  for (const sample of samples) {
    for (let cut = 1; cut < sample.length; cut++) {
      expect(comparable(requests(sample.slice(0, cut), sample.slice(cut)))).toEqual(comparable(requests(sample)));
    }
    expect(comparable(requests(...sample.split("")))).toEqual(comparable(requests(sample)));
  }
});

test("a message that came before is told as the first time, whatever came between and whatever was made of its head", () => {
  const spoiled = (messages: readonly string[]): Event[] => {
    const { events, sink } = record();
    const reader = new RequestHeadReader("http", limits);
    const spoiling = {
      ...sink,
      head: (head: RequestHead, bodyless: boolean): void => {
        sink.head({ ...head, fields: [...head.fields] }, bodyless);
        // Who is told may keep and change it: the listener takes its secret out.
        head.fields.splice(0, 2, "X-Spoiled", "1");
        head.path = "/spoiled";
        head.method = "SPOILED";
      },
    };
    const parser = new MessageParser<RequestHead>(reader, spoiling, limits);
    for (const message of messages) parser.feed(Buffer.from(message, "latin1"));
    return events;
  };
  const some = [
    ...samples.slice(0, 4),
    "GET /b HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n",
    "GET /a HTTP/1.0\r\nHost: a\r\nX: 1\r\n\r\n",
    `GET /long HTTP/1.1\r\nHost: a\r\nX: ${"1".repeat(300)}\r\n\r\n`,
    `GET /longer HTTP/1.1\r\nHost: a\r\nX: ${"1".repeat(3_000)}\r\n\r\n`,
    "PUT /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
  ];
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.constantFrom(...some), fc.integer({ min: 1, max: 40 })), { maxLength: 6 }),
      (runs) => {
        const messages = runs.flatMap(([message, times]) => Array.from({ length: times }, () => message));
        expect(spoiled(messages)).toEqual(messages.flatMap((message) => requests(message)));
      },
    ),
  );
});

test("the same answer is framed by what was asked, each time", () => {
  const answer = "HTTP/1.1 200 OK\r\nX: 1\r\nContent-Length: 2\r\n\r\n";
  const { events, sink } = record();
  const reader = new ResponseHeadReader(limits);
  const parser = new MessageParser<ResponseHead>(reader, sink, limits);
  for (const method of ["GET", "GET", "HEAD", "HEAD", "GET"]) {
    reader.method = method;
    parser.feed(Buffer.from(method === "GET" ? `${answer}ab` : answer));
  }
  const get = [
    ["head", { status: 200, fields: ["X", "1"], bodyLength: 2 }, false],
    ["data", "ab"],
    ["end", undefined],
  ];
  const head = [["head", { status: 200, fields: ["X", "1", "content-length", "2"], bodyLength: 0 }, true]];
  expect(events).toEqual([...get, ...get, ...head, ...head, ...get]);
  // What opened a tunnel opens no second one, nor does it pass as an ordinary answer.
  reader.method = "GET";
  reader.accept = "x";
  parser.feed(Buffer.from(`${answer}ab`));
  expect(events.at(-1)?.[0]).toBe("failed");
});

test("no bytes make a parser throw, and nothing is told behind a refusal", () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array).toString("latin1")),
    fc.string({ maxLength: 100 }),
    fc.constantFrom(
      "\r\n",
      "\r",
      "\n",
      " ",
      ":",
      "0",
      "1;",
      "GET / HTTP/1.1\r\n",
      "Host: a\r\n",
      "Transfer-Encoding: chunked\r\n",
      "\r\n\r\n",
      "HTTP/1.1 200 OK\r\n",
      ...samples,
    ),
  );
  fc.assert(
    fc.property(fc.array(bytes, { maxLength: 12 }), (pieces) => {
      for (const events of [
        requests(...pieces),
        responses("GET", ...pieces),
        requests(pieces.join("")),
        responses("GET", pieces.join("")),
      ]) {
        const failedAt = events.findIndex((event) => event[0] === "failed");
        if (failedAt >= 0) expect(failedAt).toBe(events.length - 1);
      }
    }),
    { numRuns: 300 },
  );
});

const token = fc
  .stringMatching(/^[A-Za-z0-9-]{1,20}$/)
  .filter(
    (name) =>
      !/^(te|host|connection|keep-alive|upgrade|trailer|content-length|transfer-encoding|proxy-connection|expect|http2-settings)$/i.test(
        name,
      ),
  );
const value = fc.stringMatching(/^(?:[!-~\x80-\xff](?:[ -~\x80-\xff\t]{0,30}[!-~\x80-\xff])?)?$/);
const fields = fc.array(fc.tuple(token, value), { maxLength: 20 }).map((pairs) => pairs.flat());

test("what is written is read back as it was", () => {
  const path = fc.stringMatching(/^\/[!"$-~]{0,40}$/);
  fc.assert(
    fc.property(fields, path, fc.constantFrom(0, 5, -1), fields, (fields, path, bodyLength, trailers) => {
      const head: RequestHead = { method: "PUT", scheme: "http", authority: "orders:80", path, fields, bodyLength };
      const text = requestHeadText(head, bodyLength === 0);
      const body = bodyLength === 5 ? "hello" : bodyLength < 0 ? `5\r\nhello\r\n${lastChunkText(["x-t", "1"])}` : "";
      const events = requests(text + body);
      expect(events[0]).toEqual(["head", head, bodyLength === 0]);
      if (bodyLength < 0) expect(events.at(-1)).toEqual(["end", ["x-t", "1"]]);
      const answer: ResponseHead = { status: 200, fields: trailers, bodyLength };
      const answerText = responseHeadText(answer, { bodyless: false, bodyLength, old: false, persistent: true });
      expect(responses("GET", answerText + body)[0]).toEqual(["head", answer, bodyLength === 0]);
    }),
  );
});

test.each([
  ["x", "a\r\nEvil: 1"],
  ["x", "a\nb"],
  ["x", "\u010a"],
  ["x", "\u0000"],
  ["x y", "1"],
  ["x:", "1"],
  ["", "1"],
  ["x\r\n", "1"],
])("a field %j: %j is not written", (name, text) => {
  const framing = { bodyless: false, bodyLength: 0, old: false, persistent: true };
  expect(responseHeadText({ status: 200, fields: [name, text], bodyLength: 0 }, framing)).toBeUndefined();
  expect(
    requestHeadText(
      { method: "GET", scheme: "http", authority: "a", path: "/", fields: [name, text], bodyLength: 0 },
      true,
    ),
  ).toBeUndefined();
  expect(lastChunkText([name, text])).toBeUndefined();
});

test("fields that frame are written by the writer alone", () => {
  const fields = [
    "Content-Length",
    "9",
    "transfer-encoding",
    "chunked",
    "connection",
    "x",
    "host",
    "evil",
    "te",
    "x",
    "x",
    "1",
  ];
  const framing = { bodyless: false, bodyLength: 3, old: false, persistent: true };
  expect(responseHeadText({ status: 200, fields, bodyLength: 3 }, framing)).toBe(
    "HTTP/1.1 200 OK\r\nx: 1\r\nContent-Length: 3\r\n\r\n",
  );
  expect(
    requestHeadText({ method: "GET", scheme: "http", authority: "a", path: "/", fields, bodyLength: 0 }, true),
  ).toBe("GET / HTTP/1.1\r\nHost: a\r\nx: 1\r\n\r\n");
});

test("a body of one-byte chunks in one read is told once", () => {
  let told = 0;
  const parser = new MessageParser<RequestHead>(
    new RequestHeadReader("http", limits),
    { head: () => undefined, data: () => told++, end: () => undefined, failed: () => undefined },
    limits,
  );
  parser.feed(Buffer.from(`${chunkedStart}${"1\r\na\r\n".repeat(1000)}0\r\n\r\n`));
  expect(told).toBe(1);
});

test("a held parser takes nothing behind the message", () => {
  const { events, sink } = record();
  const parser = new MessageParser<RequestHead>(
    new RequestHeadReader("http", limits),
    {
      ...sink,
      head: (head, bodyless) => {
        sink.head(head, bodyless);
        parser.hold();
      },
    },
    limits,
  );
  const two = Buffer.from(`${samples[0]}${samples[0]}`);
  expect(parser.feed(two)).toBe(samples[0]?.length);
  expect(parser.feed(two, two.length / 2)).toBe(two.length / 2);
  parser.release();
  expect(parser.feed(two, two.length / 2)).toBe(two.length);
  expect(events).toHaveLength(2);
});
