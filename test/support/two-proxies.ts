import { once } from "node:events";
import { connect, type TLSSocket } from "node:tls";
import type { RouteePort } from "../../src/contract/watch.ts";
import { systemClock, systemRandom } from "../../src/cli/system.ts";
import { defaultsOf } from "../../src/base/options.ts";
import { Published } from "../../src/base/published.ts";
import type { Rule } from "../../src/base/resource.ts";
import type { StateEntry } from "../../src/contract/watch.ts";
import { Proxy, type ProxyContext, type ProxyOptions } from "../../src/proxy/proxy.ts";
import { proxyOptions } from "../../src/proxy/options.ts";
import { buildSnapshot, emptySnapshot, type Snapshot } from "../../src/proxy/snapshot.ts";
import { resilienceOptions } from "../../src/resilience/options.ts";
import { AccessLog } from "../../src/telemetry/access-log.ts";
import { silent } from "../../src/telemetry/logger.ts";
import { Metrics } from "../../src/telemetry/metrics.ts";
import { http2Options } from "../../src/transport/http2-options.ts";
import { http1Options, tlsOptions } from "../../src/transport/options.ts";
import { toPem } from "../../src/x509/pem.ts";
import type { TlsIdentity } from "../../src/x509/tls-identity.ts";
import { allow, endpoint } from "./outbound.ts";
import type { TestPki } from "./pki.ts";

/** The data planes of `web` and `orders` in this process, over real sockets, real mutual TLS and the real clock. */
export interface TwoProxies {
  readonly web: RunningProxy;
  readonly orders: RunningProxy;
  /** The instances of `orders` after the first. */
  readonly others: readonly RunningProxy[];
  readonly pki: TestPki;
  /** Both sides' policies and providers from here on. */
  publish(rules: readonly Rule[], more?: readonly StateEntry[]): void;
  end(): Promise<void>;
}

export interface RunningProxy {
  readonly proxy: Proxy;
  readonly snapshot: Published<Snapshot>;
  readonly metrics: Metrics;
  /** What its access log says so far. */
  accesses(): Record<string, unknown>[];
}

export const webMay: Rule[] = [{ from: [{ services: ["web.default"] }] }];

export function idText(service: string): string {
  return `spiffe://mesh.local/ns/default/sa/${service}`;
}

/** A connection of a peer that holds an identity and has no sidecar, straight to the inbound listener of `orders`. */
export async function dialInbound(mesh: TwoProxies, service: string, alpn: "h2" | "http/1.1"): Promise<TLSSocket> {
  const identity = mesh.pki.issue(idText(service));
  const socket = connect({
    host: "127.0.0.1",
    port: mesh.orders.proxy.inboundPort,
    key: toPem("PRIVATE KEY", identity.key.export({ type: "pkcs8", format: "der" })),
    cert: identity.chain.map(({ der }) => toPem("CERTIFICATE", der)).join(""),
    ca: [toPem("CERTIFICATE", mesh.pki.root.der)],
    ALPNProtocols: [alpn],
    checkServerIdentity: () => undefined,
  });
  socket.allowHalfOpen = true;
  await once(socket, "secureConnect");
  return socket;
}

export interface Wished {
  /** The routee's port, on which `orders` serves. */
  readonly routee: number;
  /** The routees of more instances of `orders`. */
  readonly otherRoutees?: readonly number[];
  readonly protocol?: RouteePort["protocol"];
  readonly rules?: readonly Rule[];
  /** More ports of the routee, for TCP; they come behind the first. */
  readonly tcpPorts?: readonly number[];
  /** More listeners of `web`. */
  readonly to?: ProxyContext["to"];
  /** What else is to be said of `web`. */
  readonly web?: Partial<Pick<ProxyContext, "egress" | "resolve" | "inbound" | "outbound">>;
  readonly options?: { readonly [Room in keyof ProxyOptions]?: Partial<ProxyOptions[Room]> };
}

export async function twoProxies(pki: TestPki, wished: Wished): Promise<TwoProxies> {
  const portsOf = (port: number): RouteePort[] => [
    { name: "main", port, protocol: wished.protocol ?? "http" },
    ...(wished.tcpPorts ?? []).map((number): RouteePort => ({ name: `t${number}`, port: number, protocol: "tcp" })),
  ];
  const serve = (routee: number): Promise<RunningProxy> =>
    run(pki, "orders", wished, {
      routee: { host: "127.0.0.1", ports: portsOf(routee) },
      inbound: { host: "127.0.0.1", port: 0 },
    });
  const orders = await serve(wished.routee);
  const others: RunningProxy[] = [];
  for (const routee of wished.otherRoutees ?? []) others.push(await serve(routee));
  const web = await run(pki, "web", wished, { to: wished.to ?? [], ...wished.web });
  const routees = [wished.routee, ...(wished.otherRoutees ?? [])];
  const publish = (rules: readonly Rule[], more: readonly StateEntry[] = []): void => {
    const policies = [allow("orders", rules)];
    const callees = [orders, ...others];
    const endpoints = callees.map(({ proxy }, i) =>
      endpoint(`i${i}`, { address: "127.0.0.1", port: proxy.inboundPort, ports: portsOf(routees[i] as number) }),
    );
    for (const callee of callees) callee.snapshot.publish(buildSnapshot([["own", { policies }], ...more]));
    web.snapshot.publish(
      buildSnapshot([["service/orders.default", { id: idText("orders"), policies, endpoints }], ...more]),
    );
  };
  publish(wished.rules ?? webMay);
  return {
    web,
    orders,
    others,
    pki,
    publish,
    end: async () => {
      await web.proxy.stop();
      for (const { proxy } of [orders, ...others]) await proxy.stop();
    },
  };
}

async function run(pki: TestPki, service: string, wished: Wished, more: Partial<ProxyContext>): Promise<RunningProxy> {
  const snapshot = new Published(emptySnapshot);
  const metrics = new Metrics();
  const lines: string[] = [];
  const access = new AccessLog({ enabled: true, clock: systemClock, sink: (text) => lines.push(text) });
  const { options = {} } = wished;
  const proxy = new Proxy({
    service: { service, namespace: "default" },
    trustDomain: "mesh.local",
    identity: new Published<TlsIdentity | undefined>(
      pki.issue(idText(service), { dnsNames: [`${service}.default.mesh`] }),
    ),
    snapshot,
    ask: () => Promise.resolve(null),
    clock: systemClock,
    random: systemRandom,
    log: silent,
    metrics,
    access,
    options: {
      proxy: { ...defaultsOf(proxyOptions), ...options.proxy },
      resilience: { ...defaultsOf(resilienceOptions), ...options.resilience },
      http1: { ...defaultsOf(http1Options), ...options.http1 },
      http2: { ...defaultsOf(http2Options), ...options.http2 },
      tls: { ...defaultsOf(tlsOptions), ...options.tls },
    },
    egress: [],
    routee: { host: "127.0.0.1", ports: [] },
    outbound: { address: { host: "127.0.0.1", port: 0 } },
    to: [],
    ...more,
  });
  await proxy.start();
  const accesses = (): Record<string, unknown>[] => {
    access.flush();
    const all = lines.join("").split("\n").slice(0, -1);
    return all.map((line) => JSON.parse(line) as Record<string, unknown>);
  };
  return { proxy, metrics, accesses, snapshot };
}
