import type { Duplex } from "node:stream";
import type { Clock } from "../base/clock.ts";
import { HauberkError, messageOf } from "../base/errors.ts";
import { Published } from "../base/published.ts";
import type { Random } from "../base/random.ts";
import { serviceKey } from "../base/spiffe-id.ts";
import type { ServiceView, StateValue } from "../contract/watch.ts";
import { Proxy } from "../proxy/proxy.ts";
import { buildSnapshot, emptySnapshot, type Snapshot } from "../proxy/snapshot.ts";
import { AccessLog } from "../telemetry/access-log.ts";
import { Faults } from "../telemetry/faults.ts";
import type { Log, LogLevel } from "../telemetry/log.ts";
import type { LogFields, Logger } from "../telemetry/logger.ts";
import { Metrics } from "../telemetry/metrics.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { WorkerChannel } from "./worker-channel.ts";
import { failureOf, identityOf, wireFamilies, type FromWorker, type ToWorker } from "./worker-messages.ts";

/** What a worker process has of its own. */
export interface WorkerContext {
  /** To the sidecar. */
  readonly stream: Duplex;
  /** A clock that tells of what its tasks throw. */
  readonly clockFor: (onFault: (thrown: unknown) => void) => Clock;
  readonly random: Random;
  readonly openLog: (level: LogLevel, fields: LogFields) => Log;
  /** Ends the process. */
  readonly end: (code: number) => void;
}

/** The full state of a sidecar, as the control plane may send it, in other words. */
const lineBytesMax = 64 * 1024 * 1024;

/**
 * One of several processes that carry a sidecar's traffic: an engine of its own on ports that all share. What it knows it
 * is told by the sidecar, and it does not outlive it.
 */
export function serveWorker(context: WorkerContext): void {
  let worker: Worker | undefined;
  const channel = new WorkerChannel(context.stream, {
    lineBytesMax,
    waitingBytesMax: lineBytesMax,
    onLine: (line) => {
      const message = JSON.parse(line) as ToWorker;
      if (message.type !== "start") return worker?.hear(message);
      worker = new Worker(context, message, (said) => channel.send(said));
      void worker.start();
    },
    onClosed: () => {
      worker?.flush();
      context.end(0);
    },
  });
}

interface Question {
  readonly answer: (view: ServiceView | null) => void;
  readonly fail: (because: HauberkError) => void;
}

class Worker {
  readonly #context: WorkerContext;
  readonly #say: (message: FromWorker) => void;
  readonly #log: Log;
  readonly #logger: Logger;
  readonly #metrics = new Metrics();
  readonly #faults: Faults;
  readonly #entries: Map<string, StateValue>;
  readonly #snapshot: Published<Snapshot>;
  readonly #identity: Published<TlsIdentity | undefined>;
  readonly #access: AccessLog | undefined;
  readonly #proxy: Proxy;
  readonly #questions = new Map<number, Question>();
  #asked = 0;

  constructor(
    context: WorkerContext,
    { settings, identity, entries }: Extract<ToWorker, { type: "start" }>,
    say: (message: FromWorker) => void,
  ) {
    const { random } = context;
    const { worker, accessLog, proxy } = settings;
    this.#context = context;
    this.#say = say;
    this.#log = context.openLog(settings.logLevel, { program: "sidecar", service: serviceKey(proxy.service), worker });
    this.#logger = this.#log.logger;
    const clock = context.clockFor((thrown) => this.#faults.task(thrown));
    this.#faults = new Faults({ log: this.#logger, clock, metrics: this.#metrics });
    this.#entries = new Map(entries);
    this.#snapshot = new Published(buildSnapshot(this.#entries, emptySnapshot));
    this.#identity = new Published(identityOf(identity));
    this.#access = accessLog ? new AccessLog({ enabled: true, clock, sink: this.#log.raw, worker }) : undefined;
    this.#proxy = new Proxy({
      ...proxy,
      identity: this.#identity,
      snapshot: this.#snapshot,
      ask: (key) => this.#ask(key),
      clock,
      random,
      log: this.#logger.child({ room: "proxy" }),
      metrics: this.#metrics,
      access: this.#access,
      shared: true,
    });
  }

  async start(): Promise<void> {
    try {
      await this.#proxy.start();
      const { inboundPort, outboundPort } = this.#proxy;
      this.#say({ type: "listening", inboundPort, outboundPort });
    } catch (thrown) {
      const { code, hint } =
        thrown instanceof HauberkError ? thrown : { code: "BUG", hint: "Report this with the log" };
      // The sidecar decides what becomes of a worker that cannot listen.
      this.#say({ type: "failed", code, message: messageOf(thrown), hint });
    }
  }

  hear(message: Exclude<ToWorker, { type: "start" }>): void {
    switch (message.type) {
      case "identity":
        return this.#identity.publish(identityOf(message.identity));
      case "state":
        return this.#learn(message);
      case "answer":
        return this.#question(message.number)?.answer(message.view);
      case "unanswered":
        return this.#question(message.number)?.fail(failureOf(message));
      case "measure":
      case "describe":
        return this.#tell(message);
      case "ping":
        return this.#say({ type: "pong" });
      case "drain":
        return void this.#drain(message.withinMs);
      case "stop":
        return void this.#stop();
    }
  }

  /** Whoever only looks must not be able to end what carries traffic. */
  #tell({ type, number }: Extract<ToWorker, { type: "measure" | "describe" }>): void {
    try {
      if (type === "measure") this.#say({ type: "measured", number, families: wireFamilies(this.#metrics.view()) });
      else this.#say({ type: "described", number, description: this.#proxy.describe() });
    } catch (thrown) {
      this.#faults.task(thrown);
    }
  }

  /** Writes what waits for the logs. */
  flush(): void {
    this.#access?.flush();
    this.#log.flush();
  }

  #learn({ set, gone }: Extract<ToWorker, { type: "state" }>): void {
    for (const key of gone) this.#entries.delete(key);
    for (const [key, value] of set) this.#entries.set(key, value);
    try {
      this.#snapshot.publish(buildSnapshot(this.#entries, this.#snapshot.read()));
    } catch (thrown) {
      // The sidecar has built the same one before it sent it: the last good one stays, as it would there.
      this.#logger.error("a new state was rejected; the last good one stays", { because: messageOf(thrown) });
    }
  }

  #ask(service: string): Promise<ServiceView | null> {
    const number = ++this.#asked;
    return new Promise((answer, fail) => {
      this.#questions.set(number, { answer, fail });
      this.#say({ type: "ask", number, service });
    });
  }

  #question(number: number): Question | undefined {
    const question = this.#questions.get(number);
    this.#questions.delete(number);
    return question;
  }

  async #drain(withinMs: number): Promise<void> {
    await this.#proxy.drain(withinMs);
    this.#say({ type: "drained" });
  }

  async #stop(): Promise<void> {
    await this.#proxy.stop();
    this.flush();
    this.#context.end(0);
  }
}
