import type { Socket } from "node:net";
import type { Clock } from "../base/clock.ts";
import { refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { Random } from "../base/random.ts";
import { serviceKey, type ServiceName } from "../base/spiffe-id.ts";
import type { ConnectionFacts, Handler, ServerConnection, ServerExchange } from "../transport/exchange.ts";
import { socketOf, type EarlyBytes } from "../transport/exchange-socket.ts";
import type { RoomShare } from "../transport/body-room.ts";
import type { http2Options } from "../transport/http2-options.ts";
import type { LentReads } from "../transport/lent-reads.ts";
import type { http1Options } from "../transport/options.ts";
import { servePlain } from "../transport/plain-server.ts";
import { serveTcp } from "../transport/tcp-server.ts";
import { browserGuard } from "./browser-guard.ts";
import { forwardHandler } from "./forward.ts";
import type { proxyOptions } from "./options.ts";
import { outboundHandler, type OutboundContext } from "./outbound.ts";
import { PlainListener, type PlainAddress } from "./plain-listener.ts";
import { Routes } from "./routes.ts";
import { serveService, type Accepted } from "./service-connection.ts";

export interface OutboundListening {
  readonly clock: Clock;
  readonly random: Random;
  readonly options: {
    readonly proxy: OptionValues<typeof proxyOptions>;
    readonly http1: OptionValues<typeof http1Options>;
    readonly http2: OptionValues<typeof http2Options>;
  };
  readonly outbound: OutboundContext;
  readonly room?: RoomShare | undefined;
  /** Whether other processes listen there too. */
  readonly shared: boolean | undefined;
  onFault(thrown: unknown): void;
  /** A connection was closed unread; said and counted by whoever opened these listeners. */
  onRefused(refusal: Refusal): void;
}

/** Where the workload connects: one listener for all services, in HTTP, and one for each that was named, in any protocol. */
export class OutboundListeners {
  readonly #use: OutboundListening;
  readonly #open: PlainListener[] = [];
  /** HTTP that is served inside of a CONNECT: its connections are no sockets of a listener. */
  readonly #inside = new Set<ServerConnection>();

  constructor(use: OutboundListening) {
    this.#use = use;
  }

  /** The listener for all services. @throws HauberkError PORT_TAKEN, UNAVAILABLE */
  forward(address: PlainAddress, secret: string | undefined): Promise<PlainListener> {
    const handler = forwardHandler(this.#use.outbound, {
      secret,
      serveInside: (exchange, inner, early) => this.#serveInside(exchange, inner, early),
    });
    return this.#listen(address, (socket, reads) => this.#serveHttp({ socket, reads, first: undefined }, handler));
  }

  /** The listener for one service, or one port of it. @throws HauberkError PORT_TAKEN, UNAVAILABLE */
  service(to: {
    service: ServiceName;
    port?: number | undefined;
    address: PlainAddress;
    origins?: readonly string[] | undefined;
  }): Promise<PlainListener> {
    const { outbound, clock } = this.#use;
    const key = serviceKey(to.service);
    // A socket's file is nothing that a web page could call.
    const guard = "path" in to.address ? undefined : browserGuard(to.service, to.origins ?? []);
    const requests = outboundHandler(outbound, { to: Routes.to(to.service, to.port), guard });
    const terms = {
      service: key,
      port: to.port,
      clock,
      find: (found: Parameters<OutboundContext["discovery"]["find"]>[1]) => {
        const known = outbound.discovery.known(key, outbound.snapshot.read());
        if (known === undefined) outbound.discovery.find(key, found);
        else found(known);
      },
      serveHttp: (use: Accepted) => this.#serveHttp(use, requests),
      serveTcp: (use: Accepted, port: number) => this.#serveTcp(use, Routes.to(to.service, port)),
      onFault: (thrown: unknown) => this.#use.onFault(thrown),
      onRefused: (refusal: Parameters<OutboundContext["tcpRefusals"]["tell"]>[0]) => {
        outbound.meters.handshakeRefused("outbound", refusal.code);
        outbound.tcpRefusals.tell(refusal, key);
      },
    };
    return this.#listen(to.address, (socket, reads) => serveService(socket, reads, terms));
  }

  /** Accepts no more, lets what is under way end within `withinMs`; resolves when everything is closed. */
  async close(withinMs: number): Promise<void> {
    for (const connection of this.#inside) {
      if (withinMs > 0) connection.drain(withinMs);
      else connection.destroy("the sidecar stops");
    }
    await Promise.all(this.#open.splice(0).map((listener) => listener.close(withinMs)));
  }

  async #listen(
    address: PlainAddress,
    serve: (socket: Socket, reads: LentReads | undefined) => ServerConnection,
  ): Promise<PlainListener> {
    const { options, shared } = this.#use;
    const listener = await PlainListener.open({
      address,
      shared,
      connectionsMax: options.proxy.outboundConnectionsMax,
      onFault: (thrown) => this.#use.onFault(thrown),
      onDropped: () => this.#use.onRefused(tooMany(options.proxy.outboundConnectionsMax, address)),
      serve,
    });
    this.#open.push(listener);
    return listener;
  }

  #serveHttp({ socket, reads, first }: Accepted, handler: Handler, facts: Facts = factsOf(socket)): ServerConnection {
    const { clock, random, options } = this.#use;
    return servePlain(socket, facts, handler, {
      clock,
      random,
      http1: options.http1,
      http2: options.http2,
      room: this.#use.room,
      onFault: (thrown) => this.#use.onFault(thrown),
      ...(first === undefined ? {} : { first }),
      ...(reads === undefined ? {} : { reads }),
    });
  }

  #serveTcp({ socket, reads, first }: Accepted, to: ReturnType<typeof Routes.to>): ServerConnection {
    const { clock, options, outbound } = this.#use;
    const handler = outboundHandler(outbound, { to, connects: true });
    return serveTcp(socket, { ...factsOf(socket), protocol: "tcp" }, handler, {
      clock,
      options: options.http1,
      onFault: (thrown) => this.#use.onFault(thrown),
      ...(first === undefined ? {} : { first }),
      ...(reads === undefined ? {} : { reads }),
    });
  }

  #serveInside(exchange: ServerExchange, handler: Handler, early: EarlyBytes): void {
    const { openTunnels } = this.#use.outbound;
    const socket = socketOf(exchange, early);
    let connection: ServerConnection | undefined;
    openTunnels.add(1);
    socket.once("close", () => {
      openTunnels.add(-1);
      if (connection !== undefined) this.#inside.delete(connection);
    });
    try {
      exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
      connection = this.#serveHttp({ socket, reads: undefined, first: undefined }, handler, exchange.connection);
    } catch (thrown) {
      socket.on("error", () => undefined); // What its client broke off meanwhile says so in one.
      socket.destroy();
      throw thrown;
    }
    this.#inside.add(connection);
  }
}

type Facts = Omit<ConnectionFacts, "protocol">;

function factsOf(socket: Socket): Facts {
  const { remoteAddress = "", localPort = 0 } = socket;
  // An IPv4 address as such, also where it arrived on an IPv6 socket.
  const address = remoteAddress.startsWith("::ffff:") ? remoteAddress.slice("::ffff:".length) : remoteAddress;
  return { remoteAddress: address, localPort, peer: undefined };
}

function tooMany(max: number, address: PlainAddress): Refusal {
  const where = "path" in address ? address.path : `${address.host}:${address.port}`;
  return refuse(
    "LIMIT_CONNECTIONS",
    `Cannot accept the connection: the workload has ${max} to ${where} already`,
    "Raise HAUBERK_OUTBOUND_CONNECTIONS_MAX, or find out why it opens so many",
  );
}
