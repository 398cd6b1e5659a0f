import { PassThrough } from "node:stream";
import { HauberkError, messageOf } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import { Published } from "../base/published.ts";
import { RouteeHealth, routeeCheck } from "../proxy/health.ts";
import type { PlainAddress } from "../proxy/plain-listener.ts";
import type { ProxyContext } from "../proxy/proxy.ts";
import { backoffMs } from "../resilience/backoff.ts";
import { Faults } from "../telemetry/faults.ts";
import type { LogLevel } from "../telemetry/log.ts";
import {
  addDeparted,
  countsOf,
  mergeFamilies,
  renderFamilies,
  totalOf,
  type FamilyView,
} from "../telemetry/metric-view.ts";
import type { Counter } from "../telemetry/metrics.ts";
import type { DataPlane } from "./data-plane.ts";
import type { sidecarOptions } from "./options.ts";
import { claimPort, requireSharedPorts, type ClaimedPort } from "./shared-port.ts";
import { mergeDescriptions } from "./worker-description.ts";
import type { NotPlain, ProxySettings } from "./worker-messages.ts";
import { WorkerProcess, type Entries, type Spawned } from "./worker-process.ts";
import { shareOf } from "./worker-share.ts";

/** What `--workers N` asks for, above one. */
export interface WorkersWanted {
  readonly count: number;
  readonly logLevel: LogLevel;
  readonly spawn: () => Spawned;
}

interface WorkersUse extends WorkersWanted {
  /** All that the control plane told, as it told it. */
  readonly entries: Published<Entries>;
  readonly accessLog: boolean;
  readonly options: OptionValues<typeof sidecarOptions>;
}

interface PortAddress {
  readonly host: string;
  readonly port: number;
}

/** One of the N, whichever process fills it now. */
interface Seat {
  readonly worker: number;
  /** Undefined between the end of one process and the start of the next. */
  process: WorkerProcess | undefined;
  failures: number;
  /** What its process counted when it was asked last. */
  counted: readonly FamilyView[];
  readonly requests: Counter;
}

/** A scrape waits this long for a worker. */
const answerMs = 1_000;
/** Between the end of the time that a worker has and its end. */
const marginMs = 1_000;
const stopMs = 2_000;
/** Somebody else may take a port between its claim and the first worker's listening. */
const startsMax = 3;

/**
 * A sidecar's traffic in several processes on the same ports: each has an engine of its own and is told identity, state and
 * the end by this one, which carries no byte of it. One that ends is replaced, and the others go on.
 */
export class Workers implements DataPlane {
  readonly healthy: Published<boolean>;
  readonly #context: ProxyContext;
  readonly #use: WorkersUse;
  readonly #health: RouteeHealth | undefined;
  readonly #seats: readonly Seat[];
  readonly #restarts: Counter;
  readonly #silent: Counter;
  readonly #faults: Faults;
  #settings: ProxySettings | undefined;
  #claims: ClaimedPort[] = [];
  #ports = { inboundPort: 0, outboundPort: 0 };
  /** What processes that are gone had counted. */
  #departed: readonly FamilyView[] = [];
  #rendering: Promise<string> | undefined;
  #cancels = new Set<() => void>();
  #ending = false;

  constructor(context: ProxyContext, use: WorkersUse) {
    this.#context = context;
    this.#use = use;
    const { clock, log, metrics, options, routee } = context;
    this.#faults = new Faults({ clock, log, metrics });
    const requests = metrics.counter({
      name: "hauberk_worker_requests_total",
      help: "Requests by worker process: how evenly connections are spread.",
      labels: ["worker"],
    });
    this.#restarts = metrics
      .counter({ name: "hauberk_worker_restarts_total", help: "Worker processes that ended and were replaced." })
      .with();
    this.#silent = metrics
      .counter({
        name: "hauberk_worker_silences_total",
        help: "Times that a worker process did not say in time what it counted; its gauges are missing then.",
      })
      .with();
    const running = metrics.gauge({ name: "hauberk_workers", help: "Worker processes that run now." }).with();
    metrics.collect(() => running.set(this.running));
    this.#seats = Array.from({ length: use.count }, (_, index) => ({
      worker: index + 1,
      process: undefined,
      failures: 0,
      counted: [],
      requests: requests.with(String(index + 1)),
    }));
    const { host, ports, healthPath } = routee;
    if (ports.length > 0) {
      const { healthTimeoutMs: timeoutMs } = options.proxy;
      const check = routeeCheck({ host, ports, path: healthPath }, { clock, timeoutMs, http2: options.http2 });
      this.#health = new RouteeHealth({ clock, log, options: options.proxy, check });
    }
    this.healthy = this.#health?.healthy ?? new Published(true);
  }

  get inboundPort(): number {
    return this.#ports.inboundPort;
  }

  get outboundPort(): number {
    return this.#ports.outboundPort;
  }

  /** Worker processes that live now. */
  get running(): number {
    return this.#seats.filter(({ process }) => process !== undefined).length;
  }

  async start(): Promise<void> {
    await requireSharedPorts(this.#use.count);
    const [first, ...others] = this.#seats as [Seat, ...Seat[]];
    try {
      this.#ports = await this.#startFirst(first);
      await Promise.all(others.map((seat) => this.#open(seat).listening));
    } catch (thrown) {
      await this.stop();
      throw thrown;
    }
    const { identity } = this.#context;
    this.#cancels.add(identity.subscribe((next) => this.#everyone((process) => process.identify(next))));
    this.#cancels.add(this.#use.entries.subscribe((next) => this.#everyone((process) => process.follow(next))));
    this.#everyone((process) => {
      process.identify(identity.read());
      process.follow(this.#use.entries.read());
    });
    for (const seat of this.#seats) if (seat.process !== undefined) this.#keepFilled(seat, seat.process);
    this.#health?.start();
  }

  async drain(withinMs: number): Promise<void> {
    this.#end();
    await Promise.all(this.#living().map(({ process }) => process.drain(withinMs, marginMs)));
  }

  async stop(): Promise<void> {
    this.#end();
    await Promise.all(this.#living().map(({ process }) => process.stop(stopMs)));
    for (const claim of this.#claims.splice(0)) claim.release();
  }

  async describe(): Promise<object> {
    const workers = await Promise.all(
      this.#living().map(async ({ worker, process }) => ({
        worker,
        pid: process.pid,
        description: await process.describe(answerMs),
      })),
    );
    return { ...this.#ports, healthy: this.healthy.read(), ...mergeDescriptions(workers) };
  }

  /** The metrics of this process and of every worker, as one: whoever asks meanwhile gets the same answer. */
  renderPrometheus(): Promise<string> {
    this.#rendering ??= this.#render().finally(() => {
      this.#rendering = undefined;
    });
    return this.#rendering;
  }

  async #render(): Promise<string> {
    const views = await Promise.all(this.#living().map((seat) => this.#measure(seat, seat.process)));
    return renderFamilies(mergeFamilies([this.#context.metrics.view(), this.#departed, ...views]));
  }

  /** No count may go down: a worker that does not answer keeps what it had counted before. */
  async #measure(seat: Seat, process: WorkerProcess): Promise<readonly FamilyView[]> {
    const families = await process.measure(answerMs);
    if (seat.process !== process) return []; // It ended meanwhile; what it had counted is among the departed.
    if (families === undefined) {
      this.#silent.add();
      return countsOf(seat.counted);
    }
    seat.requests.add(Math.max(0, totalOf(families, requestsTotal) - totalOf(seat.counted, requestsTotal)));
    seat.counted = families;
    return families;
  }

  // Starting.

  async #startFirst(seat: Seat): Promise<{ inboundPort: number; outboundPort: number }> {
    for (let starts = 1; ; starts++) {
      this.#settings = await this.#claimPorts();
      const process = this.#open(seat);
      try {
        return await process.listening;
      } catch (thrown) {
        const taken = thrown instanceof HauberkError && thrown.code === "PORT_TAKEN";
        if (!taken || starts >= startsMax) throw thrown;
        await process.stop(stopMs);
        for (const claim of this.#claims.splice(0)) claim.release();
      }
    }
  }

  /** The sidecar chooses the ports, so that they are the same for all. */
  async #claimPorts(): Promise<ProxySettings> {
    const { inbound, outbound, to, options } = this.#context;
    const claim = async (wanted: { host: string; port: number; orFree?: boolean }): Promise<PortAddress> => {
      const claimed = await claimPort(wanted);
      this.#claims.push(claimed);
      return { host: wanted.host, port: claimed.port };
    };
    const claimPlain = (address: PlainAddress): PlainAddress | Promise<PlainAddress> =>
      "path" in address ? address : claim(address);
    return {
      ...this.#context,
      ...nothingOfOurs,
      inbound: inbound === undefined ? undefined : await claim(inbound),
      outbound: outbound === undefined ? undefined : { ...outbound, address: await claimPlain(outbound.address) },
      to: await inOrder(to, async (one) => ({ ...one, address: await claimPlain(one.address) })),
      options: shareOf(options, this.#use.count),
    };
  }

  #open(seat: Seat): WorkerProcess {
    const { clock, log, ask, identity } = this.#context;
    const { worker } = seat;
    const { accessLog, logLevel, entries, options } = this.#use;
    const proxy = this.#settings as ProxySettings;
    // A Unix socket cannot be shared: the first worker serves it.
    const to = worker === 1 ? proxy.to : proxy.to.filter(({ address }) => !("path" in address));
    const settings = { worker, accessLog, logLevel, proxy: { ...proxy, to } };
    const process = new WorkerProcess(
      this.#spawn(),
      { settings, identity: identity.read(), entries: entries.read() },
      { clock, log, ask, silenceMs: options.workerSilenceMs, onFault: this.#faults.task },
    );
    seat.process = process;
    seat.counted = [];
    return process;
  }

  /** Node throws where the system is out of memory: one that could not be started is one that ended, and is tried again. */
  #spawn(): Spawned {
    try {
      return this.#use.spawn();
    } catch (thrown) {
      const stream = new PassThrough().destroy();
      return { pid: 0, stream, exited: Promise.resolve(messageOf(thrown)), kill: () => undefined };
    }
  }

  // Replacing.

  #keepFilled(seat: Seat, process: WorkerProcess): void {
    const beganMs = this.#context.clock.monotonicMs();
    process.exited.then((how) => this.#ended(seat, { process, how, beganMs })).catch(this.#faults.task);
  }

  #ended(seat: Seat, gone: { process: WorkerProcess; how: string; beganMs: number }): void {
    if (seat.process !== gone.process) return;
    seat.process = undefined;
    this.#departed = addDeparted(this.#departed, seat.counted);
    seat.counted = [];
    if (this.#ending) return;
    const { clock, log, random } = this.#context;
    const { workerRestartMinMs: baseMs, workerRestartMaxMs: maxMs } = this.#use.options;
    const livedMs = clock.monotonicMs() - gone.beganMs;
    seat.failures = livedMs > maxMs ? 1 : seat.failures + 1;
    const againInMs = backoffMs({ attempt: seat.failures, draw: random.draw(), baseMs, maxMs });
    log.error("a worker ended; the others go on, and another takes its place", {
      worker: seat.worker,
      workerPid: gone.process.pid,
      how: gone.how,
      againInMs: Math.round(againInMs),
    });
    const cancel = clock.after(againInMs, () => {
      this.#cancels.delete(cancel);
      this.#replace(seat);
    });
    this.#cancels.add(cancel);
  }

  #replace(seat: Seat): void {
    this.#restarts.add();
    const { log } = this.#context;
    const process = this.#open(seat);
    this.#keepFilled(seat, process);
    process.listening
      .then(
        () => log.info("a worker was replaced", { worker: seat.worker, workerPid: process.pid }),
        (thrown: unknown) => {
          log.error("a worker cannot take its place", { worker: seat.worker, because: messageOf(thrown) });
          return process.stop(stopMs);
        },
      )
      .catch(this.#faults.task);
  }

  #end(): void {
    this.#ending = true;
    this.#health?.stop();
    for (const cancel of this.#cancels) cancel();
    this.#cancels.clear();
  }

  #everyone(task: (process: WorkerProcess) => void): void {
    for (const { process } of this.#living()) {
      try {
        task(process);
      } catch (thrown) {
        // It does not know now who may call whom.
        this.#faults.task(thrown);
        process.stop(stopMs).catch(this.#faults.task);
      }
    }
  }

  #living(): (Seat & { process: WorkerProcess })[] {
    return this.#seats.filter((seat): seat is Seat & { process: WorkerProcess } => seat.process !== undefined);
  }
}

/** JSON leaves out what is undefined: of a proxy's context a worker gets what is plain data. */
const nothingOfOurs = {
  identity: undefined,
  snapshot: undefined,
  ask: undefined,
  clock: undefined,
  random: undefined,
  log: undefined,
  metrics: undefined,
  access: undefined,
  dial: undefined,
  shared: undefined,
} satisfies Record<NotPlain, undefined>;

const requestsTotal = "hauberk_requests_total";

/** One after the other: each claims a port. */
async function inOrder<T, R>(items: readonly T[], make: (item: T) => Promise<R>): Promise<R[]> {
  const made: R[] = [];
  for (const item of items) made.push(await make(item));
  return made;
}
