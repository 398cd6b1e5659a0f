import type { Http1Limits } from "../../src/http/http1/limits.ts";
import { MessageParser } from "../../src/http/http1/message-parser.ts";
import { RequestHeadReader } from "../../src/http/http1/request-head.ts";
import { ResponseHeadReader } from "../../src/http/http1/response-head.ts";
import type { Fields, RequestHead, ResponseHead } from "../../src/http/message.ts";

/** The same bytes read by our parser and by llhttp, the parser inside `node:http`, told in the same words. */

export interface Message {
  /** Method or status. */
  readonly start: string;
  readonly target: string;
  readonly fields: Fields;
  body: string;
  trailers: Fields;
  ended: boolean;
  /** Another message may follow on the connection. */
  readonly persistent: boolean;
  /** From here on the bytes are no HTTP/1 any more. */
  readonly tunnel: boolean;
}

export interface Reading {
  readonly messages: Message[];
  /** Why the rest is refused; undefined where nothing is. */
  failed: string | undefined;
}

const limits: Http1Limits = { headBytesMax: 16_384, fieldsMax: 100, extensionBytesMax: 4096 };

/** What we read of requests; like a server, it stops behind a message that ends the connection. */
export function ourRequests(pieces: readonly Buffer[]): Reading {
  const reader = new RequestHeadReader("http", limits);
  return read<RequestHead>(reader, pieces, (head) => ({
    start: head.method,
    target: head.path,
    persistent: reader.persistent,
    tunnel: head.method === "CONNECT" || head.upgrade !== undefined,
  }));
}

/** What we read of the answers to a method. */
export function ourResponses(method: string, pieces: readonly Buffer[]): Reading {
  const reader = new ResponseHeadReader(limits);
  reader.method = method;
  return read<ResponseHead>(reader, pieces, (head) => ({
    start: String(head.status),
    target: "",
    persistent: reader.persistent || reader.interim,
    tunnel: head.status === 101,
  }));
}

function read<Head extends { fields: Fields; bodyLength: number }>(
  reader: ConstructorParameters<typeof MessageParser<Head>>[0],
  pieces: readonly Buffer[],
  describe: (head: Head) => Pick<Message, "start" | "target" | "persistent" | "tunnel">,
): Reading {
  const reading: Reading = { messages: [], failed: undefined };
  let over = false;
  const done = (message: Message): void => {
    message.ended = true;
    over = !message.persistent || message.tunnel;
    if (over) parser.hold();
  };
  const parser = new MessageParser<Head>(
    reader,
    {
      head: (head, bodyless) => {
        const message: Message = { ...describe(head), fields: [...head.fields], body: "", trailers: [], ended: false };
        reading.messages.push(message);
        if (bodyless) done(message);
      },
      data: (chunk) => {
        last(reading).body += chunk.toString("latin1");
      },
      end: (trailers) => {
        last(reading).trailers = trailers ?? [];
        done(last(reading));
      },
      failed: (_code, because) => {
        if (reading.failed !== undefined) throw new Error("told twice that it failed");
        reading.failed = because;
      },
    },
    limits,
  );
  for (const piece of pieces) {
    if (over) break;
    parser.feed(piece);
  }
  if (!over && reader.kind === "response") parser.finish();
  return reading;
}

function last(reading: Reading): Message {
  const message = reading.messages.at(-1);
  if (message === undefined || message.ended) throw new Error("something is told outside of a message");
  return message;
}

// llhttp, through the binding that node:http itself uses.

interface HttpParser {
  initialize(type: number, resource: object, maxHeaderSize: number): void;
  execute(bytes: Buffer): number | (Error & { code: string; reason: string });
  finish(): undefined | (Error & { code: string });
  [callback: number]: (...args: never[]) => unknown;
}

interface HttpParserClass {
  new (): HttpParser;
  readonly REQUEST: number;
  readonly RESPONSE: number;
  readonly kOnHeaders: number;
  readonly kOnHeadersComplete: number;
  readonly kOnBody: number;
  readonly kOnMessageComplete: number;
}

interface HttpCommon {
  readonly HTTPParser: HttpParserClass;
  readonly methods: readonly string[];
}

const common = (process.getBuiltinModule as (name: string) => unknown)("_http_common") as HttpCommon;
const { HTTPParser } = common;
const theirs = new HTTPParser();

export function llhttpRequests(bytes: Buffer): Reading {
  return llhttp(HTTPParser.REQUEST, bytes, () => false);
}

export function llhttpResponses(method: string, bytes: Buffer): Reading {
  return llhttp(HTTPParser.RESPONSE, bytes, (status) => method === "HEAD" && status >= 200);
}

function llhttp(type: number, bytes: Buffer, bodyless: (status: number) => boolean): Reading {
  const reading: Reading = { messages: [], failed: undefined };
  let early: Fields = [];
  let earlyTarget = "";
  let current: Message | undefined;
  theirs.initialize(type, {}, limits.headBytesMax * 4);
  theirs[HTTPParser.kOnHeaders] = (fields: Fields, target: string) => {
    if (current === undefined) {
      early.push(...fields);
      earlyTarget += target;
    } else current.trailers.push(...fields);
  };
  theirs[HTTPParser.kOnHeadersComplete] = (
    major: number,
    minor: number,
    fields: Fields | undefined,
    method: number | undefined,
    target: string | undefined,
    status: number | undefined,
    _reason: string | undefined,
    upgrade: boolean,
    persistent: boolean,
  ) => {
    // What node:http itself refuses of what its parser took.
    if (major !== 1 || minor > 1) reading.failed ??= `HTTP/${major}.${minor}`;
    current = {
      start: method === undefined ? String(status) : (common.methods[method] as string),
      target: earlyTarget + (target ?? ""),
      fields: [...early, ...(fields ?? [])],
      body: "",
      trailers: [],
      ended: false,
      persistent,
      tunnel: upgrade,
    };
    early = [];
    earlyTarget = "";
    if (reading.failed === undefined) reading.messages.push(current);
    return bodyless(status ?? 0) ? 1 : 0;
  };
  theirs[HTTPParser.kOnBody] = (chunk: Buffer) => {
    if (current !== undefined) current.body += chunk.toString("latin1");
  };
  theirs[HTTPParser.kOnMessageComplete] = () => {
    if (current !== undefined) current.ended = true;
    current = undefined;
  };
  const result = theirs.execute(bytes);
  if (typeof result !== "number") reading.failed ??= result.code;
  else if (type === HTTPParser.RESPONSE) theirs.finish();
  return reading;
}
