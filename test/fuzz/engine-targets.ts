import * as fc from "fast-check";
import { defaultsOf } from "../../src/base/options.ts";
import * as frames from "../../src/http/http2/frames.ts";
import type { RequestHead } from "../../src/http/message.ts";
import type { ConnectionFacts, Handler, ServerConnection } from "../../src/transport/exchange.ts";
import { serveHttp1 } from "../../src/transport/http1-server.ts";
import { connectHttp2 } from "../../src/transport/http2-client.ts";
import { http2Options } from "../../src/transport/http2-options.ts";
import type { Http2Output } from "../../src/transport/http2-output.ts";
import { serveHttp2 } from "../../src/transport/http2-server.ts";
import { LentReads } from "../../src/transport/lent-reads.ts";
import { http1Options } from "../../src/transport/options.ts";
import { rawPreface } from "../support/http2-raw.ts";
import { ManualClock } from "../support/manual-clock.ts";
import { FakeSocket } from "./fake-socket.ts";
import { requestStream } from "./http1-streams.ts";
import { frameStream, settingsFrame } from "./http2-frames.ts";
import { cutUp, cuts, mutated, same, target, type Target } from "./target.ts";

/** Whole connections, from bytes to exchanges to bytes: however their bytes are cut, they do the same. */

const facts: ConnectionFacts = { protocol: "h2", remoteAddress: "127.0.0.1", localPort: 1, peer: undefined };
const limits2 = defaultsOf(http2Options);
const limits1 = defaultsOf(http1Options);

/** Answers as soon as the request is whole, with what it was. */
function answering(log: unknown[]): Handler {
  return (exchange) => {
    const body: Buffer[] = [];
    const { method, path, fields } = exchange.head;
    log.push(["request", method, path, fields, exchange.bodyless]);
    const answer = (): void => {
      const whole = Buffer.concat(body);
      log.push(["whole", whole.toString("latin1")]);
      exchange.respond({ status: 200, fields: ["x-method", method], bodyLength: whole.length }, false);
      exchange.write(whole);
      exchange.end();
    };
    exchange.listen({
      data: (chunk) => {
        body.push(chunk);
        exchange.consume(chunk.length);
      },
      end: (trailers) => {
        log.push(["trailers", trailers]);
        answer();
      },
      aborted: (loss) => log.push(["aborted", loss.kind]),
      drained: () => undefined,
    });
    if (exchange.bodyless) answer();
  };
}

/** All frames but window updates, which are due when bytes are consumed and so depend on the cut. */
function framesOf(bytes: Buffer): string[] {
  const out: string[] = [];
  for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) {
    if (bytes[at + 3] !== frames.WINDOW_UPDATE)
      out.push(bytes.toString("latin1", at, at + 9 + bytes.readUIntBE(at, 3)));
  }
  return out;
}

function flush(connection: unknown): void {
  (connection as { output: Http2Output }).output.flush(true);
}

function http2Server(pieces: readonly Buffer[]): unknown {
  const socket = new FakeSocket();
  const log: unknown[] = [];
  const clock = new ManualClock();
  const server: ServerConnection = serveHttp2(socket.socket, facts, answering(log), {
    clock,
    options: limits2,
    onClosed: () => log.push(["closed"]),
  });
  for (const piece of pieces) socket.say(piece);
  flush(server);
  const written = framesOf(Buffer.concat(socket.written));
  server.destroy("the case is over");
  return { log, written };
}

const asked: RequestHead = { method: "GET", scheme: "http", authority: "orders", path: "/", fields: [], bodyLength: 0 };

/** Three requests on streams 1, 3 and 5; what is heard of each. */
async function http2Client(pieces: readonly Buffer[]): Promise<unknown> {
  const socket = new FakeSocket();
  const log: unknown[] = [];
  const connecting = connectHttp2(socket.socket, {
    clock: new ManualClock(),
    options: limits2,
    onClosed: () => log.push(["closed"]),
  });
  socket.say(settingsFrame);
  const client = await connecting;
  for (const method of ["GET", "POST", "HEAD"]) {
    const bodies: string[] = [];
    const tell = (...what: unknown[]): void => void log.push([method, bodies.splice(0).join(""), ...what]);
    // How much of a body came before its stream broke is for the cuts to say.
    const lose = (kind: string): void => {
      bodies.length = 0;
      tell("aborted", kind);
    };
    const exchange = client.request({ ...asked, method }, method !== "POST", {
      informed: (head) => tell("informed", head),
      head: (head, end) => tell("head", head, end),
      data: (chunk) => {
        bodies.push(chunk.toString("latin1"));
        exchange?.consume(chunk.length);
      },
      end: (trailers) => tell("end", trailers),
      aborted: (loss) => lose(loss.kind),
      drained: () => undefined,
    });
  }
  flush(client);
  for (const piece of pieces) socket.say(piece);
  flush(client);
  const written = framesOf(Buffer.concat(socket.written).subarray(rawPreface.length));
  client.destroy("the case is over");
  return { log, written };
}

/** `lent`: read into one buffer that holds something else as soon as the call returns. */
function http1Server(pieces: readonly Buffer[], lent: boolean): unknown {
  const socket = new FakeSocket();
  const log: unknown[] = [];
  const reads = new LentReads();
  const shared = Buffer.alloc(65_536);
  const { onread } = reads;
  const server = serveHttp1(socket.socket, { ...facts, protocol: "http/1.1" }, answering(log), {
    clock: new ManualClock(),
    options: limits1,
    ...(lent ? { reads } : {}),
  });
  for (const piece of pieces) {
    if (socket.destroyed || socket.isPaused()) break;
    if (!lent) socket.say(piece);
    else {
      piece.copy(onread.buffer as Uint8Array);
      onread.callback(piece.length, onread.buffer as Uint8Array);
      shared.copy(onread.buffer as Buffer);
    }
  }
  (server as unknown as { writer: { flush(): void } }).writer.flush();
  const written = Buffer.concat(socket.written).toString("latin1");
  server.destroy("the case is over");
  return { log: requestsOf(log), written: written.replace(refusalWords, "") };
}

/** Which of several faults is named, and whether it gets an answer at all, depends on what is seen first. */
const refusalWords = /HTTP\/1\.1 4\d\d [^\r]*\r\ncontent-type: application\/json\r\nx-hauberk-code: [^]*$/;

/** A refused message's head may be told before its refusal or not, as the bytes come; whole messages are always told. */
function requestsOf(log: readonly unknown[]): unknown[] {
  return log.filter((entry) => ["whole", "trailers"].includes((entry as string[])[0] as string));
}

const begun = (bytes: Buffer): Buffer => Buffer.concat([rawPreface, settingsFrame, bytes]);

export const engineTargets: readonly Target[] = [
  target(
    {
      name: "http2-server-cut",
      says: "an HTTP/2 server does the same however its bytes are cut, and throws at none",
      share: 1.5,
    },
    fc.property(mutated(frameStream), cuts, (bytes, at) => {
      const all = begun(bytes);
      same("whole and cut", http2Server(cutUp(all, at)), http2Server([all]));
    }),
  ),
  target(
    {
      name: "http2-client-cut",
      says: "an HTTP/2 client does the same however its bytes are cut, and throws at none",
      share: 1,
    },
    fc.asyncProperty(mutated(frameStream), cuts, async (bytes, at) => {
      same("whole and cut", await http2Client(cutUp(bytes, at)), await http2Client([Buffer.from(bytes)]));
    }),
  ),
  target(
    {
      name: "http1-server-cut",
      says: "an HTTP/1 server answers the same however its bytes are cut, read into its own buffers or a lent one",
      share: 3,
    },
    fc.property(requestStream, cuts, (bytes, at) => {
      const whole = http1Server([Buffer.from(bytes)], false);
      same("whole and cut", http1Server(cutUp(bytes, at), false), whole);
      same("own and lent", http1Server(cutUp(bytes, at), true), whole);
    }),
  ),
];
