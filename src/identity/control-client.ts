import type { ClientRequest, IncomingMessage } from "node:http";
import type { TLSSocket } from "node:tls";
import {
  failures,
  HauberkError,
  isRefusal,
  messageOf,
  refuse,
  type FailureCode,
  type Refusal,
} from "../base/errors.ts";
import { LineReader } from "../contract/lines.ts";
import { limits } from "../contract/limits.ts";
import { readRefusalAnswer } from "../contract/read-enrollment.ts";
import { readDown, writeLine } from "../contract/read-watch.ts";
import type { Down, Up } from "../contract/watch.ts";
import { request as httpRequest } from "../transport/node-http.ts";
import { connectControl, unreachable, type ControlAccess, type ControlContext } from "./control-connection.ts";

/**
 * A small client of the control plane's API. It is written on node:tls and node:http because it speaks a few times a day:
 * undici would cost every sidecar 20 MB for that (measured).
 */
export interface Question<T> {
  readonly method: "GET" | "POST";
  readonly path: string;
  /** Sent as JSON. */
  readonly body?: unknown;
  readonly read: (text: string) => T | Refusal;
}

const answerBytesMax = 1024 * 1024;
const sendWaitingBytesMax = 4 * 1024 * 1024;
const keepAliveMs = 15_000;
const farewellMs = 2_000;

/**
 * Asks the control plane, one address after the other until one answers. A refusal of the control plane is returned as it
 * is; CONTROL_UNREACHABLE and CONTROL_NOT_PROVEN are our own. Nothing is sent to an end that is not proven.
 */
export async function askControl<T>(
  access: ControlAccess,
  question: Question<T>,
  context: ControlContext,
): Promise<T | Refusal> {
  let worst: Refusal | undefined;
  for (const url of access.urls) {
    const answer = await askOne(url, access, { question, context });
    if (!isRefusal(answer)) return answer;
    // Another replica may know better than one that is busy or out of reach; what was judged is judged.
    const mayDiffer = answer.code === "CONTROL_NOT_PROVEN" || failures[answer.code].retryable;
    if (!mayDiffer) return answer;
    if (worst?.code !== "CONTROL_NOT_PROVEN") worst = answer;
  }
  return worst ?? unreachable("no address", "none is known");
}

async function askOne<T>(
  url: string,
  access: ControlAccess,
  call: { question: Question<T>; context: ControlContext },
): Promise<T | Refusal> {
  const socket = await connectControl(url, access, call.context);
  if (isRefusal(socket)) return socket;
  try {
    const { question } = call;
    const body = question.body === undefined ? undefined : Buffer.from(JSON.stringify(question.body));
    const asked = requestOver(socket, url, {
      method: question.method,
      path: question.path,
      headers: body === undefined ? {} : { "content-type": "application/json", "content-length": body.length },
    });
    asked.end(body);
    const answer = await headOf(asked, call.context);
    const text = await bodyOf(answer, call.context);
    if (answer.statusCode === 200 || answer.statusCode === 201) return question.read(text);
    return refusalOf(url, answer.statusCode ?? 0, text);
  } catch (thrown) {
    return unreachable(url, messageOf(thrown));
  } finally {
    socket.destroy();
  }
}

function requestOver(
  socket: TLSSocket,
  url: string,
  head: { method: string; path: string; headers: Record<string, string | number> },
): ClientRequest {
  return httpRequest({
    ...head,
    headers: { accept: "application/json", host: new URL(url).host, ...head.headers },
    createConnection: () => socket,
  });
}

function headOf(asked: ClientRequest, context: ControlContext): Promise<IncomingMessage> {
  const { controlAnswerMs } = context.options;
  return new Promise((resolve, reject) => {
    const cancel = context.clock.after(controlAnswerMs, () =>
      asked.destroy(new Error(`no answer within ${controlAnswerMs} ms`)),
    );
    asked.once("response", (answer) => {
      cancel();
      resolve(answer);
    });
    asked.on("error", (error) => {
      cancel();
      reject(error);
    });
    asked.once("close", () => {
      cancel();
      reject(new Error("the connection ended before an answer"));
    });
  });
}

function bodyOf(answer: IncomingMessage, context: ControlContext): Promise<string> {
  const { controlAnswerMs } = context.options;
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = [];
    let length = 0;
    const cancel = context.clock.after(controlAnswerMs, () =>
      answer.destroy(new Error(`no end of the answer within ${controlAnswerMs} ms`)),
    );
    answer.on("data", (part: Buffer) => {
      length += part.length;
      if (length > answerBytesMax) answer.destroy(new Error(`the answer is longer than ${answerBytesMax} bytes`));
      else parts.push(part);
    });
    answer.once("error", (error) => {
      cancel();
      reject(error);
    });
    answer.once("end", () => {
      cancel();
      resolve(Buffer.concat(parts).toString("utf8"));
    });
  });
}

/** The refusal that an answer carries; one that is none of ours is an unavailable control plane. */
function refusalOf(url: string, status: number, text: string): Refusal {
  const said = readRefusalAnswer(text);
  if (!isRefusal(said) && Object.hasOwn(failures, said.code)) {
    return refuse(said.code as FailureCode, said.message, said.hint);
  }
  return unreachable(url, `it answered with status ${status}`);
}

/** One open watch: messages both ways over one request. */
export interface WatchStream {
  /** The own address on the connection: what to advertise where nothing else is said. */
  readonly localAddress: string;
  send(message: Up): void;
  close(because: string): void;
}

export interface WatchEvents {
  down(message: Down): void;
  /** The other end, or the network, ended it; called once, and not after `close`. */
  closed(because: string): void;
}

/**
 * Opens `POST /v1/watch` at the first address that takes it. The first message of ours has to be `hello`.
 * @throws HauberkError CONTROL_UNREACHABLE, CONTROL_NOT_PROVEN, or the control plane's own refusal.
 */
export async function openWatch(
  access: ControlAccess,
  events: WatchEvents,
  context: ControlContext,
): Promise<WatchStream> {
  let worst: Refusal | undefined;
  for (const url of access.urls) {
    const opened = await openOne(url, access, { events, context });
    if (!isRefusal(opened)) return opened;
    // What one judged says more than that another does not answer.
    if (worst === undefined || worst.code === "CONTROL_UNREACHABLE") worst = opened;
  }
  throw HauberkError.from(worst ?? unreachable("no address", "none is known"));
}

async function openOne(
  url: string,
  access: ControlAccess,
  call: { events: WatchEvents; context: ControlContext },
): Promise<WatchStream | Refusal> {
  const socket = await connectControl(url, access, call.context);
  if (isRefusal(socket)) return socket;
  socket.setNoDelay(true);
  socket.setKeepAlive(true, keepAliveMs);
  const asked = requestOver(socket, url, {
    method: "POST",
    path: "/v1/watch",
    headers: { "content-type": "application/x-ndjson", "transfer-encoding": "chunked" },
  });
  // Node holds a request's head back until its first byte of body, and ours waits for the answer's head.
  asked.flushHeaders();
  try {
    const answer = await headOf(asked, call.context);
    if (answer.statusCode === 200) return streamOf({ socket, asked, answer }, call.events, call.context);
    const refusal = refusalOf(url, answer.statusCode ?? 0, await bodyOf(answer, call.context));
    socket.destroy();
    return refusal;
  } catch (thrown) {
    socket.destroy();
    return unreachable(url, messageOf(thrown));
  }
}

function streamOf(
  parts: { socket: TLSSocket; asked: ClientRequest; answer: IncomingMessage },
  events: WatchEvents,
  context: ControlContext,
): WatchStream {
  const { socket, asked, answer } = parts;
  const localAddress = socket.localAddress ?? "";
  const reader = new LineReader(limits.downLineBytesMax);
  let over = false;
  const end = (because: string, tell: boolean): void => {
    if (over) return;
    over = true;
    // What was written last (a farewell) still leaves; a peer that does not read cannot hold the socket for ever.
    asked.end(() => socket.destroySoon());
    if (tell) socket.destroy();
    else
      socket.once(
        "close",
        context.clock.after(farewellMs, () => socket.destroy()),
      );
    if (tell) events.closed(because);
  };
  const take = (chunk: Buffer): void => {
    const lines = reader.push(chunk);
    if (isRefusal(lines)) return end(lines.message, true);
    for (const line of lines) {
      if (over) return;
      const message = readDown(line);
      if (isRefusal(message)) return end(message.message, true);
      events.down(message);
    }
  };
  answer.once("error", (error) => end(error.message, true));
  answer.once("end", () => end("the control plane ended it", true));
  socket.once("close", () => end("the connection was closed", true));
  // Whoever asked for the stream holds it before the first message arrives.
  setImmediate(() => answer.on("data", take));
  return {
    localAddress,
    send: (message) => {
      if (over) return;
      asked.write(writeLine(message));
      if (asked.writableLength > sendWaitingBytesMax) end("the control plane does not read", true);
    },
    close: (because) => end(because, false),
  };
}
