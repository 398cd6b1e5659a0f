import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { connect, createServer, type TLSSocket } from "node:tls";
import { expect } from "vitest";
import { HauberkError, isRefusal, type Refusal } from "../../src/base/errors.ts";
import { defaultsOf } from "../../src/base/options.ts";
import { Published } from "../../src/base/published.ts";
import type { ClientConnection, ConnectionFacts, ServerConnection } from "../../src/transport/exchange.ts";
import { connectHttp2 } from "../../src/transport/http2-client.ts";
import { http2Options } from "../../src/transport/http2-options.ts";
import { serveHttp2 } from "../../src/transport/http2-server.ts";
import { tlsOptions } from "../../src/transport/options.ts";
import type { ProofStep } from "../../src/transport/proof.ts";
import { secureContextOptions } from "../../src/transport/tls-context.ts";
import { dialMutualTls, tenureOf } from "../../src/transport/tls-dial.ts";
import { listenMutualTls, type ConnectionLife, type Listener } from "../../src/transport/tls-listener.ts";
import type { Tenure } from "../../src/transport/tls-tenure.ts";
import { exporterLabel, writeProof, type ProofBinding, type ProofRole } from "../../src/x509/proof.ts";
import type { TlsIdentity } from "../../src/x509/tls-identity.ts";
import { ask, Heard } from "./http2-pair.ts";
import { RawPeer, rawFields, rawFrame, rawPreface } from "./http2-raw.ts";
import { ManualClock } from "./manual-clock.ts";

/** Connections on which certificates are proven anew, over real TLS: both ends ours, or one of them an attacker's. */

/** HTTP/2's own: hours pass in one step here, which no PING survives. */
const still = new ManualClock();

export const PROOF = 0xf5;
export const announcement = rawFrame(4, 0, 0, "f9b5 00000001");

/** One end of ours, and all that it says of proofs. */
export interface End {
  readonly clock: ManualClock;
  readonly identity: Published<TlsIdentity>;
  readonly steps: ProofStep[];
  readonly refusals: Refusal[];
  /** Resolves when the steps begin with these; throws where they are others. */
  reached(...steps: ProofStep[]): Promise<void>;
  endsAtMs(): number;
  /** Whom it takes the other end for. */
  peerSerial(): string;
  /** Why its HTTP/2 connection ended; undefined while it lives. */
  ended(): string | undefined;
}

class Steps implements End {
  readonly clock: ManualClock;
  readonly identity: Published<TlsIdentity>;
  readonly steps: ProofStep[] = [];
  readonly refusals: Refusal[] = [];
  endsAtMs: () => number = () => 0;
  peerSerial: () => string = () => "";
  because: string | undefined;
  #wake: () => void = () => undefined;

  constructor(clock: ManualClock, identity: TlsIdentity) {
    this.clock = clock;
    this.identity = new Published(identity);
  }

  ended(): string | undefined {
    return this.because;
  }

  note(step: ProofStep, refusal?: Refusal): void {
    this.steps.push(step);
    if (refusal !== undefined) this.refusals.push(refusal);
    this.#wake();
  }

  async reached(...steps: ProofStep[]): Promise<void> {
    while (this.steps.length < steps.length) await new Promise<void>((resolve) => (this.#wake = resolve));
    expect(this.steps.slice(0, steps.length)).toEqual(steps);
  }
}

export interface OurServer extends End {
  readonly listener: Listener;
  readonly life: () => ConnectionLife;
  readonly facts: () => ConnectionFacts;
  readonly connection: () => ServerConnection;
  /** How long the connection was given each time that it was drained. */
  readonly drains: readonly number[];
}

export type Closers = (() => unknown)[];

/** Our listener with HTTP/2; every request is answered with a head and then held open. */
export async function ourServer(
  identity: TlsIdentity,
  around: { clock: ManualClock; closers: Closers; announces?: boolean },
): Promise<OurServer> {
  const end = new Steps(around.clock, identity);
  let accepted: { life: ConnectionLife; facts: ConnectionFacts; connection: ServerConnection } | undefined;
  const drains: number[] = [];
  const certain = (): NonNullable<typeof accepted> => {
    if (accepted === undefined) throw new Error("nothing was accepted");
    return accepted;
  };
  const listener = await listenMutualTls({
    host: "127.0.0.1",
    port: 0,
    identity: end.identity,
    trustDomain: "mesh.local",
    clock: around.clock,
    options: defaultsOf(tlsOptions),
    onProof: (step, refusal) => end.note(step, refusal),
    onRefused: (refusal) => end.refusals.push(refusal),
    onConnection: (socket, peer, alpn, life) => {
      const facts: ConnectionFacts = { protocol: alpn, remoteAddress: "127.0.0.1", localPort: 1, peer };
      const connection = serveHttp2(
        socket,
        facts,
        (exchange) => {
          exchange.listen(new Heard());
          exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
          if (exchange.head.path === "/short") exchange.end();
        },
        {
          clock: still,
          options: defaultsOf(http2Options),
          onClosed: (because) => (end.because = because),
          ...(around.announces === false ? {} : { proofs: life.proofs }),
        },
      );
      accepted = { life, facts, connection };
      end.endsAtMs = () => life.endsAtMs;
      end.peerSerial = () => peer.leaf.serial;
      return {
        get exchanges() {
          return connection.exchanges;
        },
        drain: (withinMs) => {
          drains.push(withinMs);
          connection.drain(withinMs);
        },
      };
    },
  });
  around.closers.push(() => listener.close());
  return Object.assign(end, {
    listener,
    life: () => certain().life,
    facts: () => certain().facts,
    connection: () => certain().connection,
    drains,
  });
}

export interface OurClient extends End {
  readonly socket: TLSSocket;
  readonly tenure: Tenure;
  readonly connection: ClientConnection;
  /** Of the request that is under way. */
  readonly heard: Heard;
}

/** Our client with HTTP/2, one request under way unless `idle`. */
export async function ourClient(
  identity: TlsIdentity,
  to: { port: number; expect: string },
  around: { clock: ManualClock; closers: Closers; idle?: boolean },
): Promise<OurClient> {
  const end = new Steps(around.clock, identity);
  const socket = await dialMutualTls({
    address: "127.0.0.1",
    port: to.port,
    expect: to.expect,
    identity,
    clock: around.clock,
    timeoutMs: 1_000,
    alpn: ["h2"],
    current: () => end.identity.read(),
    onProof: (step, refusal) => end.note(step, refusal),
  });
  if (isRefusal(socket)) throw HauberkError.from(socket);
  around.closers.push(() => socket.destroy());
  const tenure = tenureOf(socket);
  if (tenure === undefined) throw new Error("the socket has no tenure");
  const connection = await connectHttp2(socket, {
    clock: still,
    options: defaultsOf(http2Options),
    onClosed: (because) => (end.because = because),
    proofs: tenure.proofs,
  });
  tenure.carries(connection);
  end.endsAtMs = () => tenure.endsAtMs;
  end.peerSerial = () => tenure.peer.leaf.serial;
  const head = { method: "GET", scheme: "https", authority: "orders", path: "/", fields: [], bodyLength: 0 };
  const heard = around.idle === true ? new Heard() : ask(connection, head).heard;
  if (around.idle !== true) await heard.until(() => heard.heads.length > 0);
  return Object.assign(end, { socket, tenure, connection, heard });
}

/** An end that knows the protocol, has a valid certificate, and keeps to no rule. */
export class Attacker {
  readonly role: ProofRole;
  readonly raw: RawPeer;
  readonly socket: TLSSocket;
  readonly identity: TlsIdentity;

  constructor(role: ProofRole, socket: TLSSocket, identity: TlsIdentity) {
    this.role = role;
    this.socket = socket;
    this.identity = identity;
    this.raw = new RawPeer(socket, role === "server" ? rawPreface.length : 0);
  }

  /** A perfect proof of `of`, or one that is wrong in what `wrong` says. */
  proof(of: Pick<TlsIdentity, "chain" | "key">, wrong: Partial<ProofBinding> = {}): Buffer {
    const role = wrong.role ?? this.role;
    const exporter = this.socket.exportKeyingMaterial(32, exporterLabel(role), Buffer.alloc(0));
    return writeProof(of, { role, trustDomain: "mesh.local", exporter, counter: 1, ...wrong });
  }

  prove(of: Pick<TlsIdentity, "chain" | "key">, wrong: Partial<ProofBinding> = {}): void {
    this.raw.send(rawFrame(PROOF, 0, 0, this.proof(of, wrong)));
  }

  /** The number in the last acknowledgement that came. */
  async acknowledged(counter: number): Promise<void> {
    await this.raw.frame(
      ({ type, flags, payload }) => type === PROOF && flags === 1 && payload.readUInt32BE(0) === counter,
    );
  }

  /** The code of the GOAWAY with which it was shut out. */
  async shutOut(): Promise<number> {
    await this.raw.end();
    return this.raw.frames.findLast(({ type }) => type === 7)?.payload.readUInt32BE(4) ?? -1;
  }
}

/** An attacker's client of our server, with one request under way. */
export async function attackServer(
  identity: TlsIdentity,
  server: { listener: Listener },
  around: { closers: Closers; settings?: Buffer; idle?: boolean },
): Promise<Attacker> {
  const socket = connect({
    host: "127.0.0.1",
    port: server.listener.port,
    ...secureContextOptions(identity),
    checkServerIdentity: () => undefined,
    ALPNProtocols: ["h2"],
  });
  around.closers.push(() => socket.destroy());
  await once(socket, "secureConnect");
  const attacker = new Attacker("client", socket, identity);
  attacker.raw.send(rawPreface, around.settings ?? announcement);
  await attacker.raw.frame(({ type, flags }) => type === 4 && flags === 1);
  if (around.idle !== true) {
    const fields = rawFields([":method", "GET", ":scheme", "https", ":authority", "orders", ":path", "/"]);
    attacker.raw.send(rawFrame(1, 5, 1, fields));
    await attacker.raw.frame(({ type, streamId }) => type === 1 && streamId === 1);
  }
  return attacker;
}

/** An attacker's server for one client of ours. */
async function attackingServer(
  identity: TlsIdentity,
  around: { closers: Closers; settings?: Buffer },
): Promise<{ port: number; attacker: Promise<Attacker> }> {
  const server = createServer({
    ...secureContextOptions(identity),
    requestCert: true,
    rejectUnauthorized: true,
    ALPNProtocols: ["h2"],
  });
  server.on("tlsClientError", () => undefined);
  const attacker = once(server, "secureConnection").then(async ([socket]) => {
    const made = new Attacker("server", socket as TLSSocket, identity);
    made.raw.send(around.settings ?? announcement);
    await made.raw.frame(({ type }) => type === 1);
    made.raw.send(rawFrame(1, 4, 1, rawFields([":status", "200"])));
    return made;
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  around.closers.push(() => server.close());
  return { port: (server.address() as AddressInfo).port, attacker };
}

/** An attacker in this role, with a request under way, and the end of ours that it attacks. */
export async function attack(
  role: ProofRole,
  identities: { attacker: TlsIdentity; victim: TlsIdentity },
  around: { clock: ManualClock; closers: Closers; settings?: Buffer },
): Promise<{ attacker: Attacker; victim: End & (OurServer | OurClient) }> {
  if (role === "client") {
    const victim = await ourServer(identities.victim, around);
    return { attacker: await attackServer(identities.attacker, victim, around), victim };
  }
  const { port, attacker } = await attackingServer(identities.attacker, around);
  const victim = await ourClient(identities.victim, { port, expect: identities.attacker.id.text }, around);
  return { attacker: await attacker, victim };
}
