import type { IncomingMessage, ServerResponse } from "node:http";
import type { Clock } from "../base/clock.ts";
import { isRefusal, messageOf, refuse } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import { limits } from "../contract/limits.ts";
import { LineReader } from "../contract/lines.ts";
import { readUp } from "../contract/read-watch.ts";
import { TokenBucket } from "../resilience/token-bucket.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { controlOptions } from "./options.ts";
import type { Peer } from "./peers.ts";
import type { WatchHub } from "./watch-hub.ts";
import { WatchStream, type Sink } from "./watch-stream.ts";

export interface WatchRouteContext {
  readonly hub: WatchHub;
  readonly clock: Clock;
  readonly log: Logger;
  readonly options: OptionValues<typeof controlOptions>;
}

/** Lines that wait while an earlier one is worked on; above this many, the socket is not read. */
const queueMax = 64;

/** What a registration counts for: it is written to the disk, and told to everybody who subscribes to the service. */
const registrationCost = 10;

/** Speaks the watch over one full-duplex exchange. Nothing that comes in can throw out of here. */
export function serveWatch(
  exchange: { readonly request: IncomingMessage; readonly response: ServerResponse },
  peer: Peer & { readonly standing: { readonly is: "workload" } },
  context: WatchRouteContext,
): void {
  const { request, response } = exchange;
  const { clock, hub, options } = context;
  const now = { wallMs: clock.wallMs(), monotonicMs: clock.monotonicMs() };
  const stream = new WatchStream(peer, sinkOf(response, context), now);
  const rate = new TokenBucket(
    { perSecond: options.messagesPerSecond, burstMax: options.messagesBurstMax },
    now.monotonicMs,
  );
  const reader = new LineReader(limits.upLineBytesMax);
  const queue: string[] = [];
  let working: Promise<void> | undefined;

  const cancelHello = clock.after(options.headersMs, () => {
    if (!stream.greeted) stream.destroy();
  });

  const work = async (): Promise<void> => {
    for (let line = queue.shift(); line !== undefined && !stream.ended; line = queue.shift()) {
      if (queue.length < queueMax && request.isPaused()) request.resume();
      const message = readUp(line);
      const moreCost = isRefusal(message) || message.type !== "register" ? 0 : registrationCost - 1;
      if (isRefusal(message)) stream.refuse(message);
      else if (!rate.take(clock.monotonicMs(), moreCost)) stream.refuse(tooFast(options.messagesPerSecond));
      else await hub.hear(stream, message);
    }
  };
  const fail = (thrown: unknown): void => {
    context.log.error("A watch failed", { instance: stream.instance, because: messageOf(thrown) });
    stream.destroy();
  };

  let over = false;
  let endedInOrder = false;
  /** What was said last, a deregistration for one, still counts when the connection is gone. */
  const closed = (): void => {
    if (over) return;
    over = true;
    cancelHello();
    (working ?? Promise.resolve())
      .then(() => {
        const deliberate = endedInOrder || response.writableEnded;
        if (!stream.ended) stream.end();
        hub.closed(stream, { deliberate });
      })
      .catch(fail);
  };

  const take = (chunk: Buffer): void => {
    if (stream.ended) return;
    const lines = reader.push(chunk);
    if (isRefusal(lines)) return stream.refuse(lines);
    if (lines.length > 0 && !rate.take(clock.monotonicMs(), lines.length))
      return stream.refuse(tooFast(options.messagesPerSecond));
    queue.push(...lines);
    if (queue.length > queueMax) request.pause();
    working ??= work()
      .catch(fail)
      .finally(() => (working = undefined));
  };
  // Node calls these: nobody else would catch what they throw.
  const guarded = (task: () => void): void => {
    try {
      task();
    } catch (thrown) {
      fail(thrown);
    }
  };

  request.on("data", (chunk: Buffer) => guarded(() => take(chunk)));
  // Where the sidecar ends its half in order, the other half ends too.
  request.on("end", () => {
    endedInOrder = true;
    closed();
  });
  request.on("error", closed);
  response.on("error", closed);
  response.on("close", closed);
  response.on("drain", () => guarded(() => hub.drained(stream)));

  request.socket.setNoDelay(true);
  response.writeHead(200, { "content-type": "application/x-ndjson", "cache-control": "no-store" });
  // The sidecar waits for the head before it says hello.
  response.flushHeaders();
}

function sinkOf(response: ServerResponse, { clock, options }: WatchRouteContext): Sink {
  return {
    write: (text) => response.writableEnded || response.destroyed || response.write(text),
    end: () => {
      if (response.destroyed) return;
      // Nobody looks after a stream that has ended: who does not read its last word would keep the connection.
      response.once(
        "close",
        clock.after(options.slowReaderMs, () => response.destroy()),
      );
      response.end(() => response.socket?.destroySoon());
    },
    destroy: () => void response.destroy(),
  };
}

function tooFast(perSecond: number): ReturnType<typeof refuse> {
  return refuse(
    "RATE_LIMITED",
    `Cannot go on with this stream: more messages came than ${perSecond} per second, wanted fewer`,
    "Open it again after a second",
  );
}
