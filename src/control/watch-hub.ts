import { type Clock, repeat } from "../base/clock.ts";
import { refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { Random } from "../base/random.ts";
import type { Up, Version } from "../contract/watch.ts";
import type { Registry } from "../registry/registry.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { controlOptions } from "./options.ts";
import type { Said, WatchStream } from "./watch-stream.ts";
import type { Views } from "./views.ts";

export interface HubContext {
  readonly registry: Registry;
  readonly views: Views;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly options: OptionValues<typeof controlOptions>;
  /** Whether the stream's instance may still go on; asked with the pings. */
  readonly mayGoOn: (stream: WatchStream) => Promise<true | Refusal>;
  /** Something of ours threw and cost one stream: for the log. */
  readonly onFault: (thrown: unknown) => void;
}

/** How many streams are told in one turn of the event loop. */
const batchMax = 256;
/** The pings of all streams are spread over this many ticks. */
const ticksPerPing = 10;

/**
 * All watch streams: who subscribes to what, who has to be told, and who has gone. Changes of one turn are told
 * together; a service's change reaches only those who subscribe to it.
 */
export class WatchHub {
  readonly #context: HubContext;
  /** One per instance: the newest. */
  readonly #streams = new Map<string, WatchStream>();
  readonly #subscribers = new Map<string, Set<WatchStream>>();
  readonly #timers = new Map<WatchStream, () => void>();
  readonly #stops: (() => void)[];
  #dirty = new Set<WatchStream>();
  #planned = false;
  #ping = 0;
  #slots = 0;
  #version: Version;

  constructor(context: HubContext, version: Version) {
    this.#context = context;
    this.#version = version;
    this.#stops = [
      repeat(context.clock, context.options.pingEveryMs / ticksPerPing, () => this.#tick()),
      context.registry.onChange((service) => {
        context.views.registrationsChanged(service);
        this.#touchSubscribers(service);
      }),
    ];
  }

  get version(): Version {
    return this.#version;
  }

  get streams(): readonly WatchStream[] {
    return [...this.#streams.values()];
  }

  setVersion(version: Version): void {
    const newEpoch = version.epoch !== this.#version.epoch;
    this.#version = version;
    if (newEpoch) this.touchAll();
  }

  /** Policies or bundle have changed. */
  touchAll(): void {
    for (const stream of this.#streams.values()) this.#touch(stream);
  }

  /** The stream can take more. */
  drained(stream: WatchStream): void {
    stream.blockedSinceMs = undefined;
    if (stream.greeted) this.#touch(stream);
  }

  /** One message of a sidecar. Resolves when the next may be given; a refusal ended the stream. */
  async hear(stream: WatchStream, message: Up): Promise<void> {
    stream.heardAtMs = this.#context.clock.monotonicMs();
    if (stream.ended) return;
    if (!stream.greeted && message.type !== "hello") return stream.refuse(unexpected("its first message is not hello"));
    switch (message.type) {
      case "hello":
        return stream.greeted ? stream.refuse(unexpected("it said hello twice")) : this.#hello(stream, message);
      case "register":
        return this.#register(stream, message.registration);
      case "subscribe":
        return this.#subscribe(stream, message.service);
      case "unsubscribe":
        return this.#unsubscribe(stream, message.service);
      case "ack":
        stream.acknowledged = message.version;
        return;
      case "reject":
        stream.rejected = { version: message.version, because: message.because };
        this.#context.log.warn("A sidecar rejected its state", {
          instance: stream.instance,
          id: stream.peer.id.text,
          because: message.because,
        });
        return;
      case "pong":
        return;
    }
  }

  /** The stream is over. `deliberate`: it ended in order, so that it says nothing about the network. */
  closed(stream: WatchStream, how: { readonly deliberate: boolean }): void {
    stream.ended = true;
    this.#timers.get(stream)?.();
    this.#timers.delete(stream);
    this.#dirty.delete(stream);
    for (const service of stream.subscriptions) this.#dropSubscriber(stream, service);
    stream.subscriptions.clear();
    if (this.#streams.get(stream.instance) !== stream) return;
    this.#streams.delete(stream.instance);
    this.#context.registry.streamEnded(stream.instance, how);
  }

  /** The instance may no longer go on: its stream and its endpoint end now. */
  async dismiss(instance: string, refusal: Refusal): Promise<void> {
    const stream = this.#streams.get(instance);
    stream?.refuse(refusal);
    if (stream !== undefined) this.closed(stream, { deliberate: true });
    await this.#context.registry.remove(instance);
  }

  /** No more pings and changes; with `because`, every sidecar is told so. */
  stop(because: string | undefined): void {
    for (const stop of this.#stops) stop();
    for (const stream of this.streams) {
      if (because === undefined) stream.destroy();
      else stream.goodbye(because);
      this.closed(stream, { deliberate: true });
    }
  }

  async #hello(stream: WatchStream, hello: Extract<Up, { type: "hello" }>): Promise<void> {
    const { options, registry } = this.#context;
    if (hello.subscriptions.length > options.subscriptionsMax) return stream.refuse(tooMany(options.subscriptionsMax));
    stream.release = hello.release;
    stream.name = hello.name ?? null;
    stream.workers = hello.workers ?? 1;
    stream.slot = this.#slots++ % ticksPerPing;
    // What the sidecar runs until it has taken what it is told now: its own last good state.
    stream.acknowledged = hello.version;
    const older = this.#streams.get(stream.instance);
    this.#streams.set(stream.instance, stream);
    registry.streamOpened(stream.instance);
    if (older !== undefined) {
      older.goodbye("a newer stream of this instance was opened");
      this.closed(older, { deliberate: true });
    }
    for (const service of hello.subscriptions) this.#addSubscriber(stream, service);
    this.#planEnd(stream);
    await this.#register(stream, hello.registration);
    stream.greeted = true;
    this.#touch(stream);
  }

  async #register(stream: WatchStream, registration: Extract<Up, { type: "register" }>["registration"]): Promise<void> {
    // A stream that was replaced has no say any more.
    if (this.#streams.get(stream.instance) !== stream) return;
    const { instance, service, namespace } = stream.peer.standing;
    const { machine } = stream.peer;
    const who = { instance, name: { service, namespace }, machine };
    const refusal = await this.#context.registry.offer(who, registration);
    if (refusal === undefined) return;
    this.#context.log.warn(refusal.message, { instance, code: refusal.code, hint: refusal.hint });
    stream.notice(refusal);
  }

  #subscribe(stream: WatchStream, service: string): void {
    const { subscriptionsMax } = this.#context.options;
    if (!stream.subscriptions.has(service) && stream.subscriptions.size >= subscriptionsMax) {
      return stream.refuse(tooMany(subscriptionsMax));
    }
    stream.forget(`service/${service}`);
    this.#addSubscriber(stream, service);
    this.#touch(stream);
  }

  #unsubscribe(stream: WatchStream, service: string): void {
    stream.forget(`service/${service}`);
    stream.subscriptions.delete(service);
    this.#dropSubscriber(stream, service);
    this.#touch(stream);
  }

  #addSubscriber(stream: WatchStream, service: string): void {
    stream.subscriptions.add(service);
    const subscribers = this.#subscribers.get(service);
    if (subscribers === undefined) this.#subscribers.set(service, new Set([stream]));
    else subscribers.add(stream);
  }

  #dropSubscriber(stream: WatchStream, service: string): void {
    const subscribers = this.#subscribers.get(service);
    subscribers?.delete(stream);
    if (subscribers?.size !== 0) return;
    this.#subscribers.delete(service);
    this.#context.views.forget(service);
  }

  #touchSubscribers(service: string): void {
    for (const stream of this.#subscribers.get(service) ?? []) this.#touch(stream);
  }

  #touch(stream: WatchStream): void {
    if (stream.ended || !stream.greeted) return;
    this.#dirty.add(stream);
    if (this.#planned) return;
    this.#planned = true;
    setImmediate(() => this.#tell());
  }

  #tell(): void {
    const atMs = this.#context.clock.monotonicMs();
    let told = 0;
    for (const stream of this.#dirty) {
      this.#dirty.delete(stream);
      this.#guarded(stream, () => stream.say(this.#stateOf(stream), this.#version, atMs));
      if (++told >= batchMax) break;
    }
    this.#planned = this.#dirty.size > 0;
    if (this.#planned) setImmediate(() => this.#tell());
  }

  /** What throws for one stream costs that stream: all others wait behind it. */
  #guarded(stream: WatchStream, task: () => void): void {
    try {
      task();
    } catch (thrown) {
      this.#context.onFault(thrown);
      stream.destroy();
      this.closed(stream, { deliberate: false });
    }
  }

  #stateOf(stream: WatchStream): Said {
    const { views } = this.#context;
    const { service, namespace } = stream.peer.standing;
    const own = views.own({ service, namespace });
    const state = new Map([
      ["bundle", views.bundle()],
      ["own", own.text],
    ]);
    const providers = new Set(own.providers);
    for (const key of stream.subscriptions) {
      const part = views.service(key, stream.peer.id, stream.peer.machine);
      state.set(`service/${key}`, part.text);
      for (const provider of part.providers) providers.add(provider);
    }
    for (const provider of providers) state.set(`provider/${provider}`, views.provider(provider));
    return state;
  }

  /** Asks the sidecar to move before a certificate of this connection ends; spread, so that a fleet does not move at once. */
  #planEnd(stream: WatchStream): void {
    const { clock, random } = this.#context;
    const leftMs = Math.max(0, stream.peer.endsAtMs - clock.wallMs());
    const delayMs = Math.floor(Math.min(2 ** 30, leftMs * (0.85 + 0.1 * random.draw())));
    this.#timers.set(
      stream,
      clock.after(delayMs, () => stream.askToMove("a certificate of this connection is about to end")),
    );
  }

  #tick(): void {
    const { clock } = this.#context;
    const now = { wallMs: clock.wallMs(), monotonicMs: clock.monotonicMs() };
    const number = this.#ping++;
    for (const stream of this.streams) this.#guarded(stream, () => this.#look(stream, now, number));
  }

  #look(stream: WatchStream, now: { wallMs: number; monotonicMs: number }, number: number): void {
    const { options, log } = this.#context;
    const slow = stream.blockedSinceMs !== undefined && now.monotonicMs - stream.blockedSinceMs >= options.slowReaderMs;
    if (slow || now.monotonicMs - stream.heardAtMs >= options.silenceMs || now.wallMs >= stream.peer.endsAtMs) {
      log.info("A watch is ended", {
        instance: stream.instance,
        because: slow ? "it does not read" : "silence, or its certificate's end",
      });
      stream.destroy();
      this.closed(stream, { deliberate: false });
    } else if (stream.slot === number % ticksPerPing) {
      stream.ping(number, now);
      void this.#check(stream);
    }
  }

  async #check(stream: WatchStream): Promise<void> {
    try {
      const answer = await this.#context.mayGoOn(stream);
      if (answer !== true && !stream.ended) await this.dismiss(stream.instance, answer);
    } catch {
      // The store cannot be asked now: what was decided when the stream was opened still counts.
    }
  }
}

function unexpected(because: string): Refusal {
  return refuse(
    "MESSAGE_INVALID",
    `Cannot go on with this stream: ${because}`,
    "Compare the Hauberk releases of both ends",
  );
}

function tooMany(max: number): Refusal {
  return refuse(
    "RATE_LIMITED",
    `Cannot subscribe: the stream would have more than ${max} subscriptions`,
    "Unsubscribe from services that are not called any more",
  );
}
