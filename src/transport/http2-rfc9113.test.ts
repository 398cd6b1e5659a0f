import { describe, expect, test } from "vitest";
import { Heard, ask, echo, get, rawToClient, rawToServer } from "../../test/support/http2-pair.ts";
import { rawFields, rawFrame, uint32, verdictOf } from "../../test/support/http2-raw.ts";
import * as frames from "../http/http2/frames.ts";
import type { ServerExchange } from "./exchange.ts";

/** What a peer that breaks RFC 9113 is answered: the shape of h2spec's cases, and some that it lacks. */

const { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION } =
  frames;
const END = frames.END_STREAM;
const WHOLE = frames.END_HEADERS;

const common = [":method", "GET", ":scheme", "http", ":path", "/", ":authority", "orders"];
const posting = [":method", "POST", ...common.slice(2)];

function headers(id: number, fields: string[], flags: number): Buffer {
  return rawFrame(HEADERS, flags, id, rawFields(fields));
}
const request = (id: number): Buffer => headers(id, common, WHOLE | END);
const begun = (id: number, more: string[] = []): Buffer => headers(id, [...posting, ...more], WHOLE);
const ping = rawFrame(PING, 0, 0, "0102030405060708");

/** Answers nothing, so that a stream stays as its peer left it. */
const silent = (exchange: ServerExchange): void => exchange.listen(new Heard());

type Row = [name: string, sent: Buffer[], verdict: string];

function field(...extra: string[]): Buffer[] {
  return [headers(1, [...common, ...extra], WHOLE | END)];
}
function without(name: string): Buffer[] {
  const at = common.indexOf(name);
  return [headers(1, common.toSpliced(at, 2), WHOLE | END)];
}

const frameRows: Row[] = [
  ["an unknown frame", [rawFrame(0xfe, 0, 0, "0000")], "fine"],
  ["undefined flags", [rawFrame(PING, 0x16, 0, "0102030405060708")], "fine"],
  ["a frame on a stream with its reserved bit set", [rawFrame(PRIORITY, 0, 0x8000_0001, "00000000 05")], "fine"],
  ["DATA on an idle stream", [rawFrame(DATA, END, 1, "00")], "connection PROTOCOL_ERROR"],
  ["RST_STREAM on an idle stream", [rawFrame(RST_STREAM, 0, 1, uint32(8))], "connection PROTOCOL_ERROR"],
  ["WINDOW_UPDATE on an idle stream", [rawFrame(WINDOW_UPDATE, 0, 1, uint32(8))], "connection PROTOCOL_ERROR"],
  ["CONTINUATION on an idle stream", [rawFrame(CONTINUATION, WHOLE, 1, "82")], "connection PROTOCOL_ERROR"],
  ["PRIORITY on an idle stream", [rawFrame(PRIORITY, 0, 1, "00000000 05")], "fine"],
  ["DATA after END_STREAM", [request(1), rawFrame(DATA, END, 1, "00")], "stream STREAM_CLOSED"],
  ["HEADERS after END_STREAM", [request(1), request(1)], "stream STREAM_CLOSED"],
  ["CONTINUATION after END_STREAM", [request(1), rawFrame(CONTINUATION, WHOLE, 1, "82")], "connection PROTOCOL_ERROR"],
  [
    "DATA after RST_STREAM",
    [begun(1), rawFrame(RST_STREAM, 0, 1, uint32(8)), rawFrame(DATA, END, 1, "00")],
    "connection STREAM_CLOSED",
  ],
  [
    "HEADERS after RST_STREAM",
    [begun(1), rawFrame(RST_STREAM, 0, 1, uint32(8)), request(1)],
    "connection STREAM_CLOSED",
  ],
  [
    "RST_STREAM twice",
    [begun(1), rawFrame(RST_STREAM, 0, 1, uint32(8)), rawFrame(RST_STREAM, 0, 1, uint32(8))],
    "fine",
  ],
  [
    "WINDOW_UPDATE after RST_STREAM",
    [begun(1), rawFrame(RST_STREAM, 0, 1, uint32(8)), rawFrame(WINDOW_UPDATE, 0, 1, uint32(8))],
    "fine",
  ],
  ["a stream with an even number", [request(2)], "connection PROTOCOL_ERROR"],
  ["a stream below the last one", [request(5), request(3)], "connection PROTOCOL_ERROR"],
  [
    "HEADERS that depend on their own stream",
    [rawFrame(HEADERS, WHOLE | END | 0x20, 1, Buffer.concat([Buffer.from("0000000105", "hex"), rawFields(common)]))],
    "stream PROTOCOL_ERROR",
  ],
  [
    "PRIORITY that depends on its own stream",
    [begun(1), rawFrame(PRIORITY, 0, 1, "00000001 05")],
    "stream PROTOCOL_ERROR",
  ],
  ["PRIORITY of a wrong size on an idle stream", [rawFrame(PRIORITY, 0, 1, "00000001")], "connection FRAME_SIZE_ERROR"],
  ["PRIORITY of a wrong size", [begun(1), rawFrame(PRIORITY, 0, 1, "00000001")], "stream FRAME_SIZE_ERROR"],
  [
    "an invalid header block",
    [rawFrame(HEADERS, WHOLE | END, 1, "ff ff ff ff ff ff ff")],
    "connection COMPRESSION_ERROR",
  ],
  [
    "a header block in many pieces",
    [
      rawFrame(HEADERS, END, 1, rawFields(common.slice(0, 4))),
      rawFrame(CONTINUATION, 0, 1, rawFields(common.slice(4, 6))),
      rawFrame(CONTINUATION, WHOLE, 1, rawFields(common.slice(6))),
    ],
    "fine",
  ],
  ["CONTINUATION after a whole block", [begun(1), rawFrame(CONTINUATION, WHOLE, 1, "82")], "connection PROTOCOL_ERROR"],
  [
    "CONTINUATION after DATA",
    [begun(1), rawFrame(DATA, 0, 1, "00"), rawFrame(CONTINUATION, WHOLE, 1, "82")],
    "connection PROTOCOL_ERROR",
  ],
  [
    "PUSH_PROMISE from a client",
    [begun(1), rawFrame(PUSH_PROMISE, WHOLE, 1, "00000002 82")],
    "connection PROTOCOL_ERROR",
  ],
  ["RST_STREAM with an unknown code", [begun(1), rawFrame(RST_STREAM, 0, 1, uint32(0xff))], "fine"],
  ["GOAWAY on a stream", [rawFrame(GOAWAY, 0, 1, "0000000000000000")], "connection PROTOCOL_ERROR"],
  ["PING on a stream", [rawFrame(PING, 0, 1, "0102030405060708")], "connection PROTOCOL_ERROR"],
  ["an acknowledged PING nobody sent", [rawFrame(PING, 1, 0, "0102030405060708")], "fine"],
];

const settingRows: Row[] = [
  ["ENABLE_PUSH of 2", [rawFrame(SETTINGS, 0, 0, "0002 00000002")], "connection PROTOCOL_ERROR"],
  ["ENABLE_CONNECT_PROTOCOL of 2", [rawFrame(SETTINGS, 0, 0, "0008 00000002")], "connection PROTOCOL_ERROR"],
  ["INITIAL_WINDOW_SIZE of 2^31", [rawFrame(SETTINGS, 0, 0, "0004 80000000")], "connection FLOW_CONTROL_ERROR"],
  ["MAX_FRAME_SIZE of 16,383", [rawFrame(SETTINGS, 0, 0, "0005 00003fff")], "connection PROTOCOL_ERROR"],
  ["MAX_FRAME_SIZE of 2^24", [rawFrame(SETTINGS, 0, 0, "0005 01000000")], "connection PROTOCOL_ERROR"],
  ["an unknown setting", [rawFrame(SETTINGS, 0, 0, "00ff 00000001")], "fine"],
  [
    "a connection window above its maximum",
    [rawFrame(WINDOW_UPDATE, 0, 0, uint32(0x7fff_ffff)), rawFrame(WINDOW_UPDATE, 0, 0, uint32(0x7fff_ffff))],
    "connection FLOW_CONTROL_ERROR",
  ],
  [
    "a stream's window above its maximum",
    [begun(1), rawFrame(WINDOW_UPDATE, 0, 1, uint32(0x7fff_ffff)), rawFrame(WINDOW_UPDATE, 0, 1, uint32(0x7fff_ffff))],
    "stream FLOW_CONTROL_ERROR",
  ],
  [
    "a stream's window above its maximum by a setting",
    [begun(1), rawFrame(WINDOW_UPDATE, 0, 1, uint32(0x7fff_0000)), rawFrame(SETTINGS, 0, 0, "0004 7fffffff")],
    "connection FLOW_CONTROL_ERROR",
  ],
  ["WINDOW_UPDATE by 0 on a stream", [begun(1), rawFrame(WINDOW_UPDATE, 0, 1, uint32(0))], "stream PROTOCOL_ERROR"],
  [
    "more DATA than the stream's window",
    [begun(1), ...Array.from({ length: 17 }, () => rawFrame(DATA, 0, 1, Buffer.alloc(16_384)))],
    "stream FLOW_CONTROL_ERROR",
  ],
  [
    "more DATA than the connection's window",
    Array.from({ length: 5 }, (_, i) => [
      begun(1 + 2 * i),
      ...Array.from({ length: 16 }, () => rawFrame(DATA, 0, 1 + 2 * i, Buffer.alloc(16_384))),
    ]).flat(),
    "connection FLOW_CONTROL_ERROR",
  ],
];

const messageRows: Row[] = [
  ["a plain request", field(), "fine"],
  ["a second head without an end", [begun(1), begun(1)], "stream PROTOCOL_ERROR"],
  ["trailers", [begun(1), headers(1, ["x-a", "1"], WHOLE | END)], "fine"],
  ["a pseudo-field in the trailers", [begun(1), headers(1, [":method", "GET"], WHOLE | END)], "stream PROTOCOL_ERROR"],
  [
    "a content length in the trailers",
    [begun(1), headers(1, ["content-length", "0"], WHOLE | END)],
    "stream PROTOCOL_ERROR",
  ],
  ["a name in upper case", field("X-Test", "ok"), "stream PROTOCOL_ERROR"],
  ["a name with a space", field("x test", "ok"), "stream PROTOCOL_ERROR"],
  ["an empty name", field("", "ok"), "stream PROTOCOL_ERROR"],
  ["a value with a line break", field("x-a", "a\nb"), "stream PROTOCOL_ERROR"],
  ["a value with a carriage return", field("x-a", "a\rb"), "stream PROTOCOL_ERROR"],
  ["a value with NUL", field("x-a", "a\0"), "stream PROTOCOL_ERROR"],
  ["a value with DEL", field("x-a", "a\x7f"), "stream PROTOCOL_ERROR"],
  ["a value that begins with a space", field("x-a", " a"), "stream PROTOCOL_ERROR"],
  ["an unknown pseudo-field", field(":test", "ok"), "stream PROTOCOL_ERROR"],
  [":status in a request", field(":status", "200"), "stream PROTOCOL_ERROR"],
  [":protocol without CONNECT", field(":protocol", "websocket"), "stream PROTOCOL_ERROR"],
  ["a pseudo-field after a field", [headers(1, ["x-a", "1", ...common], WHOLE | END)], "stream PROTOCOL_ERROR"],
  ["connection", field("connection", "keep-alive"), "stream PROTOCOL_ERROR"],
  ["keep-alive", field("keep-alive", "1"), "stream PROTOCOL_ERROR"],
  ["proxy-connection", field("proxy-connection", "1"), "stream PROTOCOL_ERROR"],
  ["transfer-encoding", field("transfer-encoding", "chunked"), "stream PROTOCOL_ERROR"],
  ["upgrade", field("upgrade", "h2c"), "stream PROTOCOL_ERROR"],
  ["te other than trailers", field("te", "trailers, deflate"), "stream PROTOCOL_ERROR"],
  ["te of trailers", field("te", "trailers"), "fine"],
  [
    "an empty path",
    [headers(1, [":method", "GET", ":scheme", "http", ":path", "", ":authority", "orders"], WHOLE | END)],
    "stream PROTOCOL_ERROR",
  ],
  [
    "a path without its slash",
    [headers(1, [":method", "GET", ":scheme", "http", ":path", "a", ":authority", "orders"], WHOLE | END)],
    "stream PROTOCOL_ERROR",
  ],
  [
    "a path of * with GET",
    [headers(1, [":method", "GET", ":scheme", "http", ":path", "*", ":authority", "orders"], WHOLE | END)],
    "stream PROTOCOL_ERROR",
  ],
  ["no method", without(":method"), "stream PROTOCOL_ERROR"],
  ["no scheme", without(":scheme"), "stream PROTOCOL_ERROR"],
  ["no path", without(":path"), "stream PROTOCOL_ERROR"],
  ["two methods", [headers(1, [":method", "GET", ...common], WHOLE | END)], "stream PROTOCOL_ERROR"],
  ["two schemes", [headers(1, [":scheme", "http", ...common], WHOLE | END)], "stream PROTOCOL_ERROR"],
  ["two paths", [headers(1, [":path", "/", ...common], WHOLE | END)], "stream PROTOCOL_ERROR"],
  ["two authorities", [headers(1, [":authority", "orders", ...common], WHOLE | END)], "stream PROTOCOL_ERROR"],
  [
    "a scheme in mixed case",
    [headers(1, [":method", "GET", ":scheme", "HtTp", ":path", "/", ":authority", "orders"], WHOLE | END)],
    "stream PROTOCOL_ERROR",
  ],
  [
    "a scheme that is not HTTP's",
    [headers(1, [":method", "GET", ":scheme", "ftp", ":path", "/", ":authority", "orders"], WHOLE | END)],
    "stream PROTOCOL_ERROR",
  ],
  [
    "an authority with user information",
    [headers(1, [":method", "GET", ":scheme", "http", ":path", "/", ":authority", "me@orders"], WHOLE | END)],
    "stream PROTOCOL_ERROR",
  ],
  [
    "a method with a space",
    [headers(1, [":method", "G T", ":scheme", "http", ":path", "/", ":authority", "orders"], WHOLE | END)],
    "stream PROTOCOL_ERROR",
  ],
  [
    "CONNECT with a path",
    [headers(1, [":method", "CONNECT", ":path", "/", ":authority", "orders:1"], WHOLE)],
    "stream PROTOCOL_ERROR",
  ],
  ["CONNECT without an authority", [headers(1, [":method", "CONNECT"], WHOLE)], "stream PROTOCOL_ERROR"],
  ["CONNECT", [headers(1, [":method", "CONNECT", ":authority", "orders:1"], WHOLE)], "fine"],
  [
    "a content length above the data",
    [begun(1, ["content-length", "2"]), rawFrame(DATA, END, 1, "00")],
    "stream PROTOCOL_ERROR",
  ],
  [
    "a content length below the data",
    [begun(1, ["content-length", "1"]), rawFrame(DATA, END, 1, "0000")],
    "stream PROTOCOL_ERROR",
  ],
  [
    "a content length below the data of several frames",
    [begun(1, ["content-length", "1"]), rawFrame(DATA, 0, 1, "00"), rawFrame(DATA, END, 1, "00")],
    "stream PROTOCOL_ERROR",
  ],
  ["a content length without a body", field("content-length", "1"), "stream PROTOCOL_ERROR"],
  [
    "a content length above the data before trailers",
    [begun(1, ["content-length", "2"]), rawFrame(DATA, 0, 1, "00"), headers(1, ["x-a", "1"], WHOLE | END)],
    "stream PROTOCOL_ERROR",
  ],
  [
    "two content lengths that differ",
    [begun(1, ["content-length", "1", "content-length", "2"])],
    "stream PROTOCOL_ERROR",
  ],
  ["a content length with a sign", [begun(1, ["content-length", "+1"])], "stream PROTOCOL_ERROR"],
  [
    "a content length that is right, with padding",
    [begun(1, ["content-length", "3"]), rawFrame(DATA, frames.PADDED | END, 1, "02 616263 0000")],
    "fine",
  ],
];

for (const [group, rows] of [
  ["frames", frameRows],
  ["settings and windows", settingRows],
  ["messages", messageRows],
] as const) {
  describe(`the server judges ${group}`, () => {
    for (const [name, sent, verdict] of rows) {
      test(`${name}: ${verdict}`, async () => {
        const { peer, ends } = rawToServer(silent, { heldBytesMax: 1_048_576 - frames.WINDOW_DEFAULT });
        peer.send(...sent);
        expect(await verdictOf(peer, 1)).toBe(verdict);
        // Whatever was wrong with one stream, the next one works.
        if (!verdict.startsWith("connection")) expect(ends.closed).toEqual([]);
        else expect(ends.closed).toHaveLength(1);
      });
    }
  });
}

test("frames on a stream that ended normally break the connection", async () => {
  for (const late of [rawFrame(DATA, END, 1, "00"), request(1)]) {
    const { peer } = rawToServer(echo);
    peer.send(request(1));
    await peer.frame((frame) => frame.streamId === 1 && (frame.flags & END) !== 0);
    peer.send(late);
    expect(await verdictOf(peer, 1)).toBe("connection STREAM_CLOSED");
  }
});

describe("the server answers 400, with a code, to what other programs read differently", () => {
  const rows: [string, string[]][] = [
    ["a Host that differs from :authority", [...common, "host", "evil"]],
    ["two Hosts", [...common, "host", "orders", "host", "orders"]],
    ["a fragment in the path", [":method", "GET", ":scheme", "http", ":path", "/admin#x", ":authority", "orders"]],
    ["a path that is not ASCII", [":method", "GET", ":scheme", "http", ":path", "/\xe4", ":authority", "orders"]],
    ["a space in the path", [":method", "GET", ":scheme", "http", ":path", "/a b", ":authority", "orders"]],
    ["a name with an underscore", [...common, "x_forwarded_for", "1"]],
    ["no authority at all", [":method", "GET", ":scheme", "http", ":path", "/"]],
  ];
  for (const [name, fields] of rows) {
    test(name, async () => {
      let handled = 0;
      const { peer } = rawToServer(() => void handled++);
      peer.send(headers(1, fields, WHOLE | END));
      const head = await peer.frame((frame) => frame.type === HEADERS && frame.streamId === 1);
      const body = await peer.frame((frame) => frame.type === DATA && frame.streamId === 1);
      expect(head.payload[0]).toBe(0x8c);
      expect(head.payload.toString("latin1")).toContain("REQUEST_INVALID");
      expect(JSON.parse(body.payload.toString())).toMatchObject({ code: "REQUEST_INVALID", hint: expect.any(String) });
      expect(handled).toBe(0);
    });
  }
});

test("a Host that equals :authority but for its case is taken, and only one of them handed up", async () => {
  const heads: unknown[] = [];
  const { peer } = rawToServer((exchange) => {
    heads.push(exchange.head);
    echo(exchange);
  });
  peer.send(
    headers(1, [...common, "host", "Orders"], WHOLE | END),
    headers(3, [...common.slice(0, 6), "host", "orders"], WHOLE | END),
  );
  await peer.frame((frame) => frame.streamId === 3 && (frame.flags & END) !== 0);
  const head = { method: "GET", scheme: "http", authority: "orders", path: "/", fields: [], bodyLength: 0 };
  expect(heads).toEqual([head, head]);
});

test("cookie crumbs are joined into one field", async () => {
  const fields: string[][] = [];
  const { peer } = rawToServer((exchange) => {
    fields.push(exchange.head.fields);
    echo(exchange);
  });
  peer.send(
    headers(1, [...common, "cookie", "a=1", "x-a", "1", "cookie", "b=2", "cookie", "", "cookie", "c=3"], WHOLE | END),
  );
  await peer.frame((frame) => frame.streamId === 1 && (frame.flags & END) !== 0);
  expect(fields).toEqual([["cookie", "a=1; b=2; c=3", "x-a", "1"]]);
});

test("fields above the limit are answered 431, and the connection goes on", async () => {
  for (const extra of [
    ["x-a", "1"],
    ["cookie", "a=1"],
  ]) {
    const { peer, ends } = rawToServer(echo, { headersMax: 20 });
    peer.send(headers(1, [...common, ...Array.from({ length: 20 }, () => extra).flat()], WHOLE | END));
    const head = await peer.frame((frame) => frame.type === HEADERS && frame.streamId === 1);
    expect(head.payload.toString("latin1")).toContain("431");
    peer.send(request(3));
    await peer.frame((frame) => frame.streamId === 3 && (frame.flags & END) !== 0);
    expect(ends.closed).toEqual([]);
  }
});

test("a client whose first frame is not SETTINGS is cut off", async () => {
  const { peer, ends } = rawToServer(echo, {}, Buffer.alloc(0));
  await peer.frame((frame) => frame.type === SETTINGS);
  peer.send(ping);
  await peer.end();
  expect(ends.closed).toEqual(["PROTOCOL_ERROR: the first frame is not SETTINGS"]);
});

test("a window of one byte gets one byte, a larger one the rest, a negative one nothing", async () => {
  const answer = (exchange: ServerExchange): void => {
    exchange.listen(new Heard());
    exchange.respond({ status: 200, fields: [], bodyLength: 5 }, false);
    exchange.write(Buffer.from("hello"));
    exchange.end();
  };
  const { peer } = rawToServer(answer, {}, rawFrame(SETTINGS, 0, 0, "0004 00000001"));
  peer.send(request(1));
  await peer.frame((frame) => frame.type === DATA);
  const sizes = (): number[] => peer.frames.filter((frame) => frame.type === DATA).map((frame) => frame.payload.length);
  peer.send(rawFrame(SETTINGS, 0, 0, "0004 00000000"), rawFrame(WINDOW_UPDATE, 0, 1, uint32(1)), ping);
  await peer.frame((frame) => frame.type === PING);
  expect(sizes()).toEqual([1]);
  peer.send(rawFrame(SETTINGS, 0, 0, "0004 00000002"), rawFrame(WINDOW_UPDATE, 0, 1, uint32(10)));
  await peer.frame((frame) => frame.type === DATA && (frame.flags & END) !== 0);
  expect(sizes()).toEqual([1, 2, 2]);
});

const answered = (id: number, fields: string[] = [], flags = WHOLE): Buffer =>
  headers(id, [":status", "200", ...fields], flags);

describe("the client judges answers", () => {
  const rows: Row[] = [
    ["HEADERS on an idle stream", [answered(3)], "connection PROTOCOL_ERROR"],
    ["HEADERS on an even stream", [answered(2)], "connection PROTOCOL_ERROR"],
    ["DATA on an idle stream", [rawFrame(DATA, 0, 3, "00")], "connection PROTOCOL_ERROR"],
    ["DATA before the head", [rawFrame(DATA, 0, 1, "00")], "stream PROTOCOL_ERROR"],
    ["PUSH_PROMISE", [rawFrame(PUSH_PROMISE, WHOLE, 1, "00000002 82")], "connection PROTOCOL_ERROR"],
    ["ENABLE_PUSH of 1", [rawFrame(SETTINGS, 0, 0, "0002 00000001")], "connection PROTOCOL_ERROR"],
    ["no status", [headers(1, ["x-a", "1"], WHOLE)], "stream PROTOCOL_ERROR"],
    ["two statuses", [headers(1, [":status", "200", ":status", "200"], WHOLE)], "stream PROTOCOL_ERROR"],
    ["a status of four digits", [headers(1, [":status", "2000"], WHOLE)], "stream PROTOCOL_ERROR"],
    ["a status after a field", [headers(1, ["x-a", "1", ":status", "200"], WHOLE)], "stream PROTOCOL_ERROR"],
    ["status 101", [headers(1, [":status", "101"], WHOLE)], "stream PROTOCOL_ERROR"],
    [":path in an answer", [headers(1, [":status", "200", ":path", "/"], WHOLE)], "stream PROTOCOL_ERROR"],
    ["an interim answer that ends", [headers(1, [":status", "100"], WHOLE | END)], "stream PROTOCOL_ERROR"],
    [
      "interim answers without end",
      Array.from({ length: 33 }, () => headers(1, [":status", "102"], WHOLE)),
      "stream ENHANCE_YOUR_CALM",
    ],
    ["a value with a line break", [answered(1, ["x-a", "a\r\nb: c"])], "stream PROTOCOL_ERROR"],
    ["a connection field", [answered(1, ["connection", "close"])], "stream PROTOCOL_ERROR"],
    [
      "more data than the content length",
      [answered(1, ["content-length", "1"]), rawFrame(DATA, END, 1, "0000")],
      "stream PROTOCOL_ERROR",
    ],
    [
      "less data than the content length",
      [answered(1, ["content-length", "3"]), rawFrame(DATA, END, 1, "0000")],
      "stream PROTOCOL_ERROR",
    ],
    [
      "data after status 204",
      [headers(1, [":status", "204"], WHOLE), rawFrame(DATA, END, 1, "00")],
      "stream PROTOCOL_ERROR",
    ],
    [
      "data after status 304",
      [headers(1, [":status", "304"], WHOLE), rawFrame(DATA, END, 1, "00")],
      "stream PROTOCOL_ERROR",
    ],
    [
      "a pseudo-field in the trailers",
      [answered(1), headers(1, [":status", "200"], WHOLE | END)],
      "stream PROTOCOL_ERROR",
    ],
    ["a name with an underscore, which harms nobody here", [answered(1, ["x_a", "1"], WHOLE | END)], "fine"],
    [
      "fields that are too many",
      [answered(1, Array.from({ length: 101 }, () => ["x-a", "1"]).flat())],
      "stream ENHANCE_YOUR_CALM",
    ],
    [
      "a window above its maximum",
      [rawFrame(WINDOW_UPDATE, 0, 0, uint32(0x7fff_ffff))],
      "connection FLOW_CONTROL_ERROR",
    ],
  ];
  for (const [name, sent, verdict] of rows) {
    test(`${name}: ${verdict}`, async () => {
      const { peer, client, ends } = await rawToClient();
      // The request stays open, so that it has to be reset where it broke.
      const { heard } = ask(client, get("/", [], "POST"), false);
      await peer.frame((frame) => frame.type === HEADERS);
      peer.send(...sent);
      expect(await verdictOf(peer, 1)).toBe(verdict);
      if (verdict !== "fine") expect(heard.loss?.kind).toBe("invalid");
      expect(ends.closed).toHaveLength(verdict.startsWith("connection") ? 1 : 0);
    });
  }
});

test("an answer to HEAD keeps its content length among its fields and has no body", async () => {
  const { peer, client } = await rawToClient();
  const { heard } = ask(client, get("/", [], "HEAD"));
  await peer.frame((frame) => frame.type === HEADERS);
  peer.send(answered(1, ["content-length", "5"], WHOLE | END));
  await heard.over();
  expect(heard.heads).toEqual([{ status: 200, fields: ["content-length", "5"], bodyLength: 0 }]);
});
