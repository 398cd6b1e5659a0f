import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { connect as connectTcp, type AddressInfo, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { connect as connectTls, createSecureContext } from "node:tls";
import { fileURLToPath } from "node:url";
import { allow, applyText, exportIdentity, type ClientIdentity } from "../../test/scenario/routees.ts";
import { eventually, Mesh, type Started } from "../../test/support/mesh.ts";

/** What connections and stuck bodies cost a sidecar, as resident memory of its process (/proc/PID/status, Linux). */

/** Bytes. */
function residentOf(pid: number): number {
  const { 1: kilobytes } = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
  return Number(kilobytes) * 1024;
}

/** How many file descriptors this process, and so its children, may have open. */
export function descriptorsMax(): number {
  return Number(/^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1] ?? 1024);
}

interface Subject {
  readonly mesh: Mesh;
  readonly web: Started;
  readonly orders: Started;
  readonly identity: ClientIdentity;
  /** Sockets of requests that the routee does not read, and of answers that it goes on writing. */
  readonly routee: StubbornRoutee;
  end(): Promise<void>;
}

/** A mesh of web and orders, warm: a few hundred calls have gone through. */
export async function startSubject(environment: Readonly<Record<string, string>> = {}): Promise<Subject> {
  // What a quiet sidecar gives back would be taken for something that never grew.
  const mesh = await Mesh.create({ environment: { HAUBERK_TRIM_AFTER_MS: "0" } });
  await mesh.control();
  const routee = await stubbornRoutee();
  const [web, orders] = await Promise.all([
    mesh.sidecar("web", [], environment),
    mesh.sidecar("orders", ["--app", `http:${routee.port}`], { ...environment, ...reporting }),
    applyText(mesh, allow("web", "orders")),
  ]);
  const identity = await exportIdentity(mesh, "web");
  await eventually("web calls orders", 10_000, async () => ((await askOnce(web)) === 200 ? true : undefined));
  for (let i = 0; i < 300; i++) await askOnce(web);
  return { mesh, web, orders, identity, routee, end: () => mesh.end().then(() => routee.close()) };
}

function outboundPort(sidecar: Started): number {
  return Number(sidecar.ready["outbound"]);
}

function inboundPort(sidecar: Started): number {
  return Number(sidecar.ready["inbound"]);
}

const question = "GET / HTTP/1.1\r\nHost: orders\r\n\r\n";

/** One request on a connection of its own; gives its status. */
async function askOnce(sidecar: Started): Promise<number> {
  const socket = connectTcp(outboundPort(sidecar), "127.0.0.1");
  socket.on("error", () => undefined);
  const head = await answerTo(socket, question);
  socket.destroy();
  return Number(head.slice(9, 12));
}

/** Says something and waits for the first bytes that come back; "" where the connection ends instead. */
function answerTo(socket: Socket, text: string): Promise<string> {
  return new Promise((resolve) => {
    socket.once("data", (chunk: Buffer) => resolve(chunk.toString("latin1")));
    socket.once("close", () => resolve(""));
    socket.write(text);
  });
}

/** A program that never stops writing to `/endless`, never reads a POST, and answers everything else. */
interface StubbornRoutee {
  readonly port: number;
  /** Requests that it has begun to answer, or not to read. */
  readonly under: number;
  /** Breaks them all off. */
  release(): void;
  close(): Promise<void>;
}

async function stubbornRoutee(): Promise<StubbornRoutee> {
  let under = 0;
  const chunk = Buffer.alloc(65_536, "x");
  const held = new Set<Socket>();
  const server = createHttpServer((request, response) => {
    if (request.method === "POST") {
      under++;
      held.add(request.socket);
      request.pause();
      return;
    }
    if (request.url !== "/endless") {
      response.end("fine");
      return;
    }
    under++;
    held.add(request.socket);
    response.writeHead(200, { "content-length": String(2 ** 30) });
    const pump = (): void => {
      while (response.write(chunk));
    };
    response.on("drain", pump);
    pump();
  });
  server.on("error", () => undefined);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    get under() {
      return under;
    },
    release: () => {
      for (const socket of held) socket.destroy();
      held.clear();
    },
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

export interface Cost {
  readonly count: number;
  /** Bytes of resident memory for each. */
  readonly each: number;
}

const heldFile = join(mkdtempSync(join(tmpdir(), "hauberk-held-")), "held");
const reporting = {
  NODE_OPTIONS: `--import=${fileURLToPath(new URL("./report-held.mjs", import.meta.url))}`,
  HAUBERK_HELD_FILE: heldFile,
};

/** What a process that runs report-held.mjs holds after a collection, in bytes. */
async function heldBy(pid: number): Promise<number> {
  const file = `${heldFile}.${pid}`;
  rmSync(file, { force: true });
  await settled(pid);
  process.kill(pid, "SIGUSR2");
  return eventually("the process reports what it holds", 10_000, () => {
    const text = existsSync(file) ? readFileSync(file, "utf8") : "";
    return text === "" ? undefined : Number(text);
  });
}

/** Waits until the memory of a process has stopped moving, and gives it. */
async function settled(pid: number): Promise<number> {
  let before = residentOf(pid);
  let still = 0;
  for (let turn = 0; turn < 40 && still < 3; turn++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    const now = residentOf(pid);
    still = Math.abs(now - before) < 512 * 1024 ? still + 1 : 0;
    before = now;
  }
  return before;
}

/**
 * What `count` connections cost, each of which asked one question before it fell silent. `oneMore`: what became of the last
 * of a few more while they stood; the sidecar may have a limit.
 */
export async function plainConnections(
  subject: Subject,
  count: number,
): Promise<Cost & { oneMore: "served" | "ended" }> {
  const port = outboundPort(subject.web);
  // Breakers that stuck bodies opened close again.
  await eventually("web calls orders", 30_000, async () => ((await askOnce(subject.web)) === 200 ? true : undefined));
  const before = await settled(subject.web.pid);
  const sockets = await openMany(count, () => plainTo(port));
  const after = await settled(subject.web.pid);
  const more = Array.from({ length: 2 * spareConnections }, () => connectTcp(port, "127.0.0.1"));
  const answers = await Promise.all(
    more.map((socket) =>
      answerTo(
        socket.on("error", () => undefined),
        question,
      ),
    ),
  );
  const oneMore = answers.includes("") ? "ended" : "served";
  closeAll([...sockets, ...more]);
  return { count, each: (after - before) / count, oneMore };
}

async function plainTo(port: number): Promise<Socket> {
  const socket = connectTcp(port, "127.0.0.1");
  socket.on("error", () => undefined);
  const head = await answerTo(socket, question);
  if (!head.startsWith("HTTP/1.1 ")) throw new Error(`a connection was answered ${JSON.stringify(head.slice(0, 40))}`);
  return socket;
}

async function openMany(count: number, open: () => Promise<Socket>): Promise<Socket[]> {
  const sockets: Socket[] = [];
  const worker = async (): Promise<void> => {
    while (sockets.length + busy < count) {
      busy++;
      const socket = await open();
      busy--;
      sockets.push(socket);
    }
  };
  let busy = 0;
  await Promise.all(Array.from({ length: 20 }, worker));
  return sockets;
}

function closeAll(sockets: readonly Socket[]): void {
  for (const socket of sockets) socket.destroy();
}

/**
 * What `count` idle mTLS connections cost the inbound sidecar, and the same a bare node:tls server in this run: resident
 * memory after a garbage collection, without the pages that V8 keeps free. Its young generation alone grows by some 30 MB
 * with the first few thousand objects that live on, and then stays: that is a process's cost and no connection's.
 */
export async function tlsConnections(
  subject: Subject,
  count: number,
): Promise<{ sidecar: Cost & { oneMore: "served" | "ended" }; bare: Cost }> {
  const bare = await startBare(subject.identity);
  try {
    const bareCost = await tlsCost({ pid: bare.pid, port: bare.port, identity: subject.identity, count });
    const cost = await tlsCost({
      pid: subject.orders.pid,
      port: inboundPort(subject.orders),
      identity: subject.identity,
      count,
    });
    return { sidecar: cost, bare: bareCost };
  } finally {
    bare.child.kill("SIGKILL");
  }
}

const preface = Buffer.concat([
  Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]),
  Buffer.from([0, 0, 0, 4, 1, 0, 0, 0, 0]),
]);

/** Opened before the count begins: they make a process load what it loads once. */
export const warmConnections = 300;
/** What a limit has to allow beyond: the hop, and what was closed a moment ago. */
export const spareConnections = 20;

async function tlsCost(of: {
  pid: number;
  port: number;
  identity: ClientIdentity;
  count: number;
}): Promise<Cost & { oneMore: "served" | "ended" }> {
  const secureContext = createSecureContext({ key: of.identity.key, cert: of.identity.cert });
  const open = (): Promise<Socket> =>
    new Promise((resolve, reject) => {
      const socket = connectTls({
        port: of.port,
        host: "127.0.0.1",
        secureContext,
        rejectUnauthorized: false,
        ALPNProtocols: ["h2"],
      });
      socket.once("error", reject);
      // Settings from either side: the handshake is over for both, and HTTP/2 stands where it is spoken.
      socket.once("data", () => resolve(socket));
      socket.once("secureConnect", () => socket.write(preface));
    });
  const warm = await openMany(warmConnections, open);
  const before = await heldBy(of.pid);
  const sockets = await openMany(of.count, open);
  const after = await heldBy(of.pid);
  const more = await Promise.allSettled(Array.from({ length: 2 * spareConnections }, open));
  const oneMore = more.some(({ status }) => status === "rejected") ? "ended" : "served";
  closeAll(more.flatMap((one) => (one.status === "fulfilled" ? [one.value] : [])));
  closeAll([...warm, ...sockets]);
  return { count: of.count, each: (after - before) / of.count, oneMore };
}

async function startBare(identity: ClientIdentity): Promise<{ child: ChildProcess; pid: number; port: number }> {
  const file = fileURLToPath(new URL("./bare-tls-server.ts", import.meta.url));
  const child = spawn(process.execPath, [file], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, ...reporting },
  });
  child.stdin.end(JSON.stringify(identity));
  const port = await new Promise<number>((resolve) =>
    createInterface({ input: child.stdout }).once("line", (line) => resolve(Number(line))),
  );
  return { child, pid: child.pid as number, port };
}

/** What `count` clients cost both sidecars that asked for a gigabyte and do not read it. */
export async function unreadAnswers(subject: Subject, count: number): Promise<{ web: Cost; orders: Cost }> {
  return stuck(subject, count, "GET /endless HTTP/1.1\r\nHost: orders\r\n\r\n");
}

/** What `count` uploads of a gigabyte cost both sidecars that the routee does not read. */
export async function unreadRequests(subject: Subject, count: number): Promise<{ web: Cost; orders: Cost }> {
  return stuck(subject, count, `POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: ${2 ** 30}\r\n\r\n`);
}

async function stuck(subject: Subject, count: number, text: string): Promise<{ web: Cost; orders: Cost }> {
  const { web, orders, routee } = subject;
  const before = [await settled(web.pid), await settled(orders.pid)] as const;
  const begun = routee.under;
  const sockets: Socket[] = [];
  const chunk = Buffer.alloc(65_536, "u");
  for (let i = 0; i < count; i++) {
    const socket = connectTcp(outboundPort(web), "127.0.0.1");
    socket.on("error", () => undefined);
    socket.pause();
    socket.write(text);
    if (text.startsWith("POST")) {
      const pump = (): void => {
        while (socket.write(chunk));
      };
      socket.on("drain", pump);
      pump();
    }
    sockets.push(socket);
  }
  await eventually("every request reaches the routee", 10_000, () =>
    routee.under >= begun + count ? true : undefined,
  );
  // Whoever reads is served meanwhile, also on the same hop.
  const status = await askOnce(web);
  if (status !== 200) throw new Error(`a call beside stuck bodies was answered ${status}`);
  const after = [await settled(web.pid), await settled(orders.pid)] as const;
  closeAll(sockets);
  // A sidecar that rests from reading cannot see that its client has gone.
  routee.release();
  return {
    web: { count, each: (after[0] - before[0]) / count },
    orders: { count, each: (after[1] - before[1]) / count },
  };
}
