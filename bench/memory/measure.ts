import { spawn, type ChildProcess } from "node:child_process";
import { createServer as createHttpServer } from "node:http";
import { connect as connectTcp, type AddressInfo, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { createSecureContext } from "node:tls";
import { fileURLToPath } from "node:url";
import { allow, applyText, exportIdentity, type ClientIdentity } from "../../test/scenario/routees.ts";
import { eventually, Mesh, metricsOf, sumOf, type Started } from "../../test/support/mesh.ts";
import { greeted, http2To, plainThatAsked } from "./idle.ts";
import { costOf, settled, type Cost, type Idle } from "./resident.ts";

/** What connections and stuck bodies cost a sidecar, as resident memory of its process (/proc/PID/status, Linux). */

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
    mesh.sidecar("orders", ["--app", `http:${routee.port}`], environment),
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

/**
 * What `count` connections cost, each of which asked one question before it fell silent. `oneMore`: what became of the last
 * of a few more while they stood; the sidecar may have a limit.
 */
export async function plainConnections(
  subject: Subject,
  count: number,
): Promise<Cost & { oneMore: "served" | "ended" }> {
  const port = outboundPort(subject.web);
  // Breakers that stuck bodies opened close again; one that is half open lets one call through, and not many at once.
  await eventually("web calls orders", 30_000, async () => {
    const statuses = await Promise.all(Array.from({ length: 20 }, () => askOnce(subject.web)));
    return statuses.every((status) => status === 200) ? true : undefined;
  });
  return costAndOneMore({
    pid: subject.web.pid,
    count,
    open: () => plainThatAsked(port, { host: "orders", path: "/" }),
  });
}

/**
 * What `count` idle mTLS connections cost the inbound sidecar, and the same a bare node:tls server in this run, measured the
 * same way: as growth of resident memory, without a garbage collection that nobody else would make.
 */
export async function tlsConnections(
  subject: Subject,
  count: number,
): Promise<{ sidecar: Cost & { oneMore: "served" | "ended" }; bare: Cost }> {
  const { identity, orders } = subject;
  const secureContext = createSecureContext({ key: identity.key, cert: identity.cert });
  const bare = await startBare(identity);
  try {
    const bareTo = { port: bare.port, secureContext };
    const bareCost = await costOf({ pid: bare.pid, count, open: () => greeted(bareTo, hello) });
    const to = { port: inboundPort(orders), secureContext };
    return { bare: bareCost, sidecar: await costAndOneMore({ pid: orders.pid, count, open: () => http2To(to) }) };
  } finally {
    bare.child.kill("SIGKILL");
  }
}

/** As many bytes as a client of HTTP/2 begins with. */
const hello = Buffer.alloc(64, "x");

/** What a limit has to allow beyond: the hop, and what was closed a moment ago. */
export const spareConnections = 20;

async function costAndOneMore(of: {
  readonly pid: number;
  readonly count: number;
  open(): Promise<Idle>;
}): Promise<Cost & { oneMore: "served" | "ended" }> {
  let oneMore: "served" | "ended" = "served";
  const cost = await costOf({
    ...of,
    meanwhile: async () => {
      const more = await Promise.allSettled(Array.from({ length: 2 * spareConnections }, () => of.open()));
      if (more.some(({ status }) => status === "rejected")) oneMore = "ended";
      for (const one of more) if (one.status === "fulfilled") one.value.close();
    },
  });
  return { ...cost, oneMore };
}

async function startBare(identity: ClientIdentity): Promise<{ child: ChildProcess; pid: number; port: number }> {
  const file = fileURLToPath(new URL("./bare-tls-server.ts", import.meta.url));
  const child = spawn(process.execPath, [file], {
    stdio: ["pipe", "pipe", "inherit"],
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
  for (const socket of sockets) socket.destroy();
  // A sidecar that rests from reading cannot see that its client has gone.
  routee.release();
  // Each of them may still be a failure for a breaker, until it is over.
  for (const sidecar of [web, orders]) {
    await eventually("the stuck requests end", 30_000, async () =>
      sumOf(await metricsOf(sidecar), "hauberk_requests_open") === 0 ? true : undefined,
    );
  }
  return {
    web: { count, each: (after[0] - before[0]) / count },
    orders: { count, each: (after[1] - before[1]) / count },
  };
}
