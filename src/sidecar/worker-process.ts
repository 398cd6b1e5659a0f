import type { Duplex } from "node:stream";
import { repeat, type Clock } from "../base/clock.ts";
import { HauberkError, isRefusal, messageOf, refuse, type Refusal } from "../base/errors.ts";
import type { StateEntry, StateValue } from "../contract/watch.ts";
import type { ProxyDescription } from "../proxy/description.ts";
import type { Ask } from "../proxy/discovery.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { FamilyView } from "../telemetry/metric-view.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { WorkerChannel } from "./worker-channel.ts";
import {
  failureOf,
  fromWorkerBytesMax,
  readFromWorker,
  wireIdentity,
  type FromWorker,
  type ToWorker,
  type WorkerSettings,
} from "./worker-messages.ts";

/** A process that was started to be a worker. */
export interface Spawned {
  readonly pid: number;
  /** One end of a socket pair; the worker has the other. */
  readonly stream: Duplex;
  /** How it ended: "code 70", "SIGKILL". */
  readonly exited: Promise<string>;
  /** At once. */
  kill(): void;
}

export interface WorkerTerms {
  readonly clock: Clock;
  readonly log: Logger;
  readonly ask: Ask;
  /** A worker that answers nothing for this long is ended. */
  readonly silenceMs: number;
  readonly onFault: (thrown: unknown) => void;
}

export type Entries = ReadonlyMap<string, StateValue>;

/** Answers about services that one worker may wait for; its own limit is lower. */
const asksMax = 4_096;
/** What a worker has not taken yet of what it was told; over this it is stuck. */
const waitingBytesMax = 128 * 1024 * 1024;
const pingsPerSilence = 3;
/** Node's own start takes most of it, and on a busy machine many sidecars may start at once. */
const startMs = 30_000;

/** One worker process as the sidecar sees it: from its start to its end. */
export class WorkerProcess {
  readonly settings: WorkerSettings;
  readonly exited: Promise<string>;
  /** The ports on which it listens; rejects where it could not. */
  readonly listening: Promise<{ inboundPort: number; outboundPort: number }>;
  readonly #terms: WorkerTerms;
  readonly #log: Logger;
  readonly #spawned: Spawned;
  readonly #channel: WorkerChannel;
  readonly #measures = new Map<number, (families: readonly FamilyView[]) => void>();
  readonly #descriptions = new Map<number, (description: ProxyDescription) => void>();
  readonly #drained: Promise<void>;
  /** Of the time for its start, then of the pings. */
  #cancelWatch: () => void;
  #listen: (ports: { inboundPort: number; outboundPort: number }) => void = () => undefined;
  #fail: (because: HauberkError) => void = () => undefined;
  #hasDrained: () => void = () => undefined;
  #told: Entries;
  #identity: TlsIdentity | undefined;
  #number = 0;
  #asks = 0;
  #unanswered = 0;

  constructor(
    spawned: Spawned,
    start: { settings: WorkerSettings; identity: TlsIdentity | undefined; entries: Entries },
    terms: WorkerTerms,
  ) {
    this.settings = start.settings;
    this.exited = spawned.exited;
    this.#spawned = spawned;
    this.#terms = terms;
    this.#log = terms.log.child({ worker: start.settings.worker, workerPid: spawned.pid });
    this.listening = new Promise((resolve, reject) => {
      this.#listen = resolve;
      this.#fail = reject;
    });
    // Whoever started it hears of it; nobody does once it listens.
    this.listening.catch(() => undefined);
    this.#drained = new Promise((resolve) => {
      this.#hasDrained = resolve;
    });
    this.#channel = new WorkerChannel(spawned.stream, {
      lineBytesMax: fromWorkerBytesMax,
      waitingBytesMax,
      onLine: (line) => this.#heard(line),
      onClosed: (because) => this.#lost(because),
    });
    this.#told = start.entries;
    this.#identity = start.identity;
    const { settings, identity, entries } = start;
    this.#tell({ type: "start", settings, identity: wireIdentity(identity), entries: [...entries] });
    this.#cancelWatch = terms.clock.after(startMs, () => this.#kill("it did not start in time"));
    this.exited.then((how) => this.#ended(how)).catch(terms.onFault);
  }

  get pid(): number {
    return this.#spawned.pid;
  }

  identify(identity: TlsIdentity | undefined): void {
    if (identity === this.#identity) return;
    this.#identity = identity;
    this.#tell({ type: "identity", identity: wireIdentity(identity) });
  }

  /** Tells what changed since it was told last: what did not is the same object. */
  follow(entries: Entries): void {
    const set: StateEntry[] = [];
    for (const [key, value] of entries)
      if (this.#told.get(key) !== value || !this.#told.has(key)) set.push([key, value]);
    const gone = [...this.#told.keys()].filter((key) => !entries.has(key));
    this.#told = entries;
    if (set.length > 0 || gone.length > 0) this.#tell({ type: "state", set, gone });
  }

  /** What it counted; undefined where it does not answer within `withinMs`. */
  measure(withinMs: number): Promise<readonly FamilyView[] | undefined> {
    return this.#question(this.#measures, "measure", withinMs);
  }

  describe(withinMs: number): Promise<ProxyDescription | undefined> {
    return this.#question(this.#descriptions, "describe", withinMs);
  }

  /** Resolves when nothing is under way on it, or it is gone; one that says nothing `marginMs` after the time is killed. */
  async drain(withinMs: number, marginMs: number): Promise<void> {
    this.#tell({ type: "drain", withinMs });
    await this.#within(withinMs + marginMs, Promise.race([this.#drained, this.exited]), "it did not drain in time");
  }

  /** Resolves when it has ended. */
  async stop(withinMs: number): Promise<void> {
    this.#tell({ type: "stop" });
    await this.#within(withinMs, this.exited, "it did not stop in time");
    await this.exited;
  }

  #within(withinMs: number, done: Promise<unknown>, otherwise: string): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        cancel();
        resolve();
      };
      const cancel = this.#terms.clock.after(withinMs, () => {
        this.#kill(otherwise);
        resolve();
      });
      void done.then(end);
    });
  }

  #question<T>(
    into: Map<number, (value: T) => void>,
    type: "measure" | "describe",
    withinMs: number,
  ): Promise<T | undefined> {
    const number = ++this.#number;
    return new Promise((resolve) => {
      const end = (value: T | undefined): void => {
        cancel();
        into.delete(number);
        resolve(value);
      };
      const cancel = this.#terms.clock.after(withinMs, () => end(undefined));
      into.set(number, end);
      void this.exited.then(() => end(undefined));
      this.#tell({ type, number });
    });
  }

  #tell(message: ToWorker): void {
    this.#channel.send(message);
  }

  #heard(line: string): void {
    const message = readFromWorker(line);
    if (isRefusal(message)) {
      this.#channel.close();
      this.#lost(message.message);
    } else {
      this.#take(message);
    }
  }

  /** What cannot be done about a worker's word costs that worker: it may never get the answer that it waits for. */
  #take(message: FromWorker): void {
    try {
      this.#hear(message);
    } catch (thrown) {
      this.#terms.onFault(thrown);
      this.#kill("what it said could not be heard");
    }
  }

  #hear(message: FromWorker): void {
    this.#unanswered = 0;
    switch (message.type) {
      case "listening":
        return this.#listens(message);
      case "failed":
        return this.#fail(failureOf(message));
      case "ask":
        this.#answer(message.number, message.service).catch(this.#terms.onFault);
        return undefined;
      case "measured":
        return this.#measures.get(message.number)?.(message.families);
      case "described":
        return this.#descriptions.get(message.number)?.(message.description);
      case "drained":
        return this.#hasDrained();
      case "pong":
        return undefined;
    }
  }

  #listens({ inboundPort, outboundPort }: { inboundPort: number; outboundPort: number }): void {
    const { clock, silenceMs } = this.#terms;
    this.#cancelWatch();
    this.#cancelWatch = repeat(clock, silenceMs / pingsPerSilence, () => this.#ping());
    this.#listen({ inboundPort, outboundPort });
  }

  async #answer(number: number, service: string): Promise<void> {
    if (this.#asks >= asksMax) {
      this.#refuse(
        number,
        refuse("LIMIT_REQUESTS", `Cannot ask for "${service}": a worker asks for too many already`, "Call fewer names"),
      );
      return;
    }
    this.#asks++;
    try {
      const view = await this.#terms.ask(service);
      this.#tell({ type: "answer", number, view });
    } catch (thrown) {
      const known = thrown instanceof HauberkError ? thrown : undefined;
      const { code = "CONTROL_UNREACHABLE", hint = "Look at the log" } = known ?? {};
      this.#refuse(number, { code, message: messageOf(thrown), hint });
    } finally {
      this.#asks--;
    }
  }

  #refuse(number: number, { code, message, hint }: Pick<Refusal, "code" | "message" | "hint">): void {
    this.#tell({ type: "unanswered", number, code, message, hint });
  }

  #ping(): void {
    if (this.#unanswered >= pingsPerSilence) {
      this.#kill("it answers nothing");
      return;
    }
    this.#unanswered++;
    this.#tell({ type: "ping" });
  }

  /** A worker that cannot be talked to can neither be told of a revoked policy nor of the end: it must not go on. */
  #lost(because: string | undefined): void {
    if (because === undefined) this.#spawned.kill();
    else this.#kill(because);
  }

  #kill(because: string): void {
    this.#log.error("a worker is killed", { because });
    this.#spawned.kill();
  }

  #ended(how: string): void {
    this.#cancelWatch();
    this.#channel.close();
    this.#fail(
      new HauberkError(
        "UNAVAILABLE",
        `Cannot start worker ${this.settings.worker}: it ended with ${how}`,
        "Look at the log above; with --workers 1 everything stays in one process",
      ),
    );
  }
}
