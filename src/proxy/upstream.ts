import { refuse, type Refusal } from "../base/errors.ts";
import type { Random } from "../base/random.ts";
import type { Balancer, Candidate } from "../balancing/balancer.ts";
import { leastConnections } from "../balancing/least-connections.ts";
import { roundRobin } from "../balancing/round-robin.ts";
import type { Endpoint as EndpointView } from "../contract/watch.ts";
import { Breaker } from "../resilience/breaker.ts";
import { leftOut, noEjections, review, type Ejections } from "../resilience/ejection.ts";
import type { ResilienceLimits } from "../resilience/options.ts";
import { RetryBudget } from "../resilience/retry.ts";
import type { Counter } from "../telemetry/metrics.ts";
import type { Loss } from "../transport/exchange.ts";
import { inTurns } from "../transport/turns.ts";
import { Hop, type HopContext } from "./hop.ts";
import type { Service } from "./snapshot.ts";

export interface UpstreamContext extends HopContext {
  readonly random: Random;
  readonly resilience: ResilienceLimits;
}

/** One endpoint of a called service as its caller keeps it; all of it goes when the endpoint goes. */
export class Endpoint implements Candidate {
  readonly key: string;
  readonly weight = 1;
  /** Exchanges under way. */
  open = 0;
  readonly breaker: Breaker;
  readonly hop: Hop;
  readonly requests: Counter;
  view: EndpointView;
  #lastWhole: object | undefined;

  constructor(key: string, view: EndpointView, parts: { breaker: Breaker; hop: Hop; requests: Counter }) {
    this.key = key;
    this.view = view;
    this.breaker = parts.breaker;
    this.hop = parts.hop;
    this.requests = parts.requests;
  }

  /** Whether another exchange has told already that this connection was lost. */
  knows({ whole }: Loss): boolean {
    if (whole === undefined) return false;
    const known = whole === this.#lastWhole;
    this.#lastWhole = whole;
    return known;
  }
}

/** What a call asks of an endpoint. */
export interface Wanted {
  /** The routee's port; undefined for the service's own, which is HTTP. */
  readonly wantedPort: number | undefined;
  /** Whether it is a TCP connection: HTTP never goes to a port that was declared for TCP, nor the other way round. */
  readonly tcp: boolean;
}

const reviewEveryMs = 2_000;
/** Each may cost a signature or a few. */
const hopsPerTurn = 4;

/** The endpoints of one called service: who is there, who may be used now, who is next. */
export class Upstream {
  readonly service: string;
  readonly id: string;
  readonly budget: RetryBudget;
  readonly #context: UpstreamContext;
  readonly #balancer: Balancer;
  readonly #draw: () => number;
  #endpoints: readonly Endpoint[] = [];
  /** By declared routee port, 0 for calls without one, and negative for TCP. Emptied when the endpoints change. */
  #byPort = new Map<number, readonly Endpoint[]>();
  #view: readonly EndpointView[] | undefined;
  #ejections: Ejections = noEjections;
  #reviewAtMs = 0;
  /** Breakers that are not closed: while there are none, and nobody is ill, every endpoint is a candidate. */
  #tripped = 0;
  #ill = 0;

  constructor(context: UpstreamContext, service: Service) {
    this.#context = context;
    this.service = service.key;
    this.id = service.id;
    this.budget = new RetryBudget(context.resilience);
    this.#balancer = context.options.balancer === "least-connections" ? leastConnections() : roundRobin();
    this.#draw = () => context.random.draw();
    this.update(service);
  }

  get endpoints(): readonly Endpoint[] {
    return this.#endpoints;
  }

  /** Takes the endpoints of a newer snapshot: those that stay keep their connections and breakers. */
  update(service: Service): void {
    if (service.endpoints === this.#view) return;
    this.#view = service.endpoints;
    const before = new Map(this.#endpoints.map((endpoint) => [endpoint.key, endpoint]));
    this.#endpoints = service.endpoints.map((view) => {
      const key = `${view.instance} ${view.address} ${view.port}`;
      const known = before.get(key);
      before.delete(key);
      if (known === undefined) return this.#make(key, view);
      known.view = view;
      return known;
    });
    for (const gone of before.values()) this.#drop(gone);
    this.#byPort = new Map();
    this.#ill = this.#endpoints.filter((endpoint) => !endpoint.view.healthy).length;
    this.#tripped = this.#endpoints.filter((endpoint) => endpoint.breaker.state !== "closed").length;
  }

  /** The next endpoint for a call, not one of `tried` while there is another. */
  pick(wanted: Wanted, tried: readonly Endpoint[], nowMs: number): Endpoint | Refusal {
    const offered = this.#offering(wanted);
    if (offered.length === 0) return this.#none(wanted);
    if (nowMs >= this.#reviewAtMs) this.#review(nowMs);
    if (this.#tripped === 0 && this.#ill === 0 && tried.length === 0 && this.#ejections.size === 0) {
      return this.#balancer.pick(offered, this.#draw) as Endpoint;
    }
    return this.#pickCarefully(offered, tried, nowMs);
  }

  /** Everything is let go: the service left the snapshot, or is another one now. */
  end(): void {
    for (const endpoint of this.#endpoints) this.#drop(endpoint);
    this.#endpoints = [];
    this.#byPort = new Map();
    this.#context.meters.forgetService(this.service);
  }

  #pickCarefully(offered: readonly Endpoint[], tried: readonly Endpoint[], nowMs: number): Endpoint | Refusal {
    const healthy = offered.filter((endpoint) => endpoint.view.healthy);
    if (healthy.length === 0) {
      return refuse(
        "NO_HEALTHY_ENDPOINT",
        `Cannot call "${this.service}": none of its ${offered.length} endpoints is healthy`,
        "Look at the routee: its own sidecar says that it does not answer",
      );
    }
    const admitted = healthy.filter((endpoint) => endpoint.breaker.admits(nowMs));
    if (admitted.length === 0) {
      return refuse(
        "BREAKER_OPEN",
        `Cannot call "${this.service}": the breakers of its ${healthy.length} healthy endpoints are open after failures`,
        "Try again in some seconds; a probe closes a breaker when the endpoint answers again",
      );
    }
    // A probe is worth a request only now and then; but an endpoint whose time has come must get it, or it stays out.
    const due = admitted.find((endpoint) => endpoint.breaker.state !== "closed" && !tried.includes(endpoint));
    if (due !== undefined) return due;
    const out = leftOut(
      this.#ejections,
      admitted.map((endpoint) => endpoint.key),
      nowMs,
    );
    const stays = out.size === 0 ? admitted : admitted.filter((endpoint) => !out.has(endpoint.key));
    const fresh = stays.filter((endpoint) => !tried.includes(endpoint));
    const others = fresh.length > 0 ? fresh : admitted.filter((endpoint) => !tried.includes(endpoint));
    return this.#balancer.pick(others.length > 0 ? others : stays, this.#draw) as Endpoint;
  }

  #none({ wantedPort, tcp }: Wanted): Refusal {
    const because =
      this.#endpoints.length === 0 || wantedPort === undefined
        ? "no instance of it is registered"
        : `none of its instances offers port ${wantedPort} for ${tcp ? "TCP" : "HTTP"}`;
    return refuse(
      "NO_ENDPOINT",
      `Cannot call "${this.service}": ${because}`,
      `Start the service with its sidecar: hauberk run --service NAME --app ${tcp ? "tcp" : "http"}:PORT -- COMMAND; where one runs, hauberk check says what it lacks`,
    );
  }

  #offering({ wantedPort = 0, tcp }: Wanted): readonly Endpoint[] {
    const key = tcp ? -wantedPort : wantedPort;
    let offering = this.#byPort.get(key);
    if (offering !== undefined) return offering;
    offering = this.#endpoints.filter((endpoint) =>
      endpoint.view.ports.some(
        (offered) => (offered.protocol === "tcp") === tcp && (wantedPort === 0 || offered.port === wantedPort),
      ),
    );
    // Ports are the caller's words: those that nobody offers are not remembered.
    if (offering.length > 0) this.#byPort.set(key, offering);
    return offering;
  }

  #review(nowMs: number): void {
    this.#reviewAtMs = nowMs + reviewEveryMs;
    if (this.#endpoints.length < 2) return;
    const records = this.#endpoints.map(({ key, breaker }) => ({
      key,
      good: breaker.good(nowMs),
      bad: breaker.bad(nowMs),
    }));
    this.#ejections = review(this.#ejections, { records, nowMs }, this.#context.resilience);
  }

  #make(key: string, view: EndpointView): Endpoint {
    const { meters, log, resilience } = this.#context;
    const about = { service: this.service, instance: view.instance };
    const requests = meters.endpointRequests(this.service, view.instance);
    const breaker = new Breaker(resilience, (state) => {
      this.#tripped = this.#endpoints.filter((endpoint) => endpoint.breaker.state !== "closed").length;
      meters.breakerTurned(this.service, view.instance, state);
      log.warn(`a breaker is ${state}`, about);
    });
    const hop = new Hop(this.#context, { address: view.address, port: view.port, expect: this.id });
    return new Endpoint(key, view, { breaker, hop, requests });
  }

  #drop(endpoint: Endpoint): void {
    endpoint.hop.end();
    this.#context.meters.forgetEndpoint(this.service, endpoint.view.instance);
  }
}

/** Every called service's endpoints; kept in step with the snapshot. */
export class Upstreams {
  readonly #context: UpstreamContext;
  readonly #upstreams = new Map<string, Upstream>();

  constructor(context: UpstreamContext) {
    this.#context = context;
  }

  get all(): Iterable<Upstream> {
    return this.#upstreams.values();
  }

  /** The endpoints of a service that a request found in its snapshot. */
  of(service: Service): Upstream {
    const known = this.#upstreams.get(service.key);
    if (known !== undefined && known.id === service.id) return known;
    known?.end();
    const made = new Upstream(this.#context, service);
    this.#upstreams.set(service.key, made);
    return made;
  }

  /** Follows a new snapshot: what left it is let go. */
  follow(services: ReadonlyMap<string, Service | null>): void {
    for (const [key, upstream] of this.#upstreams) {
      const service = services.get(key);
      if (service !== undefined && service !== null && service.id === upstream.id) {
        upstream.update(service);
        continue;
      }
      this.#upstreams.delete(key);
      upstream.end();
    }
  }

  /** Housekeeping, every few seconds. */
  tick(nowMs: number): void {
    for (const upstream of this.#upstreams.values()) {
      for (const endpoint of upstream.endpoints) this.#guarded(() => endpoint.hop.closeIdle(nowMs));
      this.#context.meters.budgetLeft.with(upstream.service).set(upstream.budget.left(nowMs));
    }
  }

  /** What one endpoint throws keeps no other from its turn. */
  #guarded(task: () => void): void {
    try {
      task();
    } catch (thrown) {
      this.#context.onFault(thrown);
    }
  }

  /** The own certificate is another: connections with something under way go on with it. */
  renewed(): void {
    inTurns(this.#hops(), { perTurn: hopsPerTurn, onFault: this.#context.onFault }, (hop) => hop.renewed());
  }

  /** The roots are others: what was made under the old ones is not used again, and goes where they no longer stand. */
  rejudge(): void {
    for (const hop of this.#hops()) this.#guarded(() => hop.rejudge());
  }

  #hops(): Set<Hop> {
    return new Set([...this.#upstreams.values()].flatMap(({ endpoints }) => endpoints.map(({ hop }) => hop)));
  }

  end(): void {
    for (const upstream of this.#upstreams.values()) upstream.end();
    this.#upstreams.clear();
  }
}
