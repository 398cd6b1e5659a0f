import { connect } from "node:net";
import type { Clock } from "../base/clock.ts";
import { messageOf } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import { Published } from "../base/published.ts";
import type { RouteePort } from "../contract/watch.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { ClientConnection } from "../transport/exchange.ts";
import { connectHttp2 } from "../transport/http2-client.ts";
import type { http2Options } from "../transport/http2-options.ts";
import { dialRoutee } from "../transport/routee-dial.ts";
import type { proxyOptions } from "./options.ts";

export interface RouteeChecked {
  readonly host: string;
  /** Every declared port of the routee. */
  readonly ports: readonly Pick<RouteePort, "port" | "protocol">[];
  /**
   * GET this at the first HTTP port; without it each port only has to accept a connection, and one that was declared as h2 to
   * begin HTTP/2: a wrong declaration is seen at the start, and no gRPC server logs a client without a preface.
   */
  readonly path?: string | undefined;
}

interface CheckTerms {
  readonly clock: Clock;
  readonly timeoutMs: number;
  readonly http2: OptionValues<typeof http2Options>;
}

/** A program that takes longer than this to listen is slow or listens elsewhere, and the person who started it should know. */
const silentMs = 5_000;

/** Why the routee is not well, or undefined. */
export type Check = () => Promise<string | undefined>;

/**
 * The sidecar's own check of its routee over loopback; the result travels with the registration, so that no caller has to
 * probe and no policy needs a hole. Not well until it has answered once; then so many failures in a row count.
 */
export class RouteeHealth {
  readonly healthy = new Published(false);
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #options: OptionValues<typeof proxyOptions>;
  readonly #check: Check;
  #cancel: (() => void) | undefined;
  #failures = 0;
  /** While it never answered and nobody was told. */
  #silentSinceMs: number | undefined;
  #stopped = true;

  constructor(use: { clock: Clock; log: Logger; options: OptionValues<typeof proxyOptions>; check: Check }) {
    this.#clock = use.clock;
    this.#log = use.log;
    this.#options = use.options;
    this.#check = use.check;
  }

  start(): void {
    this.#stopped = false;
    this.#silentSinceMs = this.#clock.monotonicMs();
    this.#round();
  }

  stop(): void {
    this.#stopped = true;
    this.#cancel?.();
  }

  #round(): void {
    this.#check()
      .catch((thrown: unknown) => messageOf(thrown))
      .then((because) => this.#learn(because))
      .catch((thrown: unknown) =>
        this.#log.error("a health check failed in an unforeseen way", { because: messageOf(thrown) }),
      )
      .finally(() => {
        if (this.#stopped) return;
        const { healthIntervalMs, healthStartMs } = this.#options;
        // Whoever waits for a routee to come back wants to know soon; whoever knows that it is well can wait.
        const waitMs = this.healthy.read() ? healthIntervalMs : Math.min(healthStartMs, healthIntervalMs);
        this.#cancel = this.#clock.after(waitMs, () => this.#round());
      });
  }

  #learn(because: string | undefined): void {
    if (this.#stopped) return;
    const was = this.healthy.read();
    this.#failures = because === undefined ? 0 : this.#failures + 1;
    const is = because === undefined || (was && this.#failures < this.#options.healthFailuresMax);
    if (is) this.#silentSinceMs = undefined;
    else if (this.#silentSinceMs !== undefined && this.#clock.monotonicMs() - this.#silentSinceMs >= silentMs) {
      this.#silentSinceMs = undefined;
      const hint = "Look whether it runs and listens on 127.0.0.1; --app names its port";
      this.#log.warn("the routee has not answered yet, so nobody is sent to it", { because, hint });
    }
    if (is === was) return;
    if (is) this.#log.info("the routee is well");
    else this.#log.warn("the routee is not well", { because, failures: this.#failures });
    this.healthy.publish(is);
  }
}

/** The check that a routee's declaration asks for. */
export function routeeCheck(routee: RouteeChecked, use: CheckTerms): Check {
  const { host, ports, path } = routee;
  const first = ports.find(({ protocol }) => protocol !== "tcp");
  if (path !== undefined && first !== undefined) {
    const target = { host, port: first.port };
    if (first.protocol === "h2") return () => http2Check(target, path, use);
    return () => httpCheck(`http://${host}:${first.port}`, path, use);
  }
  return async () => {
    for (const { port, protocol } of ports) {
      const target = { host, port };
      const because = await (protocol === "h2" ? http2Check(target, undefined, use) : tcpCheck(target, use));
      if (because !== undefined) return because;
    }
    return undefined;
  };
}

function http2Check(
  target: { host: string; port: number },
  path: string | undefined,
  use: CheckTerms,
): Promise<string | undefined> {
  const { clock, timeoutMs, http2 } = use;
  return new Promise((resolve) => {
    const end = (because: string | undefined): void => {
      cancel();
      resolve(because);
      socket.destroySoon();
    };
    const socket = dialRoutee(
      target,
      { clock, connectMs: timeoutMs },
      {
        failed: end,
        connected: (connected, reads) => {
          connectHttp2(connected, { clock, options: http2, reads, onClosed: () => undefined })
            .then((connection) => {
              if (path !== undefined) return askFor(connection, { target, path }, end);
              connection.drain(0);
              end(undefined);
            })
            .catch((thrown: unknown) => end(messageOf(thrown)));
        },
      },
    );
    const cancel = clock.after(timeoutMs, () =>
      end(`port ${target.port} did not ${path === undefined ? "begin HTTP/2" : "answer"} within ${timeoutMs} ms`),
    );
  });
}

/** Ends with what the head of the answer says; the rest of it interests nobody. */
function askFor(
  connection: ClientConnection,
  of: { target: { host: string; port: number }; path: string },
  end: (because: string | undefined) => void,
): void {
  const { path, target } = of;
  const authority = `${target.host}:${target.port}`;
  const head = { method: "GET", scheme: "http", authority, path, fields: [], bodyLength: 0 };
  connection.request(head, true, {
    informed: () => undefined,
    head: ({ status }) => end(status >= 200 && status < 400 ? undefined : `GET ${path} answered ${status}`),
    data: () => undefined,
    end: () => undefined,
    aborted: ({ because }) => end(because),
    drained: () => undefined,
  });
}

function tcpCheck(target: { host: string; port: number }, use: CheckTerms): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect(target);
    const end = (because: string | undefined): void => {
      cancel();
      socket.destroy();
      resolve(because);
    };
    const cancel = use.clock.after(use.timeoutMs, () =>
      end(`port ${target.port} did not accept within ${use.timeoutMs} ms`),
    );
    socket.once("connect", () => end(undefined));
    socket.on("error", (error) => end(error.message));
  });
}

/** undici is loaded when the first such check is made. */
async function httpCheck(origin: string, path: string, use: CheckTerms): Promise<string | undefined> {
  const { Client } = await import("undici");
  const client = new Client(origin, { allowH2: false, maxResponseSize: 65_536 });
  const ended = new AbortController();
  const cancel = use.clock.after(use.timeoutMs, () => ended.abort(new Error(`no answer within ${use.timeoutMs} ms`)));
  try {
    const { statusCode, body } = await client.request({ method: "GET", path, signal: ended.signal });
    body.on("error", () => undefined);
    await body.dump();
    return statusCode >= 200 && statusCode < 400 ? undefined : `GET ${path} answered ${statusCode}`;
  } catch (thrown) {
    return messageOf(thrown);
  } finally {
    cancel();
    await client.destroy().catch(() => undefined);
  }
}
