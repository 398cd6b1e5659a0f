import type { Clock } from "../base/clock.ts";
import { HauberkError, isRefusal, messageOf } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import { Published } from "../base/published.ts";
import type { Random } from "../base/random.ts";
import type { Down, Registration, ServiceView } from "../contract/watch.ts";
import type { WatchEvents, WatchStream } from "../identity/control-client.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import type { sidecarOptions } from "./options.ts";
import { judged, Outage, troubleOf, type Trouble } from "./outage.ts";
import { apply, servicesOf, type WatchState } from "./watch-state.ts";

export interface WatchContext {
  /** Opens a stream with this identity; throws where no control plane can be reached. */
  readonly open: (identity: TlsIdentity, events: WatchEvents) => Promise<WatchStream>;
  readonly identity: Published<TlsIdentity | undefined>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly options: OptionValues<typeof sidecarOptions>;
  readonly release: string;
  /** `--instance`, for lists that people read. */
  readonly name: string;
  /** Processes that carry the traffic. */
  readonly workers: number;
  /** From the last good snapshot, or nothing yet. */
  readonly initial: WatchState;
  /** Makes a state count; throws where it cannot be used, and then the state before it stays. */
  readonly accept: (state: WatchState) => void;
  /** Something of ours threw: it costs the stream, another is opened, and this is for the log. */
  readonly onFault: (thrown: unknown) => void;
}

interface Question {
  readonly answer: (view: ServiceView | null) => void;
  readonly fail: (because: HauberkError) => void;
  readonly cancel: () => void;
}

/**
 * Keeps one watch to the control plane, for ever: full state first, then deltas; a lost stream is opened again with
 * growing, spread waits; a renewed identity opens its stream before the old one is closed.
 */
export class WatchClient {
  readonly connected = new Published(false);
  /** Whether the first attempt has ended, well or not: until then nobody knows how old the last good snapshot is. */
  readonly tried = new Published(false);
  readonly #context: WatchContext;
  readonly #questions = new Map<string, Question[]>();
  readonly #subscriptions: Set<string>;
  readonly #forget = new Map<string, () => void>();
  #state: WatchState;
  /** What came of a message of several lines. */
  #gathering: WatchState | undefined;
  #trimming = false;
  #stream: WatchStream | undefined;
  #attempt = 0;
  #generation = 0;
  #registration: Registration | null = null;
  #cancels: (() => void)[] = [];
  #retry: (() => void) | undefined;
  #silence: (() => void) | undefined;
  #stopped = true;
  readonly #outage: Outage;

  constructor(context: WatchContext) {
    this.#context = context;
    this.#outage = new Outage(context.log);
    this.#state = context.initial;
    this.#subscriptions = new Set(servicesOf(context.initial).map(([key]) => key.slice("service/".length)));
  }

  start(): void {
    this.#stopped = false;
    this.#cancels.push(this.#context.identity.subscribe(() => this.#connect()));
    this.#connect();
  }

  /** Tells the control plane that this endpoint leaves, then closes. */
  stop(): void {
    this.#stopped = true;
    for (const cancel of this.#cancels.splice(0)) cancel();
    this.#retry?.();
    this.#silence?.();
    for (const cancel of this.#forget.values()) cancel();
    this.#stream?.send({ type: "register", registration: null });
    this.#stream?.close("the sidecar stops");
    this.#stream = undefined;
    for (const [service] of this.#questions) this.#failQuestions(service, "the sidecar stops");
  }

  get localAddress(): string | undefined {
    return this.#stream?.localAddress;
  }

  /** Why the control plane does not serve this sidecar now; undefined while it does. */
  get trouble(): Trouble | undefined {
    return this.connected.read() ? undefined : this.#outage.trouble;
  }

  /** What this sidecar offers; sent now and with each new stream. */
  register(registration: Registration | null): void {
    this.#registration = registration;
    this.#stream?.send({ type: "register", registration });
  }

  /**
   * What may be known of `service` ("orders.default"): null where it is unknown, the same whether it does not exist or may not be seen.
   * @throws HauberkError CONTROL_UNREACHABLE where nobody answers in time, LIMIT_REQUESTS above `subscriptionsMax`.
   */
  ask(service: string): Promise<ServiceView | null> {
    const known = this.#state.entries.get(`service/${service}`);
    const subscribed = this.#subscriptions.has(service);
    if (known !== undefined && subscribed) return Promise.resolve(known as ServiceView | null);
    if (!subscribed) {
      if (this.#subscriptions.size >= this.#context.options.subscriptionsMax) {
        return Promise.reject(
          new HauberkError(
            "LIMIT_REQUESTS",
            `Cannot ask for "${service}": ${this.#subscriptions.size} services are subscribed already`,
            "Raise subscriptionsMax, or call fewer names",
          ),
        );
      }
      this.#subscriptions.add(service);
      this.#context.log.debug("the control plane is asked about a service", { callee: service });
      this.#stream?.send({ type: "subscribe", service });
    }
    return new Promise((answer, fail) => {
      const cancel = this.#context.clock.after(this.#context.options.askMs, () =>
        this.#failQuestions(service, `nobody answered within ${this.#context.options.askMs} ms`),
      );
      const waiting = this.#questions.get(service) ?? [];
      waiting.push({ answer, fail, cancel });
      this.#questions.set(service, waiting);
    });
  }

  #connect(): void {
    const identity = this.#context.identity.read();
    if (identity === undefined || this.#stopped) return;
    this.#retry?.();
    this.#retry = undefined;
    const generation = ++this.#generation;
    let stream: WatchStream | undefined;
    let over: string | undefined;
    const events: WatchEvents = {
      down: (message) => {
        if (stream === undefined || stream !== this.#stream) return;
        try {
          this.#down(message);
        } catch (thrown) {
          this.#context.onFault(thrown);
          this.#lost("a bug");
        }
      },
      closed: (because) => {
        over = because;
        if (stream !== undefined && stream === this.#stream) this.#lost(because);
      },
    };
    this.#context
      .open(identity, events)
      .then((opened) => {
        stream = opened;
        if (generation !== this.#generation || this.#stopped) {
          opened.close("a newer stream was opened");
        } else if (over !== undefined) {
          this.#retryLater(troubleOf(over));
        } else {
          this.#opened(opened);
        }
      })
      .catch((thrown: unknown) => {
        if (generation === this.#generation) this.#retryLater(troubleOf(thrown));
      });
  }

  #opened(stream: WatchStream): void {
    const before = this.#stream;
    this.#stream = stream;
    this.#gathering = undefined;
    this.#context.log.debug("a stream to the control plane stands", { localAddress: stream.localAddress });
    stream.send({
      type: "hello",
      protocol: 1,
      release: this.#context.release,
      name: this.#context.name,
      ...(this.#context.workers === 1 ? {} : { workers: this.#context.workers }),
      version: this.#state.version ?? null,
      registration: this.#registration,
      subscriptions: [...this.#subscriptions],
    });
    before?.close("a newer stream was opened");
    this.#listen();
  }

  #lost(because: string, trouble = troubleOf(because)): void {
    if (this.#stopped) return;
    const was = this.#stream;
    this.#stream = undefined;
    this.#generation++;
    was?.close(because);
    this.#silence?.();
    try {
      if (this.connected.read()) this.connected.publish(false);
    } catch (thrown) {
      this.#context.onFault(thrown); // Without another stream nothing new would ever be learnt.
    }
    this.#retryLater(trouble);
  }

  /** A stream that still stands stays: only the attempt is repeated. */
  #retryLater(trouble: Trouble): void {
    if (this.#stopped) return;
    const { reconnectMinMs, reconnectMaxMs } = this.#context.options;
    const limitMs = Math.min(reconnectMaxMs, reconnectMinMs * 2 ** Math.min(this.#attempt++, 20));
    const waitMs = limitMs / 2 + (limitMs / 2) * this.#context.random.draw();
    const next = { waitMs: Math.round(waitMs), attempt: this.#attempt };
    if (this.#stream === undefined) this.#outage.failed(trouble, this.#context.clock.monotonicMs(), next);
    else
      this.#context.log.warn("a newer stream to the control plane could not be opened; the old one stays", {
        ...trouble,
        ...next,
      });
    this.#retry?.();
    this.#retry = this.#context.clock.after(waitMs, () => this.#connect());
    if (!this.tried.read()) this.tried.publish(true);
  }

  #listen(): void {
    this.#silence?.();
    this.#silence = this.#context.clock.after(this.#context.options.silenceMs, () =>
      this.#lost("nothing was heard of it"),
    );
  }

  #down(message: Down): void {
    this.#listen();
    switch (message.type) {
      case "ping":
        this.#stream?.send({ type: "pong", number: message.number });
        return;
      case "goodbye":
        this.#context.log.info("the control plane asks for a new stream", { because: message.because });
        this.#connect();
        return;
      case "notice":
        this.#context.log.error(message.message, { code: message.code, hint: message.hint });
        return;
      case "refused":
        this.#lost(`${message.code}: ${message.message}`, judged(message.code, message.message, message.hint));
        return;
      case "full":
      case "delta":
        this.#learn(message);
    }
  }

  #learn(message: Extract<Down, { type: "full" | "delta" }>): void {
    const applied = apply(this.#gathering ?? this.#state, message);
    if (isRefusal(applied)) {
      this.#lost(applied.message);
      return;
    }
    const next = this.#subscribed(applied);
    this.#gathering = message.more === true ? next : undefined;
    if (message.more === true) return;
    // Deltas build on what was said, rejected or not; what counts is what was accepted.
    this.#state = next;
    try {
      this.#context.accept(next);
    } catch (thrown) {
      // The last good state stays in force; the control plane shows who rejected what.
      this.#stream?.send({ type: "reject", version: message.version, because: messageOf(thrown).slice(0, 500) });
      this.#context.log.error("a new state was rejected; the last good one stays", {
        because: messageOf(thrown),
        version: message.version,
      });
      return;
    }
    this.#attempt = 0;
    this.#outage.over(this.#context.clock.monotonicMs());
    this.#context.log.debug("a state of the control plane counts", {
      is: message.type,
      version: message.version,
      entries: next.entries.size,
    });
    this.#stream?.send({ type: "ack", version: message.version });
    if (!this.connected.read()) this.connected.publish(true);
    if (!this.tried.read()) this.tried.publish(true);
    for (const [key, value] of servicesOf(next))
      this.#answer(key.slice("service/".length), value as ServiceView | null);
  }

  /** Without what was on its way when a name was dropped: of a name that is not subscribed nobody tells what becomes of it. */
  #subscribed(state: WatchState): WatchState {
    const strays = servicesOf(state).filter(([key]) => !this.#subscriptions.has(key.slice("service/".length)));
    if (strays.length === 0) return state;
    const entries = new Map(state.entries);
    for (const [key] of strays) entries.delete(key);
    return { ...state, entries };
  }

  #answer(service: string, view: ServiceView | null): void {
    const waiting = this.#questions.get(service) ?? [];
    this.#questions.delete(service);
    if (waiting.length > 0)
      this.#context.log.debug("the control plane answered about a service", {
        callee: service,
        endpoints: view?.endpoints.length ?? "unknown, or not to be seen",
      });
    for (const question of waiting) {
      question.cancel();
      question.answer(view);
    }
    if (view !== null) {
      this.#forget.get(service)?.();
      this.#forget.delete(service);
    } else if (!this.#forget.has(service)) {
      this.#forget.set(
        service,
        this.#context.clock.after(this.#context.options.unknownMs, () => this.#unsubscribe(service)),
      );
    }
  }

  #unsubscribe(service: string): void {
    this.#forget.delete(service);
    this.#subscriptions.delete(service);
    this.#stream?.send({ type: "unsubscribe", service });
    if (this.#trimming) return;
    this.#trimming = true;
    // Names that were invented together are forgotten together: one state for all of them.
    setImmediate(() => this.#trim());
  }

  /** Else a name stays unknown for whoever reads the published state, although a policy may allow it by now. */
  #trim(): void {
    this.#trimming = false;
    try {
      this.#state = this.#subscribed(this.#state);
      if (!this.#stopped) this.#context.accept(this.#state);
    } catch {
      // This state was rejected when it came, and said to be; the next one that is accepted lacks the names.
    }
  }

  #failQuestions(service: string, because: string): void {
    const waiting = this.#questions.get(service) ?? [];
    this.#questions.delete(service);
    // A name that nobody answered for is not kept: it may be an invention.
    if (!this.#state.entries.has(`service/${service}`)) {
      this.#subscriptions.delete(service);
      this.#stream?.send({ type: "unsubscribe", service });
    }
    for (const question of waiting) {
      question.cancel();
      question.fail(
        new HauberkError(
          "CONTROL_UNREACHABLE",
          `Cannot find out about "${service}": the control plane cannot be asked now (${because})`,
          "Start the control plane, or wait for it; known services go on working",
        ),
      );
    }
  }
}
