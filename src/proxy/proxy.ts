import type { Socket } from "node:net";
import { repeat, type Clock } from "../base/clock.ts";
import { HauberkError, type Refusal } from "../base/errors.ts";
import { shareOf } from "../base/ip-address.ts";
import type { OptionValues } from "../base/options.ts";
import { Published } from "../base/published.ts";
import type { Random } from "../base/random.ts";
import { serveHttp2 } from "../transport/http2-server.ts";
import { serviceKey, type ServiceName } from "../base/spiffe-id.ts";
import type { RouteePort } from "../contract/watch.ts";
import type { resilienceOptions } from "../resilience/options.ts";
import { RetryBudget } from "../resilience/retry.ts";
import type { AccessLog } from "../telemetry/access-log.ts";
import { Faults } from "../telemetry/faults.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import { Repeats } from "../telemetry/repeats.ts";
import type { ConnectionFacts, Handler, PeerIdentity } from "../transport/exchange.ts";
import { Http1Pool } from "../transport/http1-pool.ts";
import { Http2Pool } from "../transport/http2-pool.ts";
import { serveHttp1 } from "../transport/http1-server.ts";
import { BodyRoom, type RoomShare } from "../transport/body-room.ts";
import type { http2Options } from "../transport/http2-options.ts";
import type { http1Options, tlsOptions } from "../transport/options.ts";
import type { ProofStep } from "../transport/proof.ts";
import { TcpDialer } from "../transport/tcp-client.ts";
import { listenMutualTls, type ConnectionLife, type Listener } from "../transport/tls-listener.ts";
import type { Carried } from "../transport/tls-tenure.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { AcceptedConnection } from "./accepted-connection.ts";
import { Alarms, coarseWheel } from "./alarms.ts";
import { Audits } from "./audits.ts";
import type { CarryContext } from "./carry.ts";
import type { ProxyDescription } from "./description.ts";
import type { EgressContext } from "./egress.ts";
import { mutualTlsDial } from "./dial.ts";
import { Discovery, type Ask } from "./discovery.ts";
import { Labels } from "./headers.ts";
import { RouteeHealth, routeeCheck } from "./health.ts";
import { serialOf, type Dial } from "./hop.ts";
import { inboundHandler, type DeclaredPort, type InboundContext } from "./inbound.ts";
import { fetchJwks } from "./jwks-fetch.ts";
import { TokenVerifier } from "./jwt.ts";
import { Meters, type Side } from "./meters.ts";
import type { proxyOptions } from "./options.ts";
import { OutboundListeners } from "./outbound-listeners.ts";
import { isOfThisMachine, sameAddress } from "./outside-address.ts";
import { OutsideHosts, type Resolve } from "./outside-hosts.ts";
import type { OutboundContext } from "./outbound.ts";
import { PeerShare, PerPeer } from "./peer-share.ts";
import type { PlainAddress, PlainListener } from "./plain-listener.ts";
import { Routes } from "./routes.ts";
import type { Snapshot } from "./snapshot.ts";
import { StandingCalls } from "./standing.ts";
import { TcpRefusals } from "./tcp-refusals.ts";
import { Upstreams } from "./upstream.ts";

/** The data plane of one workload: what it takes, where it listens. */
export interface ProxyContext {
  readonly service: ServiceName;
  readonly trustDomain: string;
  readonly identity: Published<TlsIdentity | undefined>;
  readonly snapshot: Published<Snapshot>;
  /** Asks the control plane about `orders.default`. */
  readonly ask: Ask;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly access?: AccessLog | undefined;
  readonly options: ProxyOptions;
  readonly egress: readonly string[];
  /** The routee's declared ports; without any, nothing is served. */
  readonly routee: {
    readonly host: string;
    readonly ports: readonly RouteePort[];
    /** GET this to see whether it is well; without it, its ports only have to accept. */
    readonly healthPath?: string | undefined;
  };
  /** Undefined: this workload only calls. */
  readonly inbound?: { readonly host: string; readonly port: number; readonly orFree?: boolean } | undefined;
  readonly outbound?: { readonly address: PlainAddress; readonly secret?: string | undefined } | undefined;
  /** Listeners for one service each, or one port of it. */
  readonly to: readonly {
    readonly service: ServiceName;
    readonly port?: number | undefined;
    readonly address: PlainAddress;
    /** Sites whose pages may call it: `https://shop.example`, or `*`. */
    readonly origins?: readonly string[] | undefined;
  }[];
  /** One of several processes on the same ports: others may listen on them too, and somebody else looks after the routee. */
  readonly shared?: boolean | undefined;
  /** In place of mutual TLS, for tests. */
  readonly dial?: Dial;
  /** In place of the system's look-up of hosts outside, for tests. */
  readonly resolve?: Resolve;
}

export interface ProxyOptions {
  readonly proxy: OptionValues<typeof proxyOptions>;
  readonly resilience: OptionValues<typeof resilienceOptions>;
  readonly http1: OptionValues<typeof http1Options>;
  readonly http2: OptionValues<typeof http2Options>;
  readonly tls: OptionValues<typeof tlsOptions>;
}

const tickMs = 5_000;
/** Codes and addresses that the log tells apart; all others share a line. */
const refusedKeysMax = 256;
/** In so many steps the connections of an old certificate are drained, so that peers do not dial anew all at once. */
const drainSteps = 16;

export class Proxy {
  readonly healthy: Published<boolean>;
  readonly #context: ProxyContext;
  readonly #meters: Meters;
  readonly #alarms: Alarms;
  readonly #tunnelAlarms: Alarms;
  readonly #upstreams: Upstreams;
  readonly #verifier: TokenVerifier;
  readonly #outbound: OutboundContext;
  readonly #outside: OutsideHosts;
  readonly #inbound: InboundContext;
  readonly #peers: PerPeer<{ readonly handler: Handler; readonly room: RoomShare }>;
  /** For the bodies of all its HTTP/2 connections. */
  readonly #room: BodyRoom;
  readonly #pools: (Http1Pool | Http2Pool | TcpDialer)[] = [];
  readonly #health: RouteeHealth | undefined;
  readonly #plain: OutboundListeners;
  readonly #serials = new Map<number, string>();
  #tls: Listener | undefined;
  #outboundListener: PlainListener | undefined;
  #cancels: (() => void)[] = [];
  readonly #farewells = new Set<() => void>();
  /** What strangers cause must not fill the log. */
  readonly #refused: Repeats;
  readonly #faults: Faults;

  constructor(context: ProxyContext) {
    this.#context = context;
    const { clock, log, random, options, metrics, identity, snapshot } = context;
    this.#meters = new Meters(metrics);
    this.#room = new BodyRoom(options.http2.heldBytesMax);
    const ownRoom = this.#shareOfRoom();
    this.#refused = new Repeats({ clock, everyMs: options.proxy.refusedLineMs, keysMax: refusedKeysMax });
    this.#faults = new Faults({ clock, log, metrics });
    this.#alarms = new Alarms(clock, this.#faults.task);
    this.#tunnelAlarms = new Alarms(clock, this.#faults.task, coarseWheel);
    this.#verifier = new TokenVerifier({
      clock,
      log,
      options: options.proxy,
      load: (uri) => fetchJwks(uri, { clock, options: options.proxy }),
    });
    const dial =
      context.dial ??
      mutualTlsDial({
        clock,
        random,
        http2: options.http2,
        room: ownRoom,
        connectMs: options.proxy.connectMs,
        identity,
        onProof: (step, refusal) => this.#proof("outbound", step, refusal),
        onFault: this.#faults.connection,
      });
    this.#upstreams = new Upstreams({
      clock,
      log,
      options: options.proxy,
      identity,
      dial,
      meters: this.#meters,
      random,
      resilience: options.resilience,
      onFault: this.#faults.connection,
    });
    this.#outside = new OutsideHosts({
      clock,
      random,
      http1: options.http1,
      limits: options.proxy,
      ours: (address, port) => this.#ours(address, port),
      resolve: context.resolve,
      onFault: this.#faults.connection,
    });
    this.#outbound = this.#outboundContext();
    this.#plain = new OutboundListeners({
      clock,
      random,
      options,
      outbound: this.#outbound,
      room: ownRoom,
      shared: context.shared,
      onFault: this.#faults.connection,
      onRefused: (refusal) => {
        this.#meters.handshakeRefused("outbound", refusal.code);
        this.#sayRefused(refusal, "");
      },
    });
    this.#inbound = this.#inboundContext();
    this.#peers = new PerPeer(() => ({
      handler: inboundHandler({ ...this.#inbound, ...this.#openInbound() }),
      room: this.#shareOfRoom(),
    }));
    const { host, ports, healthPath } = context.routee;
    if (ports.length > 0 && context.shared !== true) {
      const check = routeeCheck(
        { host, ports, path: healthPath },
        { clock, timeoutMs: options.proxy.healthTimeoutMs, http2: options.http2 },
      );
      this.#health = new RouteeHealth({ clock, log, options: options.proxy, check });
    }
    this.healthy = this.#health?.healthy ?? new Published(true);
    const { providers, services } = snapshot.read();
    this.#verifier.use(providers);
    this.#upstreams.follow(services);
  }

  /** The real port of the inbound listener; 0 without one. */
  get inboundPort(): number {
    return this.#tls?.port ?? 0;
  }

  get outboundPort(): number {
    return this.#outboundListener?.port ?? 0;
  }

  /** Opens every listener. @throws HauberkError PORT_TAKEN, UNAVAILABLE, NO_IDENTITY */
  async start(): Promise<void> {
    const { snapshot, identity, outbound, to, clock, metrics } = this.#context;
    this.#cancels.push(
      // Each by itself: what one throws keeps no other from following.
      snapshot.subscribe(({ providers }) => this.#verifier.use(providers)),
      snapshot.subscribe(({ services }) => this.#upstreams.follow(services)),
      snapshot.subscribe((next, before) => this.#inbound.standing.follow(next, before)),
      () => this.#inbound.standing.end(),
      identity.subscribe((next, before) => this.#renewed(next, before)),
      repeat(clock, tickMs, () => this.#upstreams.tick(clock.monotonicMs())),
    );
    metrics.collect(() => this.#collect());
    try {
      await this.#listenInbound();
      if (outbound !== undefined) {
        const secret = outbound.secret === undefined ? undefined : basic(outbound.secret);
        this.#outboundListener = await this.#plain.forward(outbound.address, secret);
      }
      for (const named of to) await this.#plain.service(named);
    } catch (thrown) {
      await this.stop();
      throw thrown;
    }
    this.#health?.start();
  }

  /** Accepts no more and lets what is under way end, at most `withinMs`; resolves when it has. Callers should have left first. */
  async drain(withinMs: number): Promise<void> {
    this.#health?.stop();
    const closing = [this.#plain.close(withinMs)];
    const tls = this.#tls;
    this.#tls = undefined;
    if (tls !== undefined) closing.push(tls.close(withinMs));
    await Promise.all(closing);
  }

  /** Ends everything now. */
  async stop(): Promise<void> {
    for (const cancel of this.#cancels.splice(0)) cancel();
    for (const cancel of this.#farewells) cancel();
    this.#farewells.clear();
    await this.drain(0);
    this.#upstreams.end();
    for (const pool of this.#pools) pool.close(0);
    this.#outside.close(0);
    this.#refused.stop();
    this.#faults.stop();
    this.#context.access?.flush();
  }

  /** For the admin socket: what is called, and how it fares. */
  describe(): ProxyDescription {
    const services = [...this.#upstreams.all].map((upstream) => ({
      service: upstream.service,
      endpoints: upstream.endpoints.map(({ view, breaker, hop, open }) => ({
        instance: view.instance,
        address: `${view.address}:${view.port}`,
        healthy: view.healthy,
        stale: view.stale,
        breaker: breaker.state,
        open,
        connections: hop.connections,
      })),
    }));
    return { inboundPort: this.inboundPort, outboundPort: this.outboundPort, healthy: this.healthy.read(), services };
  }

  // How it is put together.

  #outboundContext(): OutboundContext {
    const { clock, log, random, options, identity, snapshot, ask, service, trustDomain, egress, access } =
      this.#context;
    const shared: CarryContext = {
      side: "outbound",
      clock,
      log,
      options: options.proxy,
      alarms: this.#alarms,
      tunnelAlarms: this.#tunnelAlarms,
      meters: this.#meters,
      labels: new Labels(random),
      access,
      openRequests: this.#meters.openRequests.with("outbound"),
      openTunnels: this.#meters.openTunnels.with("outbound"),
      audits: new Audits({ clock, log, meters: this.#meters, side: "outbound" }),
      noService: this.#meters.requests("outbound", ""),
      keepCode: true,
      onFault: this.#faults.request,
    };
    return {
      ...shared,
      random,
      resilience: options.resilience,
      identity,
      snapshot,
      discovery: new Discovery({
        clock,
        options: options.proxy,
        ask,
        snapshot: () => snapshot.read(),
        onFault: this.#faults.task,
      }),
      verifier: this.#verifier,
      upstreams: this.#upstreams,
      routes: new Routes({ namespace: service.namespace, trustDomain, egress }),
      tcpRefusals: new TcpRefusals({ clock, log }),
      egress: this.#egressContext(shared),
    };
  }

  /** Nothing that a host outside says is a word of the mesh. */
  #egressContext(shared: CarryContext): EgressContext {
    const { random, options, identity } = this.#context;
    const budget = new RetryBudget(options.resilience);
    return {
      ...shared,
      keepCode: false,
      random,
      resilience: options.resilience,
      identity,
      hosts: this.#outside,
      budget,
    };
  }

  /** What is never called as a host outside: the own inbound port, and every endpoint that this sidecar knows of. */
  #ours(address: string, port: number): string | undefined {
    if (port === this.inboundPort && isOfThisMachine(address)) return "it is this sidecar's own port";
    for (const service of this.#context.snapshot.read().services.values()) {
      const endpoints = service?.endpoints ?? [];
      if (endpoints.some((one) => one.port === port && sameAddress(one.address, address)))
        return "it is an endpoint of the mesh";
    }
    return undefined;
  }

  #inboundContext(): InboundContext {
    const { clock, log, random, options, identity, snapshot, service, trustDomain, access } = this.#context;
    return {
      side: "inbound",
      clock,
      log,
      options: options.proxy,
      alarms: this.#alarms,
      tunnelAlarms: this.#tunnelAlarms,
      meters: this.#meters,
      labels: new Labels(random),
      access,
      ...this.#openInbound(),
      audits: new Audits({ clock, log, meters: this.#meters, side: "inbound" }),
      noService: this.#meters.requests("inbound", serviceKey(service)),
      keepCode: false,
      onFault: this.#faults.request,
      resilience: options.resilience,
      snapshot,
      verifier: this.#verifier,
      routes: new Routes({ namespace: service.namespace, trustDomain, egress: [] }),
      service: serviceKey(service),
      ownId: () => identity.read()?.id.text ?? "",
      ports: this.#declare(),
      budget: new RetryBudget(options.resilience),
      standing: new StandingCalls(clock, options.proxy.drainMs, this.#faults.task),
    };
  }

  /** For one peer: what it has open, and what all have. */
  #openInbound(): Pick<InboundContext, "openRequests" | "openTunnels"> {
    return {
      openRequests: new PeerShare(this.#meters.openRequests.with("inbound")),
      openTunnels: new PeerShare(this.#meters.openTunnels.with("inbound")),
    };
  }

  /** For the connections of one peer, of the own workload, or to one port of the routee. */
  #shareOfRoom(): RoomShare {
    return this.#room.share(this.#context.options.proxy.peerShareRatio);
  }

  /** One pool of connections for each port that was declared; no other port is ever dialled. */
  #declare(): readonly DeclaredPort[] {
    return this.#context.routee.ports.map((port) => {
      const sender = this.#poolOf(port);
      this.#pools.push(sender);
      return { port, sender };
    });
  }

  #poolOf({ port, protocol }: RouteePort): Http1Pool | Http2Pool | TcpDialer {
    const { clock, options, random, routee } = this.#context;
    const target = { host: routee.host, port };
    const onFault = this.#faults.connection;
    if (protocol === "h2")
      return new Http2Pool({
        target,
        clock,
        routee: options.http1,
        http2: options.http2,
        room: this.#shareOfRoom(),
        onFault,
      });
    if (protocol === "tcp") return new TcpDialer({ target, clock, options: options.http1, onFault });
    return new Http1Pool({ target, clock, random, options: options.http1, onFault });
  }

  // Listening.

  async #listenInbound(): Promise<void> {
    const { inbound, identity, trustDomain, clock, options } = this.#context;
    if (inbound === undefined) return;
    const first = identity.read();
    if (first === undefined) {
      throw new HauberkError("NO_IDENTITY", "Cannot listen: this workload has no identity", "Enroll it first");
    }
    const shown = new Published(first);
    this.#remember(first);
    this.#cancels.push(
      identity.subscribe((next) => {
        if (next === undefined) return;
        const before = shown.read();
        try {
          shown.publish(next);
        } finally {
          if (next.bundleSequence !== before.bundleSequence) this.#tls?.rejudge(options.proxy.drainMs);
        }
      }),
    );
    const terms = {
      host: inbound.host,
      shared: this.#context.shared,
      identity: shown,
      trustDomain,
      clock,
      options: options.tls,
      peerShareRatio: options.proxy.peerShareRatio,
      onConnection: (socket: Socket, peer: PeerIdentity, alpn: "h2" | "http/1.1", life: ConnectionLife) =>
        this.#serve(socket, { peer, alpn, life }),
      onProof: (step: ProofStep, refusal?: Refusal) => this.#proof("inbound", step, refusal),
      onFault: this.#faults.connection,
      onRefused: (refusal: Refusal, remoteAddress: string) => {
        this.#meters.handshakeRefused("inbound", refusal.code);
        this.#sayRefused(refusal, remoteAddress);
      },
    };
    try {
      this.#tls = await listenMutualTls({ ...terms, port: inbound.port });
    } catch (thrown) {
      const taken = thrown instanceof HauberkError && thrown.code === "PORT_TAKEN";
      if (!taken || inbound.orFree !== true) throw thrown;
      this.#tls = await listenMutualTls({ ...terms, port: 0 });
    }
  }

  #sayRefused({ code, message, hint }: Refusal, remoteAddress: string): void {
    this.#refused.say(`${code} ${shareOf(remoteAddress)}`, (more) =>
      this.#context.log.warn("a connection was refused", {
        code,
        because: message,
        hint,
        remoteAddress,
        ...(more === 0 ? {} : { more }),
      }),
    );
  }

  #serve(socket: Socket, of: { peer: PeerIdentity; alpn: "h2" | "http/1.1"; life: ConnectionLife }): Carried {
    const { clock, options, random } = this.#context;
    const facts: ConnectionFacts = {
      protocol: of.alpn,
      remoteAddress: plainAddress(socket.remoteAddress ?? ""),
      // Asked of the socket, Node keeps the answer with each of them.
      localPort: this.#tls?.port ?? socket.localPort ?? 0,
      peer: of.peer,
    };
    this.#context.log.debug("a peer connected", {
      peer: of.peer.id.text,
      remoteAddress: facts.remoteAddress,
      alpn: of.alpn,
    });
    const shared = this.#peers.join(of.peer.id.text);
    socket.on("close", shared.leave);
    const { handler, room } = shared.of;
    const connection =
      of.alpn === "h2"
        ? serveHttp2(socket, facts, handler, {
            clock,
            random,
            options: options.http2,
            room,
            onClosed: ignore,
            onFault: this.#faults.connection,
            proofs: of.life.proofs,
          })
        : serveHttp1(socket, facts, handler, {
            clock,
            options: options.http1,
            scheme: "https",
            onFault: this.#faults.connection,
          });
    return new AcceptedConnection(connection, this.#meters, this.#serials.get(of.life.generation) ?? "");
  }

  // What changes.

  #renewed(next: TlsIdentity | undefined, before: TlsIdentity | undefined): void {
    if (next === undefined) return;
    this.#remember(next);
    if (before === undefined) return;
    // Other roots: what was proven under the old ones is judged again. The listener follows its own, in its own turn.
    if (before.bundleSequence !== next.bundleSequence) this.#upstreams.rejudge();
    this.#upstreams.renewed();
    this.#retireInSteps(next.generation, before.notAfterMs);
  }

  /**
   * Spreads the farewell of idle and short connections over most of what the old certificate still has to live. What is
   * under way then goes on: the listener has proven the new certificate on it, where the peer takes proofs.
   */
  #retireInSteps(generation: number, endsAtMs: number): void {
    const { clock } = this.#context;
    const spanMs = Math.max(0, endsAtMs - clock.wallMs()) * 0.7;
    let step = 0;
    const cancel = repeat(clock, Math.max(1, spanMs / drainSteps), () => {
      const now = step++;
      // The last step takes all: a peer that renewed meanwhile has another serial, and so another step.
      const last = step === drainSteps;
      this.#tls?.retireWhere((peer, of) => of < generation && (last || stepOf(peer) === now));
      if (step < drainSteps) return;
      cancel();
      this.#farewells.delete(cancel);
    });
    this.#farewells.add(cancel);
  }

  #proof(side: Side, step: ProofStep, refusal: Refusal | undefined): void {
    this.#meters.proof(side, step);
    if (refusal === undefined) return;
    this.#context.log.warn("a peer's proof of a certificate was refused, and its connection ended", {
      code: refusal.code,
      because: refusal.message,
      side,
    });
  }

  #remember(identity: TlsIdentity): void {
    this.#serials.set(identity.generation, serialOf(identity));
    if (this.#serials.size > 64) this.#serials.delete(this.#serials.keys().next().value as number);
  }

  #collect(): void {
    this.#meters.openConnections.with("inbound").set(this.#tls?.connections ?? 0);
    const nowMs = this.#context.clock.monotonicMs();
    for (const upstream of this.#upstreams.all) {
      this.#meters.budgetLeft.with(upstream.service).set(upstream.budget.left(nowMs));
    }
  }
}

/** What clients make of `http://hauberk:SECRET@127.0.0.1:15001` (RFC 7617). */
function basic(secret: string): string {
  return `Basic ${Buffer.from(`hauberk:${secret}`, "utf8").toString("base64")}`;
}

/** An IPv4 address as such, also where it arrived on an IPv6 socket. */
function plainAddress(address: string): string {
  return address.startsWith("::ffff:") ? address.slice("::ffff:".length) : address;
}

/** Serials are random: their last digit spreads the peers evenly. */
function stepOf(peer: PeerIdentity): number {
  return Number.parseInt(peer.leaf.serial.slice(-1), 16) % drainSteps;
}

function ignore(): void {
  // Nothing is to be done.
}
