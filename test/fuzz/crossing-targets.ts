import * as fc from "fast-check";
import { isRefusal } from "../../src/base/errors.ts";
import { FieldList } from "../../src/http/http2/field-list.ts";
import { BadHead, readRequest, readResponse } from "../../src/http/http2/head-reader.ts";
import { HpackDecoder } from "../../src/http/http2/hpack-decoder.ts";
import { boundOf, HpackEncoder } from "../../src/http/http2/hpack-encoder.ts";
import { requestHeadText, responseHeadText } from "../../src/http/http1/write.ts";
import type { Fields, RequestHead, ResponseHead } from "../../src/http/message.ts";
import { normalizePath } from "../../src/http/target.ts";
import { takeRequest, takeResponse } from "../../src/proxy/headers.ts";
import { spellingField } from "../../src/proxy/spelling.ts";
import { rawFields } from "../support/http2-raw.ts";
import { requestStream, responseStream } from "./http1-streams.ts";
import { headerBlock } from "./http2-frames.ts";
import { llhttpRequests, llhttpResponses, ourRequests, ourResponses } from "./read-http1.ts";
import { mutated, same, target, type Target } from "./target.ts";

/** What crosses from one version of HTTP to the other stays one message, whatever its fields hold. */

const sharp = fc.constantFrom(
  "",
  "a",
  "orders",
  "/",
  "/a?b",
  "/\r\nX: 1",
  "a\r\n\r\nGET / HTTP/1.1\r\n\r\n",
  "a\nb",
  "a\0",
  " a",
  "a\t",
  "\xe9",
  "/a b",
  "/#x",
  "*",
  "GET",
  "get",
  "G ET",
  "http",
  "HtTp",
  "orders:80",
  "a@b",
  "a,b",
  "5",
  "+5",
  "chunked",
  "trailers",
  "close",
  "\u0130",
);
const name = fc.oneof(
  fc.constantFrom(
    ":method",
    ":path",
    ":scheme",
    ":authority",
    ":status",
    ":protocol",
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "te",
    "cookie",
    "x-a",
    "x_a",
    "X-A",
    "x a",
    "x:a",
    "x\r\ny",
    "",
    "upgrade",
    "x-hauberk-code",
    "x_hauberk_code",
    "x-forwarded-client-cert",
    "x_forwarded_client_cert",
  ),
  fc.string({ unit: "binary-ascii", minLength: 1, maxLength: 6 }),
);
const fields = fc
  .array(fc.tuple(name, fc.oneof(sharp, fc.string({ unit: "binary-ascii", maxLength: 8 }))), { maxLength: 6 })
  .map((list) => list.flat());
const usual = [":method", "POST", ":scheme", "http", ":path", "/a", ":authority", "orders"];
const asked = fc.oneof(
  fields.map((more) => rawFields([...usual, ...more].map(latin1))),
  fields.map((list) => rawFields(list.map(latin1))),
  mutated(headerBlock),
);
const answered = fc.oneof(
  fields.map((more) => rawFields([":status", "200", ...more].map(latin1))),
  mutated(headerBlock),
);

function latin1(text: string): string {
  return Buffer.from(text, "latin1").toString("latin1");
}

function listOf(block: Buffer): FieldList | undefined {
  const list = new FieldList({ fieldsMax: 100, bytesMax: 16_384 });
  return new HpackDecoder().decode(block, 0, block.length, list) && !list.overflowed ? list : undefined;
}

function outline(list: readonly string[]): string[] {
  const out: string[] = [];
  for (let i = 0; i < list.length; i += 2) out.push(`${(list[i] as string).toLowerCase()}: ${list[i + 1]}`);
  return out;
}

const never =
  /^(?:x-forwarded-client-cert$|x-hauberk-|connection$|keep-alive$|proxy-connection$|transfer-encoding$|upgrade$)/;

/** Nothing that only Hauberk may say, or that frames, is left; also not in the spelling that CGI makes of it. */
function clean(list: Fields): void {
  for (let i = 0; i < list.length; i += 2) {
    const dashed = (list[i] as string).toLowerCase().replaceAll("_", "-");
    if (never.test(dashed)) throw new Error(`${list[i]} has crossed`);
  }
}

/** Written in HTTP/1.1 it is one message, for us and for llhttp, with nothing behind its head. */
function onceInHttp1(head: RequestHead): void {
  const text = requestHeadText({ ...head, bodyLength: 0 }, true);
  if (text === undefined) return;
  const bytes = Buffer.from(text, "latin1");
  const ours = ourRequests([Buffer.from(bytes)]);
  const known = ours.failed === undefined;
  // A method that only HTTP/2 takes is refused by both.
  if (!known && /method/.test(ours.failed ?? "")) return;
  same("our reading", [ours.messages.length, ours.failed], [1, undefined]);
  const theirs = llhttpRequests(bytes);
  same("llhttp's reading", [theirs.messages.length, theirs.failed], [1, undefined]);
  same(
    "the fields",
    outline(ours.messages[0]?.fields ?? []),
    outline(head.fields).filter((line) => !/^(?:te|trailer|content-length|http2-settings): /.test(line)),
  );
}

export const crossingTargets: readonly Target[] = [
  target(
    {
      name: "request-2-to-1",
      says: "an HTTP/2 request that is taken is exactly one request in HTTP/1.1, without what only Hauberk says",
      share: 8,
    },
    fc.property(asked, (block) => {
      const list = listOf(block);
      if (list === undefined) return;
      const head = readRequest(list, true);
      if (head instanceof BadHead || head.method === "CONNECT" || head.upgrade !== undefined) return;
      const path = normalizePath(head.path);
      if (isRefusal(path)) return;
      const { fields } = takeRequest(head);
      clean(fields);
      if (fields.includes("host")) throw new Error("host has crossed");
      onceInHttp1({ ...head, path: path.target, fields });
    }),
  ),
  target(
    { name: "answer-2-to-1", says: "an HTTP/2 answer that is taken is exactly one answer in HTTP/1.1", share: 4 },
    fc.property(answered, (block) => {
      const list = listOf(block);
      if (list === undefined) return;
      const head = readResponse(list, false, { method: "GET" });
      if (head instanceof BadHead || head.status < 200) return;
      const taken: ResponseHead = { ...head, fields: takeResponse(head, false).fields, bodyLength: 0 };
      clean(taken.fields);
      const text = responseHeadText(taken, { bodyless: false, bodyLength: 0, old: false, persistent: true });
      if (text === undefined) return;
      const bytes = Buffer.from(text, "latin1");
      const ours = ourResponses("GET", [Buffer.from(bytes)]);
      const theirs = llhttpResponses("GET", bytes);
      same("readings", [ours.messages.length, ours.failed, theirs.messages.length], [1, undefined, 1]);
    }),
  ),
  target(
    {
      name: "request-1-to-2",
      says: "an HTTP/1 request that is taken is one well-formed request in HTTP/2 with the same fields",
      share: 6,
    },
    fc.property(requestStream, (bytes) => {
      for (const message of ourRequests([Buffer.from(bytes)]).messages) {
        if (message.tunnel) continue;
        const head: RequestHead = {
          method: message.start,
          scheme: "http",
          authority: "orders",
          path: message.target,
          fields: message.fields,
          bodyLength: 0,
        };
        const { fields, spelling } = takeRequest(head);
        clean(fields);
        if (spelling !== "") fields.push(spellingField, spelling);
        const path = normalizePath(head.path);
        if (isRefusal(path)) continue;
        const flat = [":method", head.method, ":scheme", "http", ":authority", "orders", ":path", path.target];
        const encoder = new HpackEncoder();
        const out = Buffer.alloc(boundOf([...flat, ...fields]) + 64);
        encoder.begin(out, 0);
        encoder.known(encoder.method, head.method);
        encoder.known(encoder.scheme, "http");
        encoder.known(encoder.authority, "orders");
        encoder.known(encoder.path, path.target);
        for (let i = 0; i < fields.length; i += 2) encoder.field(fields[i] as string, fields[i + 1] as string);
        if (encoder.invalid !== undefined) throw new Error(`HTTP/2 cannot carry ${encoder.invalid}`);
        const list = listOf(Buffer.from(out.subarray(0, encoder.at)));
        if (list === undefined) throw new Error("the block does not decode");
        const read = readRequest(list, true);
        if (read instanceof BadHead) throw new Error(read.because);
        same("the request", [read.method, read.path, joined(read.fields)], [head.method, path.target, joined(fields)]);
      }
    }),
  ),
  target(
    { name: "answer-1-to-2", says: "an HTTP/1 answer that is taken is one well-formed answer in HTTP/2", share: 3 },
    fc.property(responseStream, (bytes) => {
      for (const message of ourResponses("GET", [Buffer.from(bytes)]).messages) {
        const head = { status: Number(message.start), fields: message.fields, bodyLength: 0 };
        const { fields, spelling } = takeResponse(head, false);
        clean(fields);
        if (spelling !== "") fields.push(spellingField, spelling);
        const encoder = new HpackEncoder();
        const out = Buffer.alloc(boundOf(fields) + 64);
        encoder.begin(out, 0);
        encoder.known(encoder.status, message.start);
        for (let i = 0; i < fields.length; i += 2) encoder.field(fields[i] as string, fields[i + 1] as string);
        if (encoder.invalid !== undefined) throw new Error(`HTTP/2 cannot carry ${encoder.invalid}`);
        const list = listOf(Buffer.from(out.subarray(0, encoder.at)));
        if (list === undefined) throw new Error("the block does not decode");
        const read = readResponse(list, false, { method: "GET" });
        if (read instanceof BadHead && message.start !== "101") throw new Error(read.because);
      }
    }),
  ),
  target(
    {
      name: "paths",
      says: "a path that is taken has one spelling: normalizing it again changes nothing, and no server finds a dot segment, a slash or a control character hidden in it",
      share: 12,
    },
    fc.property(path(), (text) => {
      const first = normalizePath(text);
      if (isRefusal(first)) return;
      const again = normalizePath(first.target);
      same("again", isRefusal(again) ? again : [again.path, again.target], [first.path, first.target]);
      if (first.path === "*") return;
      const decoded = decodeURIComponentAsBytes(first.path);
      if (/\/\.{1,2}(?:\/|$)|\/\/|\\|#|\p{Cc}/u.test(decoded.replaceAll(/[\x80-\x9f]/g, "")))
        throw new Error(`hidden in ${first.path}`);
      if ((decoded.match(/\//g) ?? []).length !== (first.path.match(/\//g) ?? []).length)
        throw new Error(`a hidden slash in ${first.path}`);
      if (!first.target.startsWith(first.path)) throw new Error("another path is sent than was judged");
    }),
  ),
];

/** Cookie crumbs are joined (RFC 9113, 8.2.3): fields in the order of names, with one cookie. */
function joined(fields: Fields): string[] {
  const cookies: string[] = [];
  const others: string[] = [];
  for (let i = 0; i < fields.length; i += 2) {
    if (fields[i] !== "cookie") others.push(`${fields[i]}: ${fields[i + 1]}`);
    else if (fields[i + 1] !== "") cookies.push(fields[i + 1] as string);
  }
  return cookies.length === 0 ? others : [...others, `cookie: ${cookies.join("; ")}`];
}

function path(): fc.Arbitrary<string> {
  const part = fc.oneof(
    {
      weight: 8,
      arbitrary: fc.constantFrom(
        "/",
        "a",
        ".",
        "..",
        "%2e",
        "%2E%2e",
        "%2f",
        "%5c",
        "%5C",
        "\\",
        "//",
        ";",
        ";a=b",
        "%",
        "%0",
        "%zz",
        "%00",
        "%0a",
        "%7f",
        "%41",
        "%25",
        "%252e",
        "%c0%ae",
        "#",
        "?",
        "?a=%2e",
        "*",
        "~",
        "%7E",
        "admin",
        "%e9",
        "+",
      ),
    },
    { weight: 1, arbitrary: fc.string({ unit: "binary-ascii", maxLength: 3 }) },
  );
  return fc
    .tuple(fc.constantFrom("/", "/", "/", ""), fc.array(part, { maxLength: 8 }))
    .map(([slash, parts]) => slash + parts.join(""));
}

function decodeURIComponentAsBytes(text: string): string {
  return text.replaceAll(/%([0-9a-f]{2})/gi, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 16)));
}
