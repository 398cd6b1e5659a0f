import { once } from "node:events";
import { connect as connectPlain, createServer as createPlain, type AddressInfo, type Server } from "node:net";
import { connect, createServer, type ConnectionOptions, type TLSSocket } from "node:tls";
import { afterEach, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { craft, craftedKey } from "../../test/support/crafted-certificate.ts";
import { makeTestPki, type TestPki } from "../../test/support/pki.ts";
import { HauberkError, isRefusal, type Refusal } from "../base/errors.ts";
import { defaultsOf } from "../base/options.ts";
import { Published } from "../base/published.ts";
import { toPem } from "../x509/pem.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import type { PeerIdentity } from "./exchange.ts";
import { connectHttp1 } from "./http1-client.ts";
import { serveHttp1 } from "./http1-server.ts";
import { http1Options, tlsOptions } from "./options.ts";
import { provenPeerOf } from "./peer.ts";
import { dialContextOf, secureContextOptions } from "./tls-context.ts";
import { dialMutualTls, type MutualTlsCall } from "./tls-dial.ts";
import { listenMutualTls, type ConnectionLife, type Listener, type MutualTlsTerms } from "./tls-listener.ts";

const orders = "spiffe://mesh.local/ns/default/sa/orders";
const web = "spiffe://mesh.local/ns/default/sa/web";
const hourMs = 3_600_000;

// OpenSSL judges by this machine's clock; ours starts there and is moved by hand.
const startMs = Date.now();
const pki = await makeTestPki({ wallMs: startMs });
const foreign = await makeTestPki({ wallMs: startMs + 1 });
const ordersIdentity = pki.issue(orders);
const webIdentity = pki.issue(web);

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close();
});

interface Accepted {
  readonly socket: TLSSocket;
  readonly peer: PeerIdentity;
  readonly alpn: string;
  readonly life: ConnectionLife;
  readonly drains: number[];
}

interface Scene {
  readonly clock: ManualClock;
  readonly identity: Published<TlsIdentity>;
  readonly listener: Listener;
  readonly accepted: Accepted[];
  readonly refusals: Refusal[];
  /** Resolves at the next refusal, or with one that is there. */
  readonly refusal: () => Promise<Refusal>;
  /** The accepted connection of that number, from 0. */
  readonly connection: (index?: number) => Promise<Accepted>;
  readonly dial: (call?: Partial<MutualTlsCall>) => Promise<TLSSocket | Refusal>;
}

async function scene(
  wish: { identity?: TlsIdentity; options?: Partial<MutualTlsTerms["options"]>; peerShareRatio?: number } = {},
): Promise<Scene> {
  const clock = new ManualClock(startMs);
  const identity = new Published(wish.identity ?? ordersIdentity);
  const accepted: Accepted[] = [];
  const refusals: Refusal[] = [];
  let wake: () => void = () => undefined;
  const listener = await listenMutualTls({
    host: "127.0.0.1",
    port: 0,
    identity,
    trustDomain: "mesh.local",
    clock,
    options: { ...defaultsOf(tlsOptions), ...wish.options },
    ...(wish.peerShareRatio === undefined ? {} : { peerShareRatio: wish.peerShareRatio }),
    onConnection: (socket, peer, alpn, life) => {
      const drains: number[] = [];
      accepted.push({ socket, peer, alpn, life, drains });
      wake();
      return { exchanges: 0, drain: (withinMs) => void drains.push(withinMs) };
    },
    onRefused: (refusal) => {
      refusals.push(refusal);
      wake();
    },
  });
  closers.push(() => listener.close());
  const next = async <T>(list: T[], index: number): Promise<T> => {
    while (list.length <= index) await new Promise<void>((resolve) => (wake = resolve));
    return list[index] as T;
  };
  return {
    clock,
    identity,
    listener,
    accepted,
    refusals,
    refusal: () => next(refusals, 0),
    connection: (index = 0) => next(accepted, index),
    dial: async (call) => {
      const socket = await dialMutualTls({
        address: "127.0.0.1",
        port: listener.port,
        identity: webIdentity,
        expect: orders,
        clock,
        timeoutMs: 1000,
        alpn: ["h2"],
        ...call,
      });
      if (!isRefusal(socket)) closers.push(() => socket.destroy());
      return socket;
    },
  };
}

function dialled(result: TLSSocket | Refusal): TLSSocket {
  if (isRefusal(result)) throw HauberkError.from(result);
  return result;
}

function codeOf(result: TLSSocket | Refusal): string {
  return isRefusal(result) ? result.code : "connected";
}

/** A plain node:tls client of the trust domain. */
function plainTls(
  port: number,
  identity: TlsIdentity | undefined,
  more: ConnectionOptions = {},
  trust: TestPki = pki,
): TLSSocket {
  const socket = connect({
    host: "127.0.0.1",
    port,
    ca: toPem("CERTIFICATE", trust.root.der),
    ...(identity === undefined ? {} : { ...secureContextOptions(identity), sessionTimeout: 300 }),
    checkServerIdentity: () => undefined,
    ...more,
  });
  socket.on("error", () => undefined);
  closers.push(() => socket.destroy());
  return socket;
}

test("both ends know each other by what was proven", async () => {
  const { dial, connection, listener } = await scene();
  const socket = dialled(await dial());
  const { peer, alpn, socket: served } = await connection();
  expect([peer.id.text, alpn, provenPeerOf(served)]).toEqual([web, "h2", peer]);
  expect(provenPeerOf(socket)?.id.text).toBe(orders);
  expect([socket.getProtocol(), socket.alpnProtocol, listener.connections]).toEqual(["TLSv1.3", "h2", 1]);
  served.on("data", (chunk: Buffer) => served.write(chunk));
  socket.write("over and back");
  expect(String(await once(socket, "data"))).toBe("over and back");
});

test("HTTP/1.1 runs over it, between workloads that have no h2", async () => {
  const { dial, connection, clock } = await scene();
  const socket = dialled(await dial({ alpn: ["http/1.1"] }));
  const { socket: served, peer } = await connection();
  const facts = { protocol: "http/1.1", remoteAddress: "127.0.0.1", localPort: 1, peer } as const;
  const options = defaultsOf(http1Options);
  serveHttp1(
    served,
    facts,
    (exchange) =>
      exchange.respond(
        { status: 204, fields: ["x-peer", exchange.connection.peer?.id.text ?? ""], bodyLength: 0 },
        true,
      ),
    { clock, options, scheme: "https" },
  );
  const fields = await new Promise<string[]>((resolve, reject) => {
    const head = { method: "GET", scheme: "https", authority: "orders", path: "/", fields: [], bodyLength: 0 };
    connectHttp1(socket, { clock, random: new SeededRandom(1), options }).request(head, true, {
      informed: () => undefined,
      head: (answer) => resolve(answer.fields),
      data: () => undefined,
      end: () => undefined,
      aborted: (loss) => reject(new Error(loss.because)),
      drained: () => undefined,
    });
  });
  expect(fields).toEqual(["x-peer", web]);
});

test("a peer that is another service hears nothing", async () => {
  let heard = 0;
  const server = createServer({ ...secureContextOptions(ordersIdentity), requestCert: true, ALPNProtocols: ["h2"] });
  server.on("secureConnection", (socket) => {
    socket.on("error", () => undefined);
    socket.on("data", (chunk: Buffer) => (heard += chunk.length));
  });
  server.on("tlsClientError", () => undefined);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closers.push(() => server.close());
  const ended = once(server, "connection").then(([raw]) => once(raw as TLSSocket, "close"));
  const { dial } = await scene();
  const { port } = server.address() as AddressInfo;
  expect(codeOf(await dial({ port, expect: "spiffe://mesh.local/ns/default/sa/billing" }))).toBe(
    "PEER_NOT_THE_SERVICE",
  );
  await ended;
  expect(heard).toBe(0);
});

test("a certificate of another authority is refused at both ends", async () => {
  const { dial, refusal, accepted } = await scene();
  const stranger = foreign.issue(web);
  expect(codeOf(await dial({ identity: stranger }))).toBe("PEER_UNTRUSTED");
  // One that trusts us, and is not trusted.
  const naive: TlsIdentity = { ...stranger, roots: [pki.root] };
  await dial({ identity: naive });
  expect((await refusal()).code).toBe("PEER_UNTRUSTED");
  expect(accepted).toHaveLength(0);
});

test("a client without a certificate is refused by TLS itself", async () => {
  const { listener, refusal, accepted } = await scene();
  plainTls(listener.port, undefined);
  expect((await refusal()).code).toBe("PEER_UNTRUSTED");
  expect(accepted).toHaveLength(0);
});

test("TLS 1.2 is refused", async () => {
  const { listener, refusal } = await scene();
  plainTls(listener.port, webIdentity, { minVersion: "TLSv1.2", maxVersion: "TLSv1.2" });
  expect((await refusal()).message).toContain("handshake failed");
});

test("a certificate that ended is refused by TLS, and by our own clock where that is ahead", async () => {
  const { dial, refusal, refusals, clock } = await scene();
  await dial({ identity: pki.issue(web, { notBeforeMs: startMs - 2 * hourMs, notAfterMs: startMs - hourMs }) });
  expect((await refusal()).code).toBe("PEER_EXPIRED");
  refusals.length = 0;
  clock.setWall(startMs + 30 * 60_000);
  expect(codeOf(await dial({ identity: pki.issue(web, { notAfterMs: startMs + 20 * 60_000 }) }))).toBe("connected");
  expect((await refusal()).code).toBe("PEER_EXPIRED");
});

test("a dialler refuses a server whose certificate ended", async () => {
  const { dial } = await scene({
    identity: pki.issue(orders, { notBeforeMs: startMs - 2 * hourMs, notAfterMs: startMs - hourMs }),
  });
  expect(codeOf(await dial())).toBe("PEER_EXPIRED");
});

test("a certificate with two names, which TLS accepts, is refused by our own rules", async () => {
  const { dial, refusal, accepted } = await scene();
  const life = { notBeforeMs: startMs - hourMs, notAfterMs: startMs + hourMs };
  const leaf = craft({ issuer: pki.issuer, uris: [web, orders], ...life });
  await dial({ identity: { ...webIdentity, chain: [leaf, pki.intermediate], key: craftedKey } });
  expect((await refusal()).code).toBe("PEER_NOT_A_WORKLOAD");
  expect(accepted).toHaveLength(0);
});

test("those who run the mesh are no workloads: neither an administrator nor the control plane is a peer", async () => {
  for (const id of ["spiffe://mesh.local/admin/ann", "spiffe://mesh.local/hauberk/control"]) {
    const { dial, refusal, accepted } = await scene();
    await dial({ identity: pki.issue(id) });
    expect((await refusal()).code).toBe("PEER_NOT_A_WORKLOAD");
    expect(accepted).toHaveLength(0);
  }
});

test("a swapped identity serves the next handshake, and older connections stay until they are drained", async () => {
  const { dial, identity, accepted, listener, connection } = await scene();
  const before = dialled(await dial());
  await connection();
  const next = pki.issue(orders);
  identity.publish(next);
  const after = dialled(await dial());
  await connection(1);
  expect(provenPeerOf(after)?.leaf.serial).toBe(next.chain[0]?.serial);
  expect(accepted.map((one) => one.life.generation)).toEqual([ordersIdentity.generation, next.generation]);
  expect(before.destroyed).toBe(false);
  listener.drainBefore(next.generation, 700);
  expect(accepted.map((one) => one.drains)).toEqual([[700], []]);
  listener.drainWhere((peer) => peer.id.text === web, 600);
  expect(accepted.map((one) => one.drains)).toEqual([[700, 600], [600]]);
});

test("a handshake that began before the swap is of the certificate that it shows, also where it ends after", async () => {
  const { dial, identity, accepted, listener, connection } = await scene();
  const early = connectPlain({ host: "127.0.0.1", port: listener.port });
  closers.push(() => early.destroy());
  await once(early, "connect");
  // Accepted in their order: when this one stands, the one before has been accepted too.
  await dial();
  await connection();
  const next = pki.issue(orders);
  identity.publish(next);
  await dial();
  await connection(1);
  const late = plainTls(listener.port, webIdentity, { socket: early });
  await once(late, "secureConnect");
  await connection(2);
  expect(accepted.map(({ life }) => life.generation)).toEqual(
    [1, 2, 1].map((at) => (at === 1 ? ordersIdentity : next).generation),
  );
  expect(late.getPeerCertificate().serialNumber.toLowerCase()).toBe(ordersIdentity.chain[0]?.serial);
});

test("an identity that is published while a listener begins to listen is the one that it shows", async () => {
  const identity = new Published(ordersIdentity);
  const listening = listenMutualTls({
    host: "127.0.0.1",
    port: 0,
    identity,
    trustDomain: "mesh.local",
    clock: new ManualClock(startMs),
    options: defaultsOf(tlsOptions),
    onConnection: () => undefined,
    onRefused: () => undefined,
  });
  const renewed = pki.issue(orders);
  identity.publish(renewed);
  const listener = await listening;
  closers.push(() => listener.close());
  const socket = plainTls(listener.port, webIdentity);
  await once(socket, "secureConnect");
  expect(socket.getPeerCertificate().serialNumber.toLowerCase()).toBe(renewed.chain[0]?.serial);
});

test("a connection that does not drain in its time is ended", async () => {
  const { dial, listener, clock, connection } = await scene();
  const socket = dialled(await dial());
  await connection();
  listener.drainBefore(Infinity, 2000);
  clock.advance(1500);
  expect(listener.connections).toBe(1);
  clock.advance(1000);
  await once(socket, "close");
});

test("no session that was ever received is resumed, not before a swap and not after", async () => {
  const { listener, identity, connection } = await scene();
  const sessions: Buffer[] = [];
  let count = 0;
  const collect = async (session?: Buffer): Promise<boolean> => {
    const socket = plainTls(listener.port, webIdentity, session === undefined ? {} : { session });
    socket.on("session", (one: Buffer) => sessions.push(one));
    await once(socket, "secureConnect");
    const { socket: served } = await connection(count++);
    served.write("x");
    await once(socket, "data"); // Tickets come before it.
    const reused = socket.isSessionReused();
    socket.destroy();
    return reused;
  };
  await collect();
  identity.publish(pki.issue(orders));
  await collect();
  expect(sessions.length).toBeGreaterThan(0);
  for (const session of sessions.slice()) expect(await collect(session)).toBe(false);
});

test("a server without these options would resume: what the test above sees is not always so", async () => {
  const { cert, key, ca } = secureContextOptions(ordersIdentity);
  const server: Server = createServer(
    { cert, key, ca, requestCert: true, rejectUnauthorized: true, sessionIdContext: "x" } as object,
    (socket: TLSSocket) => {
      socket.on("error", () => undefined);
      socket.write("x");
    },
  );
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closers.push(() => server.close());
  const { port } = server.address() as AddressInfo;
  const first = plainTls(port, webIdentity);
  const [session] = (await once(first, "session")) as [Buffer];
  first.destroy();
  const second = plainTls(port, webIdentity, { session });
  await once(second, "secureConnect");
  expect(second.isSessionReused()).toBe(true);
});

test("connections over the limit are dropped, and said", async () => {
  const { dial, refusal, connection } = await scene({ options: { tlsConnectionsMax: 1 } });
  dialled(await dial());
  await connection();
  expect(codeOf(await dial())).toBe("CONNECT_FAILED");
  expect((await refusal()).code).toBe("LIMIT_CONNECTIONS");
});

test("one identity gets its share of the connections, and leaves places for others: LIMIT_PEER", async () => {
  const { listener, dial, refusal, connection } = await scene({
    options: { tlsConnectionsMax: 4 },
    peerShareRatio: 0.5,
  });
  const first = dialled(await dial());
  await connection(0);
  dialled(await dial());
  await connection(1);
  // In TLS 1.3 a client is connected before the server has said no.
  const third = dialled(await dial());
  third.resume();
  await once(third, "close");
  expect(await refusal()).toMatchObject({ code: "LIMIT_PEER", message: expect.stringContaining(web) });
  dialled(await dial({ identity: pki.issue("spiffe://mesh.local/ns/default/sa/ledger") }));
  await connection(2);
  expect(listener.connections).toBe(3);
  // A place that is given back can be taken again, by whomever.
  const gone = once((await connection(0)).socket, "close");
  first.destroy();
  await gone;
  dialled(await dial());
  await connection(3);
});

test("one address gets its share of handshakes under way, and the places come back", async () => {
  const { listener, dial, refusal, connection } = await scene({ options: { handshakesPerAddressMax: 2 } });
  const silent = [connectPlain(listener.port, "127.0.0.1"), connectPlain(listener.port, "127.0.0.1")];
  for (const socket of silent) {
    socket.on("error", () => undefined);
    await once(socket, "connect");
  }
  expect(codeOf(await dial())).toBe("CONNECT_FAILED");
  expect(await refusal()).toMatchObject({ code: "LIMIT_CONNECTIONS", hint: expect.stringContaining("PER_ADDRESS") });
  for (const socket of silent) {
    socket.end();
    await once(socket, "close");
  }
  // Proven connections do not count: three stand where two handshakes may be under way.
  for (let i = 0; i < 3; i++) {
    dialled(await dial());
    await connection(i);
  }
});

test("an address never gets more than half of all connections for its handshakes", async () => {
  const { listener, dial } = await scene({ options: { tlsConnectionsMax: 4 } });
  const silent = Array.from({ length: 2 }, () => connectPlain(listener.port, "127.0.0.1"));
  for (const socket of silent) await once(socket, "connect");
  expect(codeOf(await dial())).toBe("CONNECT_FAILED");
  for (const socket of silent) socket.destroy();
});

test("bytes that are no TLS, and a client that says nothing, end without harm", async () => {
  const { listener, refusal, refusals, dial } = await scene({ options: { handshakeMs: 100 } });
  const garbage = connectPlain(listener.port, "127.0.0.1");
  garbage.on("error", () => undefined);
  garbage.write("GET / HTTP/1.1\r\n\r\n");
  await refusal();
  refusals.length = 0;
  const silent = connectPlain(listener.port, "127.0.0.1");
  silent.on("error", () => undefined);
  closers.push(() => silent.destroy());
  await refusal();
  await once(silent.resume(), "close");
  expect(codeOf(await dial())).toBe("connected");
});

test("a connection drains before either certificate ends, and has ended when it ends, at both ends", async () => {
  const { dial, clock, connection, listener } = await scene();
  const endings: number[] = [];
  const short = pki.issue(web, { notAfterMs: startMs + 600_000 });
  const socket = dialled(await dial({ identity: short, onEnding: (withinMs) => endings.push(withinMs) }));
  const { drains, life } = await connection();
  expect(life.endsAtMs).toBe(short.notAfterMs);
  clock.advance(short.notAfterMs - startMs - 31_000);
  expect([drains, endings]).toEqual([[], []]);
  clock.advance(2000);
  expect([drains.length, endings.length]).toEqual([1, 1]);
  expect(drains[0]).toBeLessThanOrEqual(30_000);
  clock.advance(27_000);
  expect([listener.connections, socket.destroyed]).toEqual([1, false]);
  clock.advance(short.notAfterMs - clock.wallMs() - 1); // Not a moment later than the certificate.
  expect(socket.destroyed).toBe(true);
  while (listener.connections > 0) await new Promise((resolve) => setImmediate(resolve));
});

test("the end also comes when an operator or a sleeping machine moves the wall clock", async () => {
  const { dial, clock, connection } = await scene();
  const socket = dialled(await dial());
  const { drains } = await connection();
  clock.setWall(startMs + 2 * hourMs);
  clock.advance(500);
  expect(drains).toEqual([]); // The dialler's own end has come, and closes.
  expect(socket.destroyed).toBe(true);
});

test("a dial that gets no handshake fails in its time, and so does one to nobody", async () => {
  const server = createPlain(() => undefined).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const { dial, clock } = await scene();
  const waiting = dial({ port, timeoutMs: 700 });
  await once(server, "connection");
  clock.advance(700);
  expect(codeOf(await waiting)).toBe("CONNECT_FAILED");
  server.close();
  expect(codeOf(await dial({ port }))).toBe("CONNECT_FAILED");
});

test("a peer without a protocol in common is refused", async () => {
  const server = createServer({
    ...secureContextOptions(ordersIdentity),
    requestCert: true,
    ALPNCallback: () => undefined,
  });
  server.on("secureConnection", (socket) => socket.on("error", () => undefined));
  server.on("tlsClientError", () => undefined);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closers.push(() => server.close());
  const { dial } = await scene();
  expect(codeOf(await dial({ port: (server.address() as AddressInfo).port }))).toBe("CONNECT_FAILED");
});

test("a context is built once per identity", () => {
  expect(dialContextOf(webIdentity)).toBe(dialContextOf(webIdentity));
});

test("a port in use is PORT_TAKEN", async () => {
  const { listener, identity, clock } = await scene();
  const terms = {
    host: "127.0.0.1",
    port: listener.port,
    identity,
    trustDomain: "mesh.local",
    clock,
    options: defaultsOf(tlsOptions),
  };
  const again = listenMutualTls({ ...terms, onConnection: () => undefined, onRefused: () => undefined });
  await expect(again).rejects.toMatchObject({ code: "PORT_TAKEN" });
});

test("closing drains what is there, takes nothing new, and resolves when all has ended", async () => {
  const { dial, listener, clock, connection } = await scene();
  const socket = dialled(await dial());
  const { drains } = await connection();
  const closed = listener.close(5000);
  expect(drains).toEqual([5000]);
  expect(codeOf(await dial())).toBe("CONNECT_FAILED");
  clock.advance(6000);
  await closed;
  await once(socket, "close");
});

test("what is thrown while the peer of a call is judged costs that call, not the process", async () => {
  const { dial } = await scene();
  const broken = new ManualClock(startMs);
  broken.wallMs = () => {
    throw new Error("a bug");
  };
  const refused = await dial({ clock: broken });
  expect(codeOf(refused)).toBe("CONNECT_FAILED");
});
