import { randomInt } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTcpServer, type AddressInfo, type Server as TcpServer, type Socket } from "node:net";
import { join } from "node:path";
import { connect, createServer as createTlsServer, type TLSSocket } from "node:tls";
import { ask, eventually, type Mesh, type Started } from "../support/mesh.ts";

/** What scenarios put behind, before and beside sidecars: programs that answer, and endpoints that only write down what came. */

export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

export interface Routee {
  readonly port: number;
  /** Every request whose body came whole, in order. */
  readonly requests: readonly SeenRequest[];
  close(): Promise<void>;
}

/** A plain HTTP program that answers 200 with its name, or whatever `answer` does. */
export async function openRoutee(
  about: {
    name?: string;
    host?: string;
    port?: number;
    answer?: (seen: SeenRequest, response: ServerResponse) => void;
  } = {},
): Promise<Routee> {
  const { name = "routee", host = "127.0.0.1", port = 0 } = about;
  const requests: SeenRequest[] = [];
  const answer = about.answer ?? ((_seen, response) => response.end(name));
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("error", () => undefined);
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.once("end", () => {
      const seen = {
        method: request.method ?? "",
        path: request.url ?? "",
        headers: request.headers,
        body: Buffer.concat(chunks).toString("utf8"),
      };
      requests.push(seen);
      answer(seen, response);
    });
  });
  await listening(server, host, port);
  return { port: portOf(server), requests, close: () => closed(server) };
}

export interface RecordedConnection {
  /** All that came, decrypted where it was TLS. */
  readonly bytes: () => Buffer;
  readonly ended: Promise<void>;
  /** The SPIFFE ID that the peer showed; undefined over TCP or without a certificate. */
  readonly peer: string | undefined;
}

export interface RecordedEndpoint {
  readonly port: number;
  readonly connections: readonly RecordedConnection[];
  /** How many TCP connections were made, with or without a handshake after. */
  arrivals(): number;
  /** Everything that came over every connection. */
  bytes(): Buffer;
  close(): Promise<void>;
}

/** Accepts TCP and writes down every byte; answers nothing unless `answer` is given. */
export async function recordTcp(about: { port?: number; answer?: string } = {}): Promise<RecordedEndpoint> {
  const record = new Recorder(about.answer);
  const server = createTcpServer((socket) => record.take(socket, undefined));
  await listening(server, "127.0.0.1", about.port ?? 0);
  return record.endpoint(server);
}

/** Accepts TLS with any client certificate of `identity`'s authority and writes down every decrypted byte. */
export async function recordTls(
  identity: ClientIdentity,
  about: { port?: number; alpn?: readonly string[]; answer?: string } = {},
): Promise<RecordedEndpoint> {
  const record = new Recorder(about.answer);
  const { key, cert, ca } = identity;
  const server = createTlsServer(
    {
      key,
      cert,
      ca,
      requestCert: true,
      rejectUnauthorized: true,
      ALPNProtocols: [...(about.alpn ?? ["h2", "http/1.1"])],
    },
    (socket) => record.take(socket, uriOf(socket)),
  );
  server.on("tlsClientError", () => undefined);
  await listening(server, "127.0.0.1", about.port ?? 0);
  return record.endpoint(server);
}

class Recorder {
  readonly #connections: RecordedConnection[] = [];
  readonly #sockets = new Set<Socket>();
  readonly #answer: string | undefined;
  #arrivals = 0;

  constructor(answer: string | undefined) {
    this.#answer = answer;
  }

  take(socket: Socket, peer: string | undefined): void {
    const chunks: Buffer[] = [];
    this.#sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("data", (chunk: Buffer) => chunks.push(chunk));
    if (this.#answer !== undefined) socket.write(this.#answer);
    const ended = new Promise<void>((resolve) => socket.once("close", () => resolve()));
    this.#connections.push({ bytes: () => Buffer.concat(chunks), ended, peer });
  }

  endpoint(server: TcpServer): RecordedEndpoint {
    server.on("connection", () => this.#arrivals++);
    return {
      arrivals: () => this.#arrivals,
      port: portOf(server),
      connections: this.#connections,
      bytes: () => Buffer.concat(this.#connections.map((connection) => connection.bytes())),
      close: () => {
        for (const socket of this.#sockets) socket.destroy();
        return closed(server);
      },
    };
  }
}

/** A certificate chain with its key and the roots, as PEM: what any TLS program can use. */
export interface ClientIdentity {
  readonly key: string;
  readonly cert: string;
  readonly ca: string;
  readonly notAfterMs: number;
}

/** The SVID of a sidecar of this mesh, as its owner exports it. */
export async function exportIdentity(mesh: Mesh, service: string, instance = "1"): Promise<ClientIdentity> {
  const out = join(mkdtempSync(join(mesh.folder, "export-")), "identity.pem");
  const { notAfterMs } = await mesh.json<{ notAfterMs: number }>([
    "certs",
    "export",
    join(mesh.home, "certs", service, instance),
    "--out",
    out,
  ]);
  const text = readFileSync(out, "utf8");
  const at = text.indexOf("-----BEGIN PRIVATE KEY-----");
  return {
    cert: text.slice(0, at),
    key: text.slice(at),
    ca: readFileSync(join(mesh.home, "ca", "root.crt"), "utf8"),
    notAfterMs,
  };
}

export interface Spoken {
  /** All that the other end sent, decrypted. */
  readonly received: Buffer;
  /** Why it ended: the error's message, or "closed". */
  readonly because: string;
  readonly endedAtMs: number;
}

/**
 * Opens TLS with or without a certificate, sends `text`, and gives what came until the other end closed, or until `until` is
 * content with it.
 */
export function speakTls(
  target: { port: number; identity?: Partial<ClientIdentity>; alpn?: readonly string[]; host?: string },
  text: string,
  until: (received: Buffer) => boolean = () => false,
): Promise<Spoken> {
  const { port, identity = {}, alpn = ["http/1.1"], host = "127.0.0.1" } = target;
  const { key, cert } = identity;
  // This end proves nothing about its peer: it is the stranger, and wants to hear all that a stranger can.
  const socket = connect({
    host,
    port,
    ...(key === undefined ? {} : { key, cert }),
    ALPNProtocols: [...alpn],
    rejectUnauthorized: false,
  });
  return hear(socket, text, until);
}

/** Writes `text` on an open socket, and listens as `speakTls` does. */
export function hear(
  socket: Socket,
  text: string,
  until: (received: Buffer) => boolean = () => false,
): Promise<Spoken> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let because = "closed";
    socket.on("error", (error) => (because = error.message));
    socket.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      if (until(Buffer.concat(chunks))) socket.destroy();
    });
    socket.once("close", () => resolve({ received: Buffer.concat(chunks), because, endedAtMs: Date.now() }));
    socket.write(text);
  });
}

/** Makes the stored policy set equal to this text. */
export async function applyText(mesh: Mesh, text: string): Promise<void> {
  const folder = mkdtempSync(join(mesh.folder, "policies-"));
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "policies.yaml"), text);
  const applied = await mesh.applyPolicies(folder);
  if (applied.code !== 0) throw new Error(applied.err);
}

/** An ALLOW policy in its shortest form: `allow("web", "orders")`. */
export function allow(caller: string, called: string): string {
  return [
    "---",
    "apiVersion: hauberk.dev/v1",
    "kind: AuthorizationPolicy",
    `metadata: { name: ${caller}-calls-${called} }`,
    "spec:",
    `  target: { service: ${called} }`,
    "  action: ALLOW",
    `  rules: [{ from: [{ services: [${caller}] }] }]`,
    "",
  ].join("\n");
}

/** What many scenarios begin with: `web` may call `orders`, which answers with its name. */
export interface CallingPair {
  readonly control: Started;
  readonly web: Started;
  readonly orders: Started;
  readonly routee: Routee;
}

export async function webCallsOrders(
  mesh: Mesh,
  controlEnvironment: Readonly<Record<string, string>> = {},
): Promise<CallingPair> {
  const control = await mesh.control(controlEnvironment);
  const routee = await openRoutee({ name: "orders" });
  const [web, orders] = await Promise.all([
    mesh.sidecar("web"),
    mesh.sidecar("orders", ["--app", `http:${routee.port}`]),
    applyText(mesh, allow("web", "orders")),
  ]);
  await served(web);
  return { control, web, orders, routee };
}

/** Waits until `orders` answers the workload of this sidecar with its name. */
export async function served(web: Started): Promise<void> {
  await eventually("web calls orders", 10_000, async () => {
    const answer = await ask({ port: Number(web.ready["outbound"]), host: "orders", path: "/" });
    return answer.body === "orders" ? true : undefined;
  });
}

const givenPorts = new Set<number>();

/**
 * A port on which nobody listens now, and none that was given before; not one of those from 32768 on, which Linux gives to
 * listeners and connections of others meanwhile.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const server = createTcpServer();
    const port = randomInt(16_384, 32_768);
    if (givenPorts.has(port)) continue;
    try {
      await listening(server, "127.0.0.1", port);
    } catch {
      continue; // Taken.
    }
    givenPorts.add(port);
    await closed(server);
    return port;
  }
}

function uriOf(socket: TLSSocket): string | undefined {
  return /URI:([^,]+)/.exec(socket.getPeerCertificate().subjectaltname ?? "")?.[1];
}

async function listening(server: TcpServer, host: string, port: number): Promise<void> {
  server.listen(port, host);
  await once(server, "listening");
}

function portOf(server: TcpServer): number {
  return (server.address() as AddressInfo).port;
}

function closed(server: TcpServer | Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    if ("closeAllConnections" in server) server.closeAllConnections();
  });
}
