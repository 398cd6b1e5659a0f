import { parseSpiffeId, type SpiffeId } from "../../src/base/spiffe-id.ts";
import { defaultsOf, type OptionValues } from "../../src/base/options.ts";
import { Published } from "../../src/base/published.ts";
import { refuse, type Refusal } from "../../src/base/errors.ts";
import type { AuthorizationPolicy, JwtProvider, Rule } from "../../src/base/resource.ts";
import type { Endpoint, ServiceView, StateEntry } from "../../src/contract/watch.ts";
import { Alarms, coarseWheel } from "../../src/proxy/alarms.ts";
import { Audits } from "../../src/proxy/audits.ts";
import type { CarryContext } from "../../src/proxy/carry.ts";
import { Discovery } from "../../src/proxy/discovery.ts";
import type { EgressContext } from "../../src/proxy/egress.ts";
import { Labels } from "../../src/proxy/headers.ts";
import type { Dial, HopEvents, HopTarget, HopTenure } from "../../src/proxy/hop.ts";
import { TokenVerifier } from "../../src/proxy/jwt.ts";
import { Meters } from "../../src/proxy/meters.ts";
import { proxyOptions } from "../../src/proxy/options.ts";
import { outboundHandler, type OutboundContext, type OutboundListener } from "../../src/proxy/outbound.ts";
import { Routes } from "../../src/proxy/routes.ts";
import { buildSnapshot, emptySnapshot, type Snapshot } from "../../src/proxy/snapshot.ts";
import { TcpRefusals } from "../../src/proxy/tcp-refusals.ts";
import { Upstreams } from "../../src/proxy/upstream.ts";
import { resilienceOptions, type ResilienceLimits } from "../../src/resilience/options.ts";
import { RetryBudget } from "../../src/resilience/retry.ts";
import { silent } from "../../src/telemetry/logger.ts";
import { AccessLog } from "../../src/telemetry/access-log.ts";
import { Metrics } from "../../src/telemetry/metrics.ts";
import type { TlsIdentity } from "../../src/x509/tls-identity.ts";
import { FakeConnection, FakeServerExchange, type Asked } from "./exchanges.ts";
import { ManualClock, rethrow } from "./manual-clock.ts";
import { SeededRandom } from "./seeded-random.ts";

/** One sidecar's outbound side in memory: policies, endpoints and connections are the test's. */

export function idOf(service: string, namespace = "default"): SpiffeId {
  return parseSpiffeId(`spiffe://mesh.local/ns/${namespace}/sa/${service}`) as SpiffeId;
}

export function allow(service: string, rules: readonly Rule[], name = "allow"): AuthorizationPolicy {
  return {
    kind: "AuthorizationPolicy",
    name,
    namespace: "default",
    target: { service, namespace: "default" },
    action: "ALLOW",
    mode: "ENFORCE",
    rules,
  };
}

export function endpoint(instance: string, more: Partial<Endpoint> = {}): Endpoint {
  return {
    instance,
    address: "10.0.0.1",
    port: 15_443,
    ports: [{ name: "http", port: 8080, protocol: "http" }],
    healthy: true,
    stale: false,
    ...more,
  };
}

export function view(
  service: string,
  policies: readonly AuthorizationPolicy[],
  endpoints: readonly Endpoint[],
): ServiceView {
  return { id: idOf(service).text, policies, endpoints };
}

/** An identity whose certificates nobody reads. */
function identityOf(id: SpiffeId, generation: number, life: { fromMs: number; toMs: number }): TlsIdentity {
  return {
    id,
    chain: [{ serial: `0${generation}` }],
    roots: [],
    bundleSequence: 1,
    issuedAtMs: life.fromMs,
    notAfterMs: life.toMs,
    generation,
  } as unknown as TlsIdentity;
}

export interface Opened {
  readonly target: HopTarget;
  readonly identity: TlsIdentity;
  readonly events: HopEvents;
  readonly connection: FakeConnection;
}

export interface OutboundBench {
  readonly clock: ManualClock;
  readonly metrics: Metrics;
  readonly context: OutboundContext;
  readonly snapshot: Published<Snapshot>;
  readonly identity: Published<TlsIdentity | undefined>;
  /** Everything that was looked up or opened, in order: what a forbidden call must not cause. */
  readonly touched: string[];
  readonly opened: Opened[];
  readonly lines: string[];
  /** How dials end; connected by default. */
  dialling: (target: HopTarget) => Promise<Refusal | undefined> | Refusal | undefined;
  asking: (service: string) => Promise<ServiceView | null>;
  /** The tenure of a connection that is made; none by default. */
  tenureOf?: (connection: FakeConnection) => HopTenure;
  publish(entries: readonly StateEntry[]): void;
  ask(asked?: Asked, listener?: OutboundListener): FakeServerExchange;
  /** Lets promises that are ready run. */
  settle(): Promise<void>;
  connectionTo(instance: string): FakeConnection;
}

const dayMs = 86_400_000;

export function outboundBench(
  use: {
    options?: Partial<OptionValues<typeof proxyOptions>>;
    resilience?: Partial<ResilienceLimits>;
    self?: SpiffeId;
    seed?: number;
    fetch?: (uri: string) => Promise<unknown>;
    /** What TCP refusals say in the log. */
    warn?: (message: string, about?: object) => void;
    /** What may be called outside of the mesh, and how it is found. */
    egress?: readonly string[];
    hosts?: EgressContext["hosts"];
    /** What hears of our own bugs; thrown on by default, so that a test fails of them. */
    onFault?: (thrown: unknown) => void;
  } = {},
): OutboundBench {
  const clock = new ManualClock();
  const onFault = use.onFault ?? rethrow;
  const random = new SeededRandom(use.seed ?? 1);
  const options = { ...defaultsOf(proxyOptions), ...use.options };
  const resilience = { ...defaultsOf(resilienceOptions), ...use.resilience };
  const metrics = new Metrics();
  const meters = new Meters(metrics);
  const self = use.self ?? idOf("web");
  const life = { fromMs: clock.wallMs(), toMs: clock.wallMs() + dayMs };
  const identity = new Published<TlsIdentity | undefined>(identityOf(self, 1, life));
  const snapshot = new Published<Snapshot>(emptySnapshot);
  const touched: string[] = [];
  const opened: Opened[] = [];
  const lines: string[] = [];
  const dial: Dial = async (target, identity, events) => {
    touched.push(`dial ${target.address}:${target.port}`);
    const refusal = await bench.dialling(target);
    if (refusal !== undefined) return refusal;
    const connection = new FakeConnection();
    connection.onClosed = (because) => events.closed(because);
    opened.push({ target, identity, events, connection });
    const peer = { notBeforeMs: clock.wallMs(), notAfterMs: clock.wallMs() + dayMs };
    const tenure = bench.tenureOf?.(connection);
    return { connection, peer, ...(tenure === undefined ? {} : { tenure }) };
  };
  const verifier = new TokenVerifier({
    clock,
    log: silent,
    options,
    load: (uri) => {
      touched.push(`fetch ${uri}`);
      return use.fetch === undefined ? Promise.reject(new Error("no network in this test")) : use.fetch(uri);
    },
  });
  const upstreams = new Upstreams({ clock, log: silent, options, identity, dial, meters, random, resilience, onFault });
  const discovery = new Discovery({
    clock,
    options,
    onFault,
    snapshot: () => snapshot.read(),
    ask: (service) => {
      touched.push(`ask ${service}`);
      return bench.asking(service);
    },
  });
  snapshot.subscribe((next) => {
    verifier.use(next.providers);
    upstreams.follow(next.services);
  });
  const shared: CarryContext = {
    side: "outbound",
    clock,
    log: silent,
    options,
    alarms: new Alarms(clock, rethrow),
    tunnelAlarms: new Alarms(clock, rethrow, coarseWheel),
    meters,
    labels: new Labels(random),
    access: new AccessLog({ enabled: true, clock, sink: (text) => lines.push(text) }),
    openRequests: meters.openRequests.with("outbound"),
    openTunnels: meters.openTunnels.with("outbound"),
    audits: new Audits({ clock, log: silent, meters, side: "outbound" }),
    noService: meters.requests("outbound", ""),
    keepCode: true,
    onFault,
  };
  const context: OutboundContext = {
    ...shared,
    random,
    resilience,
    identity,
    snapshot,
    discovery,
    verifier,
    upstreams,
    routes: new Routes({ namespace: "default", trustDomain: "mesh.local", egress: use.egress ?? [] }),
    tcpRefusals: new TcpRefusals({ clock, log: { ...silent, ...(use.warn === undefined ? {} : { warn: use.warn }) } }),
    egress: {
      ...shared,
      keepCode: false,
      random,
      resilience,
      identity,
      hosts: use.hosts ?? {
        of: () => refuse("NOT_IN_MESH", "Cannot call: no host outside in this test", "Give hosts"),
      },
      budget: new RetryBudget(resilience),
    },
  };
  const bench: OutboundBench = {
    clock,
    metrics,
    context,
    snapshot,
    identity,
    touched,
    opened,
    lines,
    dialling: () => undefined,
    asking: () => Promise.resolve(null),
    publish: (entries) => snapshot.publish(buildSnapshot(entries, snapshot.read())),
    ask: (asked = {}, listener = {}) => {
      const exchange = new FakeServerExchange(asked);
      outboundHandler(context, listener)(exchange);
      return exchange;
    },
    settle: () => new Promise((resolve) => setImmediate(resolve)),
    connectionTo: (instance) => {
      const { endpoints } = [...upstreams.all].find((one) =>
        one.endpoints.some((other) => other.view.instance === instance),
      ) ?? { endpoints: [] };
      const at = endpoints.find((other) => other.view.instance === instance)?.view;
      const last = opened.findLast(({ target }) => target.address === at?.address && target.port === at.port);
      if (last === undefined) throw new Error(`no connection to ${instance}`);
      return last.connection;
    },
  };
  return bench;
}

/** The state with which `web` may call `orders` at these endpoints. */
export function ordersFor(
  endpoints: readonly Endpoint[],
  rules: readonly Rule[] = [{ from: [{ services: ["web.default"] }] }],
  providers: readonly JwtProvider[] = [],
): StateEntry[] {
  return [
    ["service/orders.default", view("orders", [allow("orders", rules)], endpoints)],
    ...providers.map((provider): StateEntry => [`provider/${provider.namespace}/${provider.name}`, provider]),
  ];
}

export const twoEndpoints: readonly Endpoint[] = [
  endpoint("a", { address: "10.0.0.1" }),
  endpoint("b", { address: "10.0.0.2" }),
];
