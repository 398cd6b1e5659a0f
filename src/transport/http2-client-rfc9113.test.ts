import { duplexPair } from "node:stream";
import { describe, expect, test } from "vitest";
import { Heard, ask, contextOf, endsOf, get, optionsWith, rawToClient } from "../../test/support/http2-pair.ts";
import { RawPeer, rawFields, rawFrame, rawPreface, uint32, verdictOf } from "../../test/support/http2-raw.ts";
import * as frames from "../http/http2/frames.ts";
import { connectHttp2 } from "./http2-client.ts";

/**
 * What a server that breaks RFC 9113, or only does what nobody expects, is told by our client, clause by clause, and what the
 * exchange becomes. One request, a POST whose body goes on, lies on stream 1.
 */

const { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION } =
  frames;
const END = frames.END_STREAM;
const WHOLE = frames.END_HEADERS;

const headers = (fields: string[], flags = WHOLE, id = 1): Buffer => rawFrame(HEADERS, flags, id, rawFields(fields));
const ok = (more: string[] = [], flags = WHOLE): Buffer => headers([":status", "200", ...more], flags);
const data = (text: string, flags = 0, id = 1): Buffer => rawFrame(DATA, flags, id, Buffer.from(text));
const setting = (id: number, value: number): Buffer =>
  rawFrame(SETTINGS, 0, 0, Buffer.concat([Buffer.from([0, id]), uint32(value)]));

/** The clause, what the server does, what it is told, and what the caller hears at last. */
type Row = readonly [clause: string, name: string, sent: readonly Buffer[], verdict: string, heard: string];

const CONNECTION = "connection PROTOCOL_ERROR";
const STREAM = "stream PROTOCOL_ERROR";
const INVALID = "aborted invalid";

const frameRows: Row[] = [
  [
    "4.1",
    "a frame of an unknown type on the stream",
    [rawFrame(0xbe, 0xff, 1, "00"), ok([], WHOLE | END)],
    "fine",
    "head 200 end",
  ],
  ["4.1", "ALTSVC, which we do not know", [rawFrame(0x0a, 0, 0, "0000"), ok([], WHOLE | END)], "fine", "head 200 end"],
  ["4.1", "flags that DATA does not have", [ok(), data("a", 0xf6 | END)], "fine", "end"],
  ["4.1", "the reserved bit of a stream's number", [ok(), rawFrame(DATA, END, 0x8000_0001, "61")], "fine", "end"],
  [
    "4.2",
    "DATA longer than we ever allowed",
    [ok(), rawFrame(DATA, 0, 1, Buffer.alloc(16_385))],
    "connection FRAME_SIZE_ERROR",
    INVALID,
  ],
  [
    "4.2",
    "HEADERS longer than we ever allowed",
    [rawFrame(HEADERS, WHOLE, 1, Buffer.alloc(16_385))],
    "connection FRAME_SIZE_ERROR",
    INVALID,
  ],
  [
    "4.3",
    "a header block that does not decode",
    [rawFrame(HEADERS, WHOLE, 1, "ff ff ff ff ff ff ff")],
    "connection COMPRESSION_ERROR",
    INVALID,
  ],
  [
    "4.3",
    "a header block that asks for an entry nobody made",
    [rawFrame(HEADERS, WHOLE, 1, "be")],
    "connection COMPRESSION_ERROR",
    INVALID,
  ],
  [
    "4.3",
    "a table larger than we allowed",
    [rawFrame(HEADERS, WHOLE, 1, "3f e2 1f 88")],
    "connection COMPRESSION_ERROR",
    INVALID,
  ],
  ["5.1", "HEADERS on a stream that we did not open", [headers([":status", "200"], WHOLE, 3)], CONNECTION, INVALID],
  ["5.1", "DATA on a stream that we did not open", [data("a", 0, 5)], CONNECTION, INVALID],
  ["5.1", "RST_STREAM on a stream that we did not open", [rawFrame(RST_STREAM, 0, 3, uint32(8))], CONNECTION, INVALID],
  [
    "5.1",
    "WINDOW_UPDATE on a stream that we did not open",
    [rawFrame(WINDOW_UPDATE, 0, 3, uint32(8))],
    CONNECTION,
    INVALID,
  ],
  [
    "5.1",
    "PRIORITY on a stream that we did not open",
    [rawFrame(PRIORITY, 0, 3, "00000000 05"), ok([], WHOLE | END)],
    "fine",
    "head 200 end",
  ],
  ["5.1", "DATA behind the end of the answer", [ok([], WHOLE | END), data("a")], "stream STREAM_CLOSED", INVALID],
  [
    "5.1",
    "HEADERS behind the end of the answer",
    [ok([], WHOLE | END), headers(["x-a", "1"], WHOLE | END)],
    "stream STREAM_CLOSED",
    INVALID,
  ],
  [
    "5.1",
    "WINDOW_UPDATE behind the end of the answer, for the rest of the request",
    [ok([], WHOLE | END), rawFrame(WINDOW_UPDATE, 0, 1, uint32(9))],
    "fine",
    "head 200 end",
  ],
  [
    "5.1",
    "DATA behind its own RST_STREAM",
    [ok(), rawFrame(RST_STREAM, 0, 1, uint32(8)), data("a")],
    "connection STREAM_CLOSED",
    "aborted cancelled",
  ],
  [
    "5.1",
    "HEADERS behind its own RST_STREAM",
    [rawFrame(RST_STREAM, 0, 1, uint32(8)), ok()],
    "connection STREAM_CLOSED",
    "aborted cancelled",
  ],
  [
    "5.1",
    "RST_STREAM twice",
    [rawFrame(RST_STREAM, 0, 1, uint32(2)), rawFrame(RST_STREAM, 0, 1, uint32(2))],
    "fine",
    "aborted lost",
  ],
  ["5.1.1", "HEADERS on a stream of its own", [headers([":status", "200"], WHOLE, 2)], CONNECTION, INVALID],
  ["5.3", "PRIORITY that depends on its own stream", [rawFrame(PRIORITY, 0, 1, "00000001 05")], STREAM, INVALID],
  ["6.1", "DATA on stream 0", [rawFrame(DATA, 0, 0, "61")], CONNECTION, INVALID],
  [
    "6.1",
    "DATA with more padding than payload",
    [ok(), rawFrame(DATA, frames.PADDED, 1, "05 61")],
    CONNECTION,
    INVALID,
  ],
  ["6.2", "HEADERS on stream 0", [rawFrame(HEADERS, WHOLE, 0, rawFields([":status", "200"]))], CONNECTION, INVALID],
  [
    "6.2",
    "HEADERS with more padding than payload",
    [rawFrame(HEADERS, WHOLE | frames.PADDED, 1, "09 88")],
    CONNECTION,
    INVALID,
  ],
  [
    "6.2",
    "HEADERS with padding and priority",
    [rawFrame(HEADERS, WHOLE | END | frames.PADDED | frames.WITH_PRIORITY, 1, "02 00000000 05 88 0000")],
    "fine",
    "head 200 end",
  ],
  ["6.3", "PRIORITY of a wrong size", [rawFrame(PRIORITY, 0, 1, "00000000")], "stream FRAME_SIZE_ERROR", INVALID],
  ["6.4", "RST_STREAM on stream 0", [rawFrame(RST_STREAM, 0, 0, uint32(8))], CONNECTION, INVALID],
  ["6.4", "RST_STREAM of a wrong size", [rawFrame(RST_STREAM, 0, 1, "0008")], "connection FRAME_SIZE_ERROR", INVALID],
  [
    "6.4",
    "RST_STREAM with a code nobody knows",
    [rawFrame(RST_STREAM, 0, 1, uint32(0xffff_ffff))],
    "fine",
    "aborted lost",
  ],
  ["6.6", "PUSH_PROMISE, which we disabled", [rawFrame(PUSH_PROMISE, WHOLE, 1, "00000002 82")], CONNECTION, INVALID],
  ["6.7", "PING on a stream", [rawFrame(PING, 0, 1, "0102030405060708")], CONNECTION, INVALID],
  ["6.7", "PING of a wrong size", [rawFrame(PING, 0, 0, "0102")], "connection FRAME_SIZE_ERROR", INVALID],
  [
    "6.7",
    "an acknowledged PING that nobody sent",
    [rawFrame(PING, 1, 0, "0102030405060708"), ok([], WHOLE | END)],
    "fine",
    "head 200 end",
  ],
  ["6.8", "GOAWAY on a stream", [rawFrame(GOAWAY, 0, 1, "0000000100000000")], CONNECTION, INVALID],
  ["6.8", "GOAWAY of a wrong size", [rawFrame(GOAWAY, 0, 0, "00000001")], "connection FRAME_SIZE_ERROR", INVALID],
  ["6.10", "CONTINUATION without its HEADERS", [rawFrame(CONTINUATION, WHOLE, 1, "88")], CONNECTION, INVALID],
  [
    "6.10",
    "CONTINUATION of another stream",
    [rawFrame(HEADERS, 0, 1, "88"), rawFrame(CONTINUATION, WHOLE, 3)],
    CONNECTION,
    INVALID,
  ],
  [
    "6.10",
    "another frame inside a header block",
    [rawFrame(HEADERS, 0, 1, "88"), rawFrame(PING, 0, 0, "0102030405060708")],
    CONNECTION,
    INVALID,
  ],
  [
    "6.10",
    "an answer in three pieces",
    [
      rawFrame(HEADERS, END, 1, "88"),
      rawFrame(CONTINUATION, 0, 1, rawFields(["x-a", "1"])),
      rawFrame(CONTINUATION, WHOLE, 1),
    ],
    "fine",
    "head 200 end",
  ],
];

const settingRows: Row[] = [
  ["6.5", "SETTINGS on a stream", [rawFrame(SETTINGS, 0, 1)], CONNECTION, INVALID],
  ["6.5", "SETTINGS of a wrong size", [rawFrame(SETTINGS, 0, 0, "000300")], "connection FRAME_SIZE_ERROR", INVALID],
  [
    "6.5",
    "an acknowledgement with settings in it",
    [rawFrame(SETTINGS, 1, 0, "000300000001")],
    "connection FRAME_SIZE_ERROR",
    INVALID,
  ],
  ["6.5.2", "ENABLE_PUSH of 1 from a server", [setting(2, 1)], CONNECTION, INVALID],
  ["6.5.2", "ENABLE_PUSH of 0 from a server", [setting(2, 0), ok([], WHOLE | END)], "fine", "head 200 end"],
  ["6.5.2", "INITIAL_WINDOW_SIZE of 2^31", [setting(4, 0x8000_0000)], "connection FLOW_CONTROL_ERROR", INVALID],
  ["6.5.2", "MAX_FRAME_SIZE of 16,383", [setting(5, 16_383)], CONNECTION, INVALID],
  ["6.5.2", "MAX_FRAME_SIZE of 2^24", [setting(5, 0x100_0000)], CONNECTION, INVALID],
  [
    "6.5.2",
    "MAX_CONCURRENT_STREAMS of 0 while a stream is open",
    [setting(3, 0), ok([], WHOLE | END)],
    "fine",
    "head 200 end",
  ],
  ["6.5.2", "MAX_HEADER_LIST_SIZE below what we sent", [setting(6, 1), ok([], WHOLE | END)], "fine", "head 200 end"],
  ["6.5.2", "a setting that nobody knows", [setting(0x99, 1), ok([], WHOLE | END)], "fine", "head 200 end"],
  ["RFC 8441, 3", "ENABLE_CONNECT_PROTOCOL of 2", [setting(8, 2)], CONNECTION, INVALID],
  ["6.9", "WINDOW_UPDATE by 0 on the connection", [rawFrame(WINDOW_UPDATE, 0, 0, uint32(0))], CONNECTION, INVALID],
  ["6.9", "WINDOW_UPDATE by 0 on a stream", [rawFrame(WINDOW_UPDATE, 0, 1, uint32(0))], STREAM, INVALID],
  [
    "6.9",
    "WINDOW_UPDATE of a wrong size",
    [rawFrame(WINDOW_UPDATE, 0, 1, "0001")],
    "connection FRAME_SIZE_ERROR",
    INVALID,
  ],
  [
    "6.9.1",
    "a connection's window above 2^31-1",
    [rawFrame(WINDOW_UPDATE, 0, 0, uint32(0x7fff_ffff))],
    "connection FLOW_CONTROL_ERROR",
    INVALID,
  ],
  [
    "6.9.1",
    "a stream's window above 2^31-1",
    [rawFrame(WINDOW_UPDATE, 0, 1, uint32(0x7fff_ffff))],
    "stream FLOW_CONTROL_ERROR",
    INVALID,
  ],
  [
    "6.9.2",
    "a stream's window above 2^31-1 by a setting",
    [rawFrame(WINDOW_UPDATE, 0, 1, uint32(0x7fff_0000)), setting(4, 0x7fff_ffff)],
    "connection FLOW_CONTROL_ERROR",
    INVALID,
  ],
  [
    "6.9.1",
    "more of a body than the stream's window",
    [ok(), ...Array.from({ length: 17 }, () => rawFrame(DATA, 0, 1, Buffer.alloc(16_384)))],
    "stream FLOW_CONTROL_ERROR",
    INVALID,
  ],
];

const messageRows: Row[] = [
  ["8.1", "DATA before the head", [data("a")], STREAM, INVALID],
  ["8.1", "an interim answer that ends the stream", [headers([":status", "103"], WHOLE | END)], STREAM, INVALID],
  ["8.1", "an interim answer behind the head", [ok(), headers([":status", "103"])], STREAM, INVALID],
  ["8.1", "a second head", [ok(), ok()], STREAM, INVALID],
  ["8.1", "DATA between an interim answer and the head", [headers([":status", "103"]), data("a")], STREAM, INVALID],
  ["8.1", "trailers that do not end the stream", [ok(), headers(["x-a", "1"])], STREAM, INVALID],
  ["8.1", "a pseudo-field in the trailers", [ok(), headers([":status", "200"], WHOLE | END)], STREAM, INVALID],
  ["8.1", "trailers right behind the head", [ok(), headers(["x-a", "1"], WHOLE | END)], "fine", "end"],
  [
    "8.1",
    "an answer before the request is whole, and RST_STREAM(NO_ERROR)",
    [ok([], WHOLE | END), rawFrame(RST_STREAM, 0, 1, uint32(0))],
    "fine",
    "aborted cancelled",
  ],
  ["8.1.1", "a content length above the data", [ok(["content-length", "2"]), data("a", END)], STREAM, INVALID],
  ["8.1.1", "a content length below the data", [ok(["content-length", "1"]), data("ab", END)], STREAM, INVALID],
  [
    "8.1.1",
    "a content length below the data of several frames",
    [ok(["content-length", "3"]), data("ab"), data("cd", END)],
    STREAM,
    INVALID,
  ],
  [
    "8.1.1",
    "a content length above the data before trailers",
    [ok(["content-length", "2"]), data("a"), headers(["x-a", "1"], WHOLE | END)],
    STREAM,
    INVALID,
  ],
  ["8.1.1", "a content length and no body", [ok(["content-length", "1"], WHOLE | END)], STREAM, INVALID],
  ["8.1.1", "two content lengths that differ", [ok(["content-length", "1", "content-length", "2"])], STREAM, INVALID],
  [
    "8.1.1",
    "two content lengths that agree",
    [ok(["content-length", "1", "content-length", "1"]), data("a", END)],
    "fine",
    "end",
  ],
  ["8.1.1", "a content length in a list", [ok(["content-length", "1, 1"])], STREAM, INVALID],
  ["8.1.1", "a negative content length", [ok(["content-length", "-1"])], STREAM, INVALID],
  [
    "8.1.1",
    "a content length that is right, counted without padding",
    [ok(["content-length", "1"]), rawFrame(DATA, END | frames.PADDED, 1, "02 61 0000")],
    "fine",
    "end",
  ],
  [
    "8.1.1",
    "a content length of 0 that ends with an empty frame",
    [ok(["content-length", "0"]), data("", END)],
    "fine",
    "end",
  ],
  ["8.1.1", "a body behind 204", [headers([":status", "204"]), data("a", END)], STREAM, INVALID],
  ["8.1.1", "a body behind 304", [headers([":status", "304"]), data("a", END)], STREAM, INVALID],
  ["8.2.1", "a name with upper-case letters", [ok(["X-Test", "1"])], STREAM, INVALID],
  ["8.2.1", "an empty name", [ok(["", "1"])], STREAM, INVALID],
  ["8.2.1", "a name with a space", [ok(["x a", "1"])], STREAM, INVALID],
  ["8.2.1", "a name with a colon inside", [ok(["x:a", "1"])], STREAM, INVALID],
  ["8.2.1", "a name that is not ASCII", [ok(["x-\xe4", "1"])], STREAM, INVALID],
  ["8.2.1", "a value with a line break", [ok(["x-a", "1\r\nset-cookie: a=b"])], STREAM, INVALID],
  ["8.2.1", "a value with NUL", [ok(["x-a", "1\0"])], STREAM, INVALID],
  ["8.2.1", "a value that ends with a space", [ok(["x-a", "1 "])], STREAM, INVALID],
  ["8.2.1", "a value that begins with a tab", [ok(["x-a", "\t1"])], STREAM, INVALID],
  ["8.2.1", "a value of bytes above 127, an old habit", [ok(["x-a", "\xe4"], WHOLE | END)], "fine", "head 200 end"],
  ["8.2.2", "connection", [ok(["connection", "close"])], STREAM, INVALID],
  ["8.2.2", "keep-alive", [ok(["keep-alive", "timeout=5"])], STREAM, INVALID],
  ["8.2.2", "proxy-connection", [ok(["proxy-connection", "close"])], STREAM, INVALID],
  ["8.2.2", "transfer-encoding", [ok(["transfer-encoding", "chunked"])], STREAM, INVALID],
  ["8.2.2", "upgrade", [ok(["upgrade", "websocket"])], STREAM, INVALID],
  ["8.3", "an unknown pseudo-field", [headers([":status", "200", ":test", "1"])], STREAM, INVALID],
  // RFC 9110, 15: outside of 100 to 599 there is no status.
  ["8.3.2", "a status above 599", [headers([":status", "600"])], STREAM, INVALID],
  ["8.3.2", "the highest status", [headers([":status", "599"], WHOLE | END)], "fine", "head 599 end"],
  ["8.3", "a pseudo-field of requests", [headers([":status", "200", ":path", "/"])], STREAM, INVALID],
  ["8.3", "a pseudo-field behind a field", [headers(["x-a", "1", ":status", "200"])], STREAM, INVALID],
  ["8.3", "a pseudo-field twice", [headers([":status", "200", ":status", "200"])], STREAM, INVALID],
  ["8.3.2", "no :status", [headers(["x-a", "1"])], STREAM, INVALID],
  ["8.3.2", "an empty header block", [rawFrame(HEADERS, WHOLE, 1)], STREAM, INVALID],
  ["8.3.2", "an empty :status", [headers([":status", ""])], STREAM, INVALID],
  ["8.3.2", "a :status of words", [headers([":status", "OK"])], STREAM, INVALID],
  ["8.3.2", "a :status of two digits", [headers([":status", "20"])], STREAM, INVALID],
  ["8.3.2", "a :status with its reason", [headers([":status", "200 OK"])], STREAM, INVALID],
  ["8.3.2", "a :status of 099", [headers([":status", "099"])], STREAM, INVALID],
  ["8.3.2", "a :status with a sign", [headers([":status", "+20"])], STREAM, INVALID],
  ["8.6", "status 101", [headers([":status", "101"])], STREAM, INVALID],
];

for (const [group, rows] of [
  ["frames", frameRows],
  ["settings and windows", settingRows],
  ["messages", messageRows],
] as const) {
  describe(`the client judges ${group}`, () => {
    test.each(rows)("RFC 9113, %s: %s", async (_clause, _name, sent, verdict, heard) => {
      const { peer, client, ends } = await rawToClient();
      const asked = ask(client, get("/", [], "POST"), false);
      asked.heard.consumes = undefined;
      await peer.frame((frame) => frame.type === HEADERS);
      peer.send(...sent);
      expect(await verdictOf(peer, 1)).toBe(verdict);
      expect(asked.heard.log.at(-1)).toBe(heard);
      const over = verdict.startsWith("connection");
      expect([ends.closed.length, client.open]).toEqual([over ? 1 : 0, !over]);
      if (over || peer.frames.some(({ type }) => type === GOAWAY)) return;
      // Whatever was wrong with one stream, the next one works, and the table of fields is still the same at both ends.
      if (client.exchangesMax === 0) return;
      const next = ask(client, get("/next"));
      await peer.frame((frame) => frame.type === HEADERS && frame.streamId === 3);
      peer.send(headers([":status", "204"], WHOLE | END, 3));
      await next.heard.over();
      expect(next.heard.log).toEqual(["head 204 end"]);
    });
  });
}

describe("a body where none can be", () => {
  test.each(["HEAD", "GET"])("DATA behind the head of an answer to %s", async (method) => {
    const { peer, client } = await rawToClient();
    const { heard } = ask(client, get("/", [], method));
    await peer.frame((frame) => frame.type === HEADERS);
    peer.send(headers([":status", method === "HEAD" ? "200" : "304", "content-length", "1"]), data("a", END));
    expect(await verdictOf(peer, 1)).toBe("stream PROTOCOL_ERROR");
    expect(heard.log).toEqual([`head ${method === "HEAD" ? 200 : 304}`, "aborted invalid"]);
  });
});

describe("a connection that begins wrongly is a connect failure, and tells nothing of the caller", () => {
  test.each([
    ["nothing that is HTTP/2", Buffer.from("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")],
    ["another frame than SETTINGS (RFC 9113, 3.4)", rawFrame(PING, 0, 0, "0102030405060708")],
    ["an answer before any settings", rawFrame(HEADERS, WHOLE, 1, "88")],
    ["SETTINGS of a wrong size", rawFrame(SETTINGS, 0, 0, "00")],
    ["SETTINGS that no server may send", setting(2, 1)],
    ["GOAWAY alone", rawFrame(GOAWAY, 0, 0, "0000000000000000")],
  ])("%s", async (_name, sent) => {
    const [near, far] = duplexPair();
    const peer = new RawPeer(near, rawPreface.length);
    const connecting = connectHttp2(far, contextOf(endsOf(), optionsWith()));
    peer.send(sent);
    await expect(connecting).rejects.toMatchObject({ code: "CONNECT_FAILED" });
    expect(peer.frames.filter(({ type }) => type === HEADERS || type === DATA)).toEqual([]);
  });
});

test("a server that takes no more streams than it said gets no more, and all of them when it says more", async () => {
  const { peer, client } = await rawToClient({}, setting(3, 1));
  const first = ask(client, get("/1"));
  expect(client.request(get("/2"), true, new Heard())).toBeUndefined();
  peer.send(setting(3, 2));
  await peer.until(
    () => peer.frames.filter(({ type, flags }) => type === SETTINGS && flags === frames.ACK).length === 2,
  );
  expect(client.exchangesMax).toBe(2);
  const second = ask(client, get("/2"));
  await peer.frame((frame) => frame.type === HEADERS && frame.streamId === 3);
  peer.send(ok([], WHOLE | END), headers([":status", "200"], WHOLE | END, 3));
  await Promise.all([first.heard.over(), second.heard.over()]);
});
