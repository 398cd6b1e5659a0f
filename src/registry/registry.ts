import { type Clock, repeat } from "../base/clock.ts";
import { isRefusal, messageOf, refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import { type ServiceName, serviceKey } from "../base/spiffe-id.ts";
import { limits } from "../contract/limits.ts";
import { readUp } from "../contract/read-watch.ts";
import type { Endpoint, Registration } from "../contract/watch.ts";
import type { RegistrationRow } from "../storage/rows.ts";
import type { Store } from "../storage/store.ts";
import type { Logger } from "../telemetry/logger.ts";
import { type Hold, holdAfterLoss, holdAfterStart, lapse, type Lease } from "./leases.ts";
import { isLoopback } from "./machine.ts";
import type { registryOptions } from "./options.ts";

/** The registry: who offers which service where, kept in memory, written through to the store. */
export interface RegistryContext {
  readonly store: Store;
  readonly clock: Clock;
  readonly log: Logger;
  readonly options: OptionValues<typeof registryOptions>;
}

/** Who registers, from its SVID and the store, and from which machine. */
export interface Registrant {
  readonly instance: string;
  readonly name: ServiceName;
  /** By `machineOf`. */
  readonly machine: string;
}

/** One registration with what the registry knows about its lease. */
export interface Entry extends Lease {
  readonly name: ServiceName;
  readonly machine: string;
  readonly registration: Registration;
  /** What it adds to the list that callers are told, as JSON. */
  readonly bytes: number;
}

/** What the store keeps as a registration: also from which machine it came, so that it counts after a restart. */
interface StoredRegistration extends Registration {
  readonly from: string;
}

export class Registry {
  readonly #context: RegistryContext;
  readonly #services = new Map<string, Map<string, Entry>>();
  /** By service: the sum of its entries'. */
  readonly #bytes = new Map<string, number>();
  /** By instance: the service where its registration is. */
  readonly #keys = new Map<string, string>();
  readonly #connected = new Set<string>();
  readonly #work = new Map<string, Promise<unknown>>();
  readonly #unsaved = new Set<string>();
  /** Instances whose stream was lost within the last grace period, with when, oldest first. */
  readonly #lost = new Map<string, number>();
  readonly #listeners = new Set<(service: string) => void>();
  readonly #stopSweep: () => void;
  /** How many registrations have a running clock. */
  #waiting = 0;
  #hold: Hold;

  /** Loads what the store has; every lease begins anew, and none ends within the reconnect window. */
  static async open(context: RegistryContext): Promise<Registry> {
    return new Registry(context, await context.store.registrations());
  }

  private constructor(context: RegistryContext, rows: readonly RegistrationRow[]) {
    this.#context = context;
    const atMs = context.clock.monotonicMs();
    this.#hold = holdAfterStart(atMs, context.options);
    for (const row of rows) {
      const registration = readStored(row);
      if (registration === undefined) {
        context.log.warn("A stored registration cannot be read and is left out", { instance: row.instance });
        continue;
      }
      const { from, ...rest } = registration;
      this.#put({
        instance: row.instance,
        name: { service: row.service, namespace: row.namespace },
        machine: from,
        registration: rest,
        bytes: bytesOf(row.instance, rest),
        connected: false,
        endsAtMs: atMs + context.options.graceMs,
        offered: !rest.draining,
        stale: row.stale,
      });
    }
    this.#stopSweep = repeat(context.clock, context.options.sweepEveryMs, () => this.#sweep());
  }

  /** Calls `listener` with "orders.default" whenever its endpoints changed; returns its cancel. */
  onChange(listener: (service: string) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** The instance has a stream, whether it offers something or not. Opening a second before the first ends is one stream. */
  streamOpened(instance: string): void {
    this.#connected.add(instance);
    const entry = this.#entry(instance);
    if (entry !== undefined) this.#put({ ...entry, connected: true });
  }

  /** The instance's last stream ended. `deliberate`: it said so, or was told to; such an end says nothing about the network. */
  streamEnded(instance: string, how: { readonly deliberate: boolean }): void {
    if (!this.#connected.delete(instance)) return;
    const { clock, options } = this.#context;
    const atMs = clock.monotonicMs();
    const heldBefore = this.#hold.heldUntilMs;
    if (!how.deliberate && this.#isNewLoss(instance, atMs))
      this.#hold = holdAfterLoss(this.#hold, { atMs, streamsLeft: this.#connected.size }, options);
    if (this.#hold.heldUntilMs > heldBefore && heldBefore <= atMs) {
      this.#context.log.warn("Many streams ended at once: no lease ends until all had time to come back", {
        streamsLeft: this.#connected.size,
        windowMs: options.reconnectWindowMs,
      });
    }
    const entry = this.#entry(instance);
    if (entry !== undefined) this.#put({ ...entry, connected: false, endsAtMs: atMs + options.graceMs });
  }

  /** A sidecar that comes and goes, because its program ends again and again, is one loss and no network that is cut. */
  #isNewLoss(instance: string, atMs: number): boolean {
    for (const [lost, sinceMs] of this.#lost) {
      if (sinceMs > atMs - this.#context.options.graceMs) break;
      this.#lost.delete(lost);
    }
    if (this.#lost.has(instance)) return false;
    this.#lost.set(instance, atMs);
    return true;
  }

  /**
   * What the instance offers from now on; null deregisters it. Resolves when the store has it and subscribers were told.
   * A store that fails does not keep an endpoint from its callers: it is written later.
   * LIMIT_ENDPOINTS where the service would have more than its callers take: then what the instance offered before stays.
   */
  offer(who: Registrant, registration: Registration | null): Promise<Refusal | undefined> {
    return this.#inTurn(who.instance, () =>
      registration === null ? this.#leave(who.instance) : this.#offer(who, registration),
    );
  }

  /** Takes the instance's registration away, whatever its lease: it was locked, or has ended. */
  async remove(instance: string): Promise<void> {
    await this.#inTurn(instance, () => this.#leave(instance));
  }

  /** What subscribers on `machine` are told: neither draining ones nor others' loopback addresses. In the order of instances. */
  endpointsFor(service: string, machine: string): readonly Endpoint[] {
    const endpoints: Endpoint[] = [];
    for (const entry of this.#services.get(service)?.values() ?? []) {
      const { address, port, ports, healthy } = entry.registration;
      if (!entry.offered || (isLoopback(address) && entry.machine !== machine)) continue;
      endpoints.push({ instance: entry.instance, address, port, ports, healthy, stale: entry.stale });
    }
    return endpoints.sort((a, b) => (a.instance < b.instance ? -1 : 1));
  }

  /** Whether the answer of `endpointsFor` depends on the machine. */
  hasLoopback(service: string): boolean {
    for (const entry of this.#services.get(service)?.values() ?? [])
      if (isLoopback(entry.registration.address)) return true;
    return false;
  }

  /** Everything, for people. */
  list(): readonly Entry[] {
    return [...this.#services.values()].flatMap((entries) => [...entries.values()]);
  }

  /** Stops the clock; the store keeps the registrations. */
  async close(): Promise<void> {
    this.#stopSweep();
    await Promise.all(this.#work.values());
  }

  async #offer(who: Registrant, registration: Registration): Promise<Refusal | undefined> {
    const service = serviceKey(who.name);
    const before = this.#entry(who.instance);
    const bytes = bytesOf(who.instance, registration);
    const refusal = this.#tooMuch(service, who.instance, bytes);
    if (refusal !== undefined) return refusal;
    const entry: Entry = {
      instance: who.instance,
      name: who.name,
      machine: who.machine,
      registration,
      bytes,
      connected: this.#connected.has(who.instance),
      endsAtMs: this.#context.clock.monotonicMs() + this.#context.options.graceMs,
      offered: !registration.draining,
      stale: false,
    };
    const changed = before === undefined || told(before) !== told(entry);
    // Before the store has it: whoever of the service comes meanwhile is counted behind this one.
    this.#put(entry);
    if (!changed) return undefined;
    await this.#save(entry);
    this.#changed(service);
    return undefined;
  }

  /** A list that callers refuse would keep everything else from them too, a policy that denies included. */
  #tooMuch(service: string, instance: string, bytes: number): Refusal | undefined {
    const entries = this.#services.get(service);
    const before = entries?.get(instance);
    const count = (entries?.size ?? 0) - (before === undefined ? 0 : 1);
    const { endpointsMax } = this.#context.options;
    const others = (this.#bytes.get(service) ?? 0) - (before?.bytes ?? 0);
    // One that fits already may say what it wants of the same size: that it leaves, for one.
    if (before !== undefined && bytes <= before.bytes) return undefined;
    if (count < endpointsMax && others + bytes <= limits.endpointBytesMax) return undefined;
    return refuse(
      "LIMIT_ENDPOINTS",
      `Cannot register an endpoint of "${service}": it has ${count} in ${others} bytes already, at most ${endpointsMax} in ${limits.endpointBytesMax} bytes were wanted`,
      "End instances that are not needed, or split the service",
    );
  }

  async #leave(instance: string): Promise<undefined> {
    const entry = this.#entry(instance);
    if (entry === undefined) return;
    await this.#save(instance);
    this.#drop(instance);
    this.#changed(serviceKey(entry.name));
  }

  /** Writes an entry, or that there is none. */
  async #save(what: Entry | string): Promise<void> {
    const instance = typeof what === "string" ? what : what.instance;
    try {
      await this.#context.store.write((tx) =>
        typeof what === "string" ? tx.removeRegistration(what) : tx.putRegistration(this.#row(what)),
      );
      this.#unsaved.delete(instance);
    } catch (thrown) {
      this.#unsaved.add(instance);
      this.#context.log.error("A registration cannot be stored now; it counts, and is stored later", {
        instance,
        because: messageOf(thrown),
      });
    }
  }

  #row(entry: Entry): RegistrationRow {
    const registration: StoredRegistration = { ...entry.registration, from: entry.machine };
    return {
      instance: entry.instance,
      service: entry.name.service,
      namespace: entry.name.namespace,
      registration,
      stale: entry.stale,
      changedAtMs: this.#context.clock.wallMs(),
    };
  }

  #sweep(): void {
    for (const instance of this.#unsaved) {
      // Where the store takes its time, one attempt waits for it, and not one for each sweep.
      if (!this.#work.has(instance)) void this.#inTurn(instance, () => this.#save(this.#entry(instance) ?? instance));
    }
    const now = { atMs: this.#context.clock.monotonicMs(), heldUntilMs: this.#hold.heldUntilMs };
    if (this.#waiting === 0 || now.atMs < now.heldUntilMs) return;
    for (const entries of this.#services.values()) {
      const { ended, stale } = lapse([...entries.values()], now);
      for (const instance of ended) void this.#inTurn(instance, () => this.#lapsed(instance));
      for (const instance of stale) void this.#inTurn(instance, () => this.#kept(instance));
    }
  }

  /** Decided again in its turn: the sidecar may have come back meanwhile. */
  async #lapsed(instance: string): Promise<void> {
    const entry = this.#entry(instance);
    if (entry === undefined || !this.#lapse(entry).ended.includes(instance)) return;
    this.#context.log.info("An endpoint's lease ended", { instance, service: serviceKey(entry.name) });
    await this.#leave(instance);
  }

  async #kept(instance: string): Promise<void> {
    const entry = this.#entry(instance);
    if (entry === undefined || !this.#lapse(entry).stale.includes(instance)) return;
    const stale: Entry = { ...entry, stale: true };
    this.#context.log.warn("A service's last endpoint is kept although its lease ended", {
      instance,
      service: serviceKey(entry.name),
    });
    this.#put(stale);
    await this.#save(stale);
    this.#changed(serviceKey(entry.name));
  }

  #lapse(entry: Entry): ReturnType<typeof lapse> {
    const leases = [...(this.#services.get(serviceKey(entry.name))?.values() ?? [])];
    return lapse(leases, { atMs: this.#context.clock.monotonicMs(), heldUntilMs: this.#hold.heldUntilMs });
  }

  /** One change of an instance after the other. */
  #inTurn<T>(instance: string, work: () => Promise<T>): Promise<T | undefined> {
    const next = (this.#work.get(instance) ?? Promise.resolve()).then(work).catch((thrown: unknown) => {
      this.#context.log.error("A registration cannot be changed", { instance, because: messageOf(thrown) });
      return undefined;
    });
    this.#work.set(instance, next);
    return next.then((answer) => {
      if (this.#work.get(instance) === next) this.#work.delete(instance);
      return answer;
    });
  }

  #changed(service: string): void {
    for (const listener of this.#listeners) listener(service);
  }

  #entry(instance: string): Entry | undefined {
    const service = this.#keys.get(instance);
    return service === undefined ? undefined : this.#services.get(service)?.get(instance);
  }

  #put(entry: Entry): void {
    this.#drop(entry.instance);
    const service = serviceKey(entry.name);
    let entries = this.#services.get(service);
    if (entries === undefined) this.#services.set(service, (entries = new Map<string, Entry>()));
    entries.set(entry.instance, entry);
    this.#bytes.set(service, (this.#bytes.get(service) ?? 0) + entry.bytes);
    this.#keys.set(entry.instance, service);
    if (!entry.connected) this.#waiting++;
  }

  #drop(instance: string): void {
    const service = this.#keys.get(instance);
    if (service === undefined) return;
    const entries = this.#services.get(service);
    const entry = entries?.get(instance);
    if (entry?.connected === false) this.#waiting--;
    this.#bytes.set(service, (this.#bytes.get(service) ?? 0) - (entry?.bytes ?? 0));
    entries?.delete(instance);
    if (entries?.size === 0) {
      this.#services.delete(service);
      this.#bytes.delete(service);
    }
    this.#keys.delete(instance);
  }
}

/** What of an entry is stored and told: the same text, no change. */
function told(entry: Entry): string {
  const { address, port, ports, healthy, draining } = entry.registration;
  const offers = ports.map(({ name, port, protocol }) => [name, port, protocol]);
  return JSON.stringify([entry.name, entry.machine, address, port, offers, healthy, draining, entry.stale]);
}

/** As `endpointsFor` tells it, with the comma; whether it is well or stale changes nothing that counts. */
function bytesOf(instance: string, { address, port, ports }: Registration): number {
  return JSON.stringify({ instance, address, port, ports, healthy: false, stale: false } satisfies Endpoint).length + 1;
}

/** The store is our own, but a row of another release, or an edited one, must not end the process. */
function readStored(row: RegistrationRow): StoredRegistration | undefined {
  const { from, ...registration } = row.registration as StoredRegistration;
  const read = readUp(JSON.stringify({ type: "register", registration }));
  if (isRefusal(read) || read.type !== "register" || read.registration === null) return undefined;
  return { ...read.registration, from: typeof from === "string" ? from : "unknown" };
}
