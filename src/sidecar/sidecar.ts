import { join } from "node:path";
import { repeat, type Clock } from "../base/clock.ts";
import { HauberkError, isRefusal, messageOf, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import { Published } from "../base/published.ts";
import type { Random } from "../base/random.ts";
import { serviceKey, type ServiceName } from "../base/spiffe-id.ts";
import type { BundleView, Registration, RouteePort } from "../contract/watch.ts";
import { holdProcess } from "../identity/hold-process.ts";
import type { identityOptions } from "../identity/options.ts";
import { StateFolder } from "../identity/state-folder.ts";
import type { TokenAtHand } from "../identity/token-beside.ts";
import { WorkloadIdentity } from "../identity/workload-identity.ts";
import { Proxy, type ProxyContext, type ProxyOptions } from "../proxy/proxy.ts";
import { buildSnapshot, emptySnapshot, type Snapshot } from "../proxy/snapshot.ts";
import { AccessLog } from "../telemetry/access-log.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Faults } from "../telemetry/faults.ts";
import { type Metrics, prometheusContentType } from "../telemetry/metrics.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { listenAdmin } from "./admin-server.ts";
import type { DataPlane } from "./data-plane.ts";
import { exposedPort, networkAddresses } from "./exposure.ts";
import type { sidecarOptions } from "./options.ts";
import { keepPorts, readPorts, type RememberedPorts } from "./port-memory.ts";
import { SnapshotFile } from "./snapshot-file.ts";
import type { SidecarStatus } from "./status.ts";
import { trimAfterStart, type Memory } from "./trim.ts";
import { WatchClient } from "./watch-client.ts";
import type { WatchState } from "./watch-state.ts";
import type { Workers, WorkersWanted } from "./workers.ts";

/** The workload's program beside it: identity, discovery and proxy together. */
export interface SidecarContext {
  readonly service: ServiceName;
  /** What its owner calls this instance. */
  readonly name: string;
  readonly stateFolder: string;
  readonly tokenSource: () => Promise<string | undefined>;
  /** The same one, looked at without taking it. */
  readonly tokenAtHand?: (() => TokenAtHand | undefined) | undefined;
  /** What of the program may be called; none for a pure client. */
  readonly ports: readonly RouteePort[];
  readonly healthPath: string | undefined;
  /** Undefined: the local address of the connection to the control plane. */
  readonly advertise: string | undefined;
  readonly inbound: { readonly host: string; readonly port: number | undefined };
  readonly outboundPort: number | undefined;
  /** Guards the outbound listener; undefined leaves it open to every local user. */
  readonly secret: string | undefined;
  readonly to: readonly {
    readonly service: ServiceName;
    /** The routee's port; undefined for the first one that the service registered. */
    readonly port?: number | undefined;
    readonly at: number | string;
  }[];
  /** Sites whose pages may call through the ports of `to`. */
  readonly allowOrigins: readonly string[];
  readonly egress: readonly string[];
  readonly adminSocket: string | undefined;
  readonly allowExposed: readonly number[];
  /** Where the access log goes; undefined for none. */
  readonly accessLine: ((line: string) => void) | undefined;
  /** Processes that carry the traffic; undefined: this one does. */
  readonly workers?: WorkersWanted | undefined;
  readonly release: string;
  readonly pid: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly memory: Memory;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly faults: Faults;
  /** Aborted by whoever ends the process, in this very turn, before `start` has resolved. */
  readonly givenUp?: AbortSignal | undefined;
  readonly options: ProxyOptions & {
    readonly sidecar: OptionValues<typeof sidecarOptions>;
    readonly identity: OptionValues<typeof identityOptions>;
  };
}

const inboundPortDefault = 15_443;
const outboundPortDefault = 15_001;
const routeeHost = "127.0.0.1";

export class Sidecar {
  /** Settles with the reason when the sidecar must not go on: its program can be called around it. */
  readonly refused: Promise<Refusal>;
  readonly #context: SidecarContext;
  readonly #folder: StateFolder;
  readonly #identity: WorkloadIdentity;
  readonly #metrics: Metrics;
  readonly #file: SnapshotFile;
  readonly #snapshot: Published<Snapshot>;
  readonly #watch: WatchClient;
  readonly #proxy: DataPlane;
  readonly #workers: Workers | undefined;
  readonly #version: { now: WatchState["version"] };
  /** What the snapshot was built from, for whoever builds one too. */
  readonly #entries: Published<WatchState["entries"]>;
  #admin: { close(): Promise<void> } | undefined;
  #refuse: (refusal: Refusal) => void = () => undefined;
  #cancels: (() => void)[] = [];
  /** Ports that were seen not to answer on the network, or were allowed to. */
  #vetted = false;
  #vetting = false;
  #leaving = false;

  /**
   * Enrolls or comes back, opens every listener, and registers when the program is well.
   * @throws HauberkError STATE_LOCKED, TOKEN_NEEDED, PORT_TAKEN, or the control plane's refusal.
   */
  static async start(context: SidecarContext): Promise<Sidecar> {
    const folder = await StateFolder.open(context.stateFolder, context);
    const abandon = (): void => folder.abandonNow();
    context.givenUp?.addEventListener("abort", abandon);
    let identity: WorkloadIdentity | undefined;
    try {
      const { metrics } = context;
      identity = await WorkloadIdentity.open({
        stateFolder: folder,
        tokenSource: context.tokenSource,
        tokenAtHand: context.tokenAtHand,
        clock: context.clock,
        random: context.random,
        log: context.log.child({ room: "identity" }),
        options: context.options.identity,
        expect: context.service,
        metrics,
      });
      identity.start();
      const trustDomain = await trustDomainOf(identity, context.log);
      const file = new SnapshotFile({
        folder,
        clock: context.clock,
        log: context.log,
        writeMs: context.options.sidecar.snapshotWriteMs,
      });
      const initial = await usable(await file.read(), file);
      const ports = await readPorts(folder);
      // One process pays nothing for what several need.
      const workers = context.workers === undefined ? undefined : (await import("./workers.ts")).Workers;
      const sidecar = new Sidecar(context, { folder, metrics, identity, trustDomain, file, initial, ports, workers });
      await sidecar.#open();
      return sidecar;
    } catch (thrown) {
      // A renewal may be under way: it must not write to a folder that another process has locked by then.
      await identity?.stop();
      await folder.abandon();
      throw thrown;
    } finally {
      context.givenUp?.removeEventListener("abort", abandon);
    }
  }

  private constructor(
    context: SidecarContext,
    made: {
      folder: StateFolder;
      metrics: Metrics;
      identity: WorkloadIdentity;
      trustDomain: string;
      file: SnapshotFile;
      initial: { state: WatchState; snapshot: Snapshot };
      ports: RememberedPorts;
      workers: typeof Workers | undefined;
    },
  ) {
    this.#context = context;
    this.#folder = made.folder;
    this.#metrics = made.metrics;
    this.#identity = made.identity;
    this.#file = made.file;
    this.#snapshot = new Published(made.initial.snapshot);
    this.#version = { now: made.initial.state.version };
    this.#entries = new Published(made.initial.state.entries);
    this.refused = new Promise((resolve) => {
      this.#refuse = resolve;
    });
    this.#watch = new WatchClient({
      open: async (identity, events) => made.identity.openWatch(identity, events),
      identity: made.identity.current,
      clock: context.clock,
      random: context.random,
      log: context.log.child({ room: "watch" }),
      options: context.options.sidecar,
      release: context.release,
      name: context.name,
      workers: context.workers?.count ?? 1,
      initial: made.initial.state,
      accept: (state) => this.#accept(state),
      onFault: context.faults.task,
    });
    const proxy = this.#proxyContext(made.trustDomain, made.ports);
    this.#workers =
      made.workers === undefined || context.workers === undefined
        ? undefined
        : new made.workers(proxy, {
            ...context.workers,
            entries: this.#entries,
            accessLog: context.accessLine !== undefined,
            options: context.options.sidecar,
          });
    this.#proxy = this.#workers ?? new Proxy(proxy);
    this.#measure();
  }

  get inboundPort(): number | undefined {
    return this.#context.ports.length === 0 ? undefined : this.#proxy.inboundPort;
  }

  get outboundPort(): number {
    return this.#proxy.outboundPort;
  }

  get instance(): string {
    return this.#identity.instance;
  }

  get adminSocket(): string {
    return this.#context.adminSocket ?? join(this.#context.stateFolder, "admin.sock");
  }

  status(): SidecarStatus {
    const { context, identity } = { context: this.#context, identity: this.#identity.current.read() };
    return {
      release: context.release,
      pid: context.pid,
      workers: { wanted: context.workers?.count ?? 1, running: this.#workers?.running ?? 1 },
      service: serviceKey(context.service),
      instance: this.instance,
      id: identity?.id.text ?? null,
      issuedAtMs: identity?.issuedAtMs ?? null,
      notAfterMs: identity?.notAfterMs ?? null,
      connected: this.#watch.connected.read(),
      trouble: this.#watch.trouble ?? null,
      version: this.#version.now ?? null,
      inboundPort: this.inboundPort ?? null,
      outboundPort: this.outboundPort,
      openDoors: this.#openDoors(),
      exposedPorts: context.allowExposed,
      ports: context.ports,
      healthy: this.#proxy.healthy.read(),
    };
  }

  /** Asks others to call elsewhere from now on; what comes nevertheless is served. */
  async leave(): Promise<void> {
    if (this.#leaving) return;
    this.#leaving = true;
    this.#register();
    if (!this.#watch.connected.read() || this.#context.ports.length === 0) return;
    // The word has to travel: to the control plane, and from there to the callers.
    await new Promise<void>((resolve) => void this.#context.clock.after(leaveMs, resolve));
  }

  /** Lets what is under way end, deregisters, and closes everything. */
  async stop(): Promise<void> {
    await this.leave();
    for (const cancel of this.#cancels.splice(0)) cancel();
    await this.#proxy.drain(this.#context.options.sidecar.drainMs);
    this.#watch.stop();
    await this.#proxy.stop();
    await this.#identity.stop();
    await this.#file.flush();
    await this.#admin?.close();
    await this.#folder.close();
  }

  async #open(): Promise<void> {
    const release = holdProcess();
    try {
      await this.#proxy.start();
      await this.#keepPorts();
      this.#cancels.push(
        this.#proxy.healthy.subscribe(() => this.#consider()),
        this.#watch.connected.subscribe(() => this.#consider()),
        repeat(this.#context.clock, vetAgainMs, () => {
          this.#vetted = false;
          this.#consider();
        }),
      );
      this.#watch.start();
      await this.#firstState();
      this.#admin = await listenAdmin(this.adminSocket, this.#adminRoutes());
      this.#cancels.push(trimAfterStart(this.#context.clock, this.#context.memory, this.#context.options.sidecar));
    } catch (thrown) {
      // What is open, and whoever was started, would keep a process alive that serves nobody.
      for (const cancel of this.#cancels.splice(0)) cancel();
      this.#watch.stop();
      await this.#proxy.stop();
      await this.#file.flush();
      throw thrown;
    } finally {
      release();
    }
  }

  #keepPorts(): Promise<void> {
    const { inboundPort: inbound, outboundPort: outbound } = this;
    return keepPorts(this.#folder, { outbound, ...(inbound === undefined ? {} : { inbound }) }, this.#context.log);
  }

  /**
   * Waits for the first word of the control plane. Without a snapshot nothing is known and everybody is refused; with one, a
   * program that runs for a second must not live by what was true yesterday. Nobody waits for one that does not answer.
   */
  #firstState(): Promise<void> {
    const { askMs, freshMs } = this.#context.options.sidecar;
    const known = this.#version.now !== undefined;
    return new Promise((resolve) => {
      const done = (): void => {
        cancelTimer();
        cancelWatch();
        resolve();
      };
      const cancelTimer = this.#context.clock.after(known ? freshMs : askMs, done);
      const cancelWatch = (known ? this.#watch.tried : this.#watch.connected).subscribe(done);
    });
  }

  /** Throws where the state cannot be used: the watch says so to the control plane, and the last good one stays. */
  #accept(state: WatchState): void {
    const snapshot = buildSnapshot(state.entries, this.#snapshot.read());
    if (snapshot.bundle !== undefined) {
      const adopted = this.#identity.adopt(snapshot.bundle satisfies BundleView);
      if (isRefusal(adopted)) throw HauberkError.from(adopted);
    }
    this.#version.now = state.version;
    this.#entries.publish(state.entries);
    this.#snapshot.publish(snapshot);
    this.#file.keep(state);
  }

  /** Whether to offer the program now; asks first whether it can be called around us. */
  #consider(): void {
    if (this.#leaving || this.#context.ports.length === 0) return;
    if (this.#vetted || !this.#proxy.healthy.read()) {
      this.#register();
      return;
    }
    if (this.#vetting) return;
    this.#vetting = true;
    this.#vet()
      .catch(this.#context.faults.task)
      .finally(() => {
        this.#vetting = false;
      });
  }

  async #vet(): Promise<void> {
    const { ports, allowExposed, clock } = this.#context;
    const probe = { clock, withinMs: 500, addresses: networkAddresses() };
    const refusal = await exposedPort(
      ports.map(({ port }) => port),
      allowExposed,
      probe,
    );
    if (refusal === undefined) {
      this.#vetted = true;
      this.#register();
      return;
    }
    this.#watch.register(null);
    // Said by whoever started this, who ends with it.
    this.#refuse(refusal);
  }

  #register(): void {
    const { ports, advertise } = this.#context;
    const address = advertise ?? this.#watch.localAddress;
    if (ports.length === 0 || address === undefined) return;
    const healthy = this.#proxy.healthy.read();
    // What was never well is not offered at all: nobody has looked whether it is exposed.
    if (!this.#vetted && !healthy && !this.#leaving) return;
    this.#watch.register({
      address: plain(address),
      port: this.#proxy.inboundPort,
      ports,
      healthy,
      draining: this.#leaving,
    } satisfies Registration);
  }

  #proxyContext(trustDomain: string, last: RememberedPorts): ProxyContext {
    const {
      service,
      clock,
      random,
      log,
      options,
      egress,
      ports,
      healthPath,
      inbound,
      outboundPort,
      secret,
      to,
      accessLine,
    } = this.#context;
    const { proxy, resilience, http1, http2, tls } = options;
    return {
      service,
      trustDomain,
      identity: this.#identity.current,
      snapshot: this.#snapshot,
      ask: (key) => this.#watch.ask(key),
      clock,
      random,
      log: log.child({ room: "proxy" }),
      metrics: this.#metrics,
      access: accessLine === undefined ? undefined : new AccessLog({ enabled: true, clock, sink: accessLine }),
      options: { proxy, resilience, http1, http2, tls },
      egress,
      routee: { host: routeeHost, ports, healthPath },
      inbound:
        ports.length === 0
          ? undefined
          : { host: inbound.host, ...portOr(inbound.port, last.inbound ?? inboundPortDefault) },
      outbound: {
        address: { host: "127.0.0.1", ...portOr(outboundPort, last.outbound ?? outboundPortDefault) },
        secret,
      },
      to: to.map(({ service: called, port, at }) => ({
        service: called,
        port,
        address: typeof at === "string" ? { path: at } : { host: "127.0.0.1", port: at },
        origins: this.#context.allowOrigins,
      })),
    };
  }

  #openDoors(): string[] {
    const doors = this.#context.secret === undefined ? [`127.0.0.1:${this.outboundPort} (outbound)`] : [];
    for (const { service, at } of this.#context.to)
      if (typeof at === "number") doors.push(`127.0.0.1:${at} (--to ${serviceKey(service)})`);
    return doors;
  }

  #measure(): void {
    const serials = this.#metrics.gauge({
      name: "hauberk_certificate_info",
      help: "1 for the certificate that is in use now, by its serial.",
      labels: ["serial"],
    });
    const connected = this.#metrics.gauge({
      name: "hauberk_control_connected",
      help: "Whether the watch to the control plane stands.",
    });
    const show = (now: TlsIdentity | undefined, before: TlsIdentity | undefined): void => {
      if (before !== undefined) serials.forget(before.chain[0]?.serial ?? "");
      if (now !== undefined) serials.with(now.chain[0]?.serial ?? "").set(1);
    };
    show(this.#identity.current.read(), undefined);
    this.#cancels.push(this.#identity.current.subscribe(show));
    this.#metrics.collect(() => connected.with().set(this.#watch.connected.read() ? 1 : 0));
  }

  #adminRoutes(): Parameters<typeof listenAdmin>[1] {
    const json = (value: unknown, status = 200): { status: number; type: string; body: string } => ({
      status,
      type: "application/json",
      body: `${JSON.stringify(value)}\n`,
    });
    return {
      "/health": () => json({ status: "ok" }),
      "/ready": () => {
        const ready = this.#identity.current.read() !== undefined && !this.#leaving;
        return json({ ready }, ready ? 200 : 503);
      },
      "/status": () => json(this.status()),
      "/metrics": async () => ({
        type: prometheusContentType,
        body: await (this.#workers ?? this.#metrics).renderPrometheus(),
      }),
      "/snapshot": async () => json({ version: this.#version.now ?? null, ...(await this.#proxy.describe()) }),
    };
  }
}

/** How long the word that this endpoint leaves may take to reach callers. */
const leaveMs = 250;
/** A program may be restarted with another address: whether it is exposed is looked at again and again. */
const vetAgainMs = 60_000;

/** One that expired while everything was off comes back by its recovery key: until then there is nothing to listen with. */
async function trustDomainOf(identity: WorkloadIdentity, log: Logger): Promise<string> {
  const now = identity.current.read();
  if (now !== undefined) return now.id.trustDomain;
  log.warn("there is no valid certificate yet; waiting for it", { next: new Date(identity.nextTryAtMs).toISOString() });
  const release = holdProcess();
  try {
    return (await identity.ready()).id.trustDomain;
  } finally {
    release();
  }
}

/** A snapshot that this release cannot compile is worth nothing; it is set aside like a damaged one. */
async function usable(state: WatchState, file: SnapshotFile): Promise<{ state: WatchState; snapshot: Snapshot }> {
  try {
    return { state, snapshot: buildSnapshot(state.entries) };
  } catch (thrown) {
    await file.refuse(messageOf(thrown));
    return { state: { version: undefined, entries: new Map() }, snapshot: emptySnapshot };
  }
}

function portOr(named: number | undefined, otherwise: number): { port: number; orFree: boolean } {
  return named === undefined ? { port: otherwise, orFree: true } : { port: named, orFree: false };
}

/** An IPv4 address that came over an IPv6 socket, as itself. */
function plain(address: string): string {
  return address.startsWith("::ffff:") ? address.slice("::ffff:".length) : address;
}
