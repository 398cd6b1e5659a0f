import { once } from "node:events";
import { createServer, request, type Server } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { connect, createServer as createTcpServer, type AddressInfo, type Server as TcpServer } from "node:net";
import type { TLSSocket } from "node:tls";
import { afterAll, beforeAll, expect, test } from "vitest";
import { WebSocket, WebSocketServer } from "ws";
import { ask, eventually, Mesh, metricsOf, sumOf, serialOf, type Started } from "../support/mesh.ts";
import { allow, applyText, freePort, type ClientIdentity } from "./routees.ts";
import { signIdentity } from "./stranger.ts";

/**
 * Streams of every kind that began with leaves which ended long ago. A leaf has at least a quarter of its life left when it is
 * renewed: a machine so busy that this takes longer sees calls refused (PEER_EXPIRED, NO_IDENTITY), as it should.
 */
const leafMs = 10_000;
const rotations = 3;
const everyMs = 25;
const webId = "spiffe://mesh.local/ns/default/sa/web";

let mesh: Mesh;
let web: Started;
let orders: Started;
let http: Server;
let tcp: TcpServer;
let tcpPort: number;
/** How many streams of each kind the routee has ever seen begin. */
const begun = { http: 0, ws: 0, tcp: 0 };

beforeAll(async () => {
  http = createServer((incoming, response) => {
    if (incoming.url !== "/stream") return response.end("ok");
    begun.http++;
    let line = 0;
    const cancel = setInterval(() => response.write(`${line++}\n`), everyMs);
    response.on("error", () => undefined);
    response.once("close", () => clearInterval(cancel));
    return undefined;
  });
  new WebSocketServer({ server: http }).on("connection", (end) => {
    begun.ws++;
    end.on("message", (data) => end.send(data));
  });
  tcp = createTcpServer((socket) => {
    socket.once("data", () => begun.tcp++); // The sidecar looks now and then whether somebody accepts.
    socket.on("error", () => undefined);
    socket.pipe(socket);
  });
  const [httpAt, tcpAt, local] = [await portOf(http), await portOf(tcp), await freePort()];
  tcpPort = local;
  mesh = await Mesh.create({ config: `lifetimes: { leaf: ${leafMs / 1_000}s, allowSeconds: true }` });
  await mesh.control();
  [web, orders] = await Promise.all([
    mesh.sidecar("web", ["--to", `orders:${tcpAt}=${local}`]),
    mesh.sidecar("orders", ["--app", `http:${httpAt}`, "--app", `tcp:${tcpAt}`]),
  ]);
  await applyText(mesh, allow("web", "orders"));
  await eventually("web may call orders", 10_000, async () => {
    const answer = await ask({ port: outbound(), host: "orders", path: "/" });
    return answer.status === 200 ? true : undefined;
  });
});

afterAll(async () => {
  await mesh.end();
  http.closeAllConnections();
  http.close();
  tcp.close();
});

test("rotating leaves cuts no stream: an answer without end, a WebSocket and a TCP connection outlive three rotations at both ends", async () => {
  const beganMs = Date.now();
  const streams = await Promise.all([streamOfHttp(), streamOfWebSocket(), streamOfTcp()]);
  const seen = { web: new Set<string>(), orders: new Set<string>() };
  await eventually("both ends rotated three times and every first leaf has ended", 90_000, async () => {
    seen.web.add(await serialOf(web));
    seen.orders.add(await serialOf(orders));
    for (const stream of streams) expect(stream.cut()).toBeUndefined();
    // New requests go on beside them, on connections of the newest leaves.
    expect((await ask({ port: outbound(), host: "orders", path: "/" })).status).toBe(200);
    const rotated = Math.min(seen.web.size, seen.orders.size) > rotations;
    return (rotated && Date.now() > beganMs + 2 * leafMs + 1_000) || undefined;
  });
  for (const stream of streams) {
    const { sent, received } = await stream.end();
    // Lost, doubled or mixed up: nothing of it. Each kind sent about forty messages a second, for longer than two leaves.
    expect(received).toBe(sent);
    expect(stream.messages()).toBeGreaterThan((2 * leafMs) / everyMs / 4);
  }
  expect(begun).toEqual({ http: 1, ws: 1, tcp: 1 });
  for (const [sidecar, side] of [
    [web, "outbound"],
    [orders, "inbound"],
  ] as const) {
    const metrics = await metricsOf(sidecar);
    const proofs = (step: string): number =>
      sumOf(metrics, "hauberk_connection_proofs_total", [`side="${side}"`, `step="${step}"`]);
    for (const step of ["sent", "acknowledged", "accepted"]) expect(proofs(step), step).toBeGreaterThanOrEqual(2);
    expect(proofs("refused")).toBe(0);
  }
  // What the streams kept open closes with them.
  await eventually("only connections of the present are left", 5_000, async () => {
    const open = sumOf(await metricsOf(orders), "hauberk_connections_open", ['side="inbound"']);
    return open <= 2 || undefined;
  });
}, 120_000);

test("a peer that proves nothing is served until just before the first certificate ends, and not longer", async () => {
  const identity = signIdentity(mesh, webId, 4_000);
  const { text, endedAtMs, shownEndsAtMs } = await foreignStream(Number(orders.ready["inbound"]), identity);
  const lastMs = Math.min(identity.notAfterMs, shownEndsAtMs);
  expect(endedAtMs).toBeLessThanOrEqual(lastMs);
  expect(endedAtMs).toBeGreaterThan(lastMs - 2_000);
  expect(text).toMatch(/^0\n1\n2\n/);
});

/** One stream whose every byte is known. */
interface Stream {
  /** Why it ended, if it has. */
  cut(): string | undefined;
  messages(): number;
  /** Says no more, and gives all that was sent and received. */
  end(): Promise<{ sent: string; received: string }>;
}

function streamOfHttp(): Promise<Stream> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ port: outbound(), path: "/stream", headers: { host: "orders" }, agent: false });
    outgoing.once("error", reject);
    outgoing.once("response", (incoming) => {
      let received = "";
      let cut: string | undefined;
      incoming.setEncoding("latin1");
      incoming.on("data", (chunk: string) => (received += chunk));
      incoming.on("error", (error) => (cut ??= error.message));
      incoming.once("close", () => (cut ??= "closed"));
      const lines = (): number => received.split("\n").length - 1;
      resolve({
        cut: () => cut,
        messages: lines,
        end: () => {
          const whole = received.slice(0, received.lastIndexOf("\n") + 1);
          const sent = Array.from({ length: lines() }, (_, line) => `${line}\n`).join("");
          incoming.destroy();
          return Promise.resolve({ sent, received: whole });
        },
      });
    });
    outgoing.end();
  });
}

async function streamOfWebSocket(): Promise<Stream> {
  const socket = new WebSocket(`ws://127.0.0.1:${outbound()}/`, { headers: { host: "orders" } });
  let received = "";
  let cut: string | undefined;
  socket.on("message", (data: Buffer) => (received += String(data)));
  socket.on("error", (error) => (cut ??= error.message));
  socket.once("close", (code) => (cut ??= `closed with ${code}`));
  await once(socket, "open");
  return talk((text) => socket.send(text), {
    cut: () => cut,
    received: () => received,
    close: () => socket.close(),
  });
}

async function streamOfTcp(): Promise<Stream> {
  const socket = connect(tcpPort, "127.0.0.1");
  let received = "";
  let cut: string | undefined;
  socket.setEncoding("latin1");
  socket.on("data", (chunk: string) => (received += chunk));
  socket.on("error", (error) => (cut ??= error.message));
  socket.once("close", () => (cut ??= "closed"));
  await once(socket, "connect");
  return talk((text) => socket.write(text), {
    cut: () => cut,
    received: () => received,
    close: () => socket.destroy(),
  });
}

/** Sends a number at a time, and hears it back. */
function talk(
  say: (text: string) => unknown,
  about: { cut: () => string | undefined; received: () => string; close: () => void },
): Stream {
  let sent = "";
  let count = 0;
  const timer = setInterval(() => {
    const text = `${count++}\n`;
    sent += text;
    say(text);
  }, everyMs);
  return {
    cut: about.cut,
    messages: () => count,
    end: async () => {
      clearInterval(timer);
      await eventually("the echo is whole", 5_000, () => about.received().length >= sent.length || undefined);
      about.close();
      return { sent, received: about.received() };
    },
  };
}

/** A client of node:http2 with an SVID and no sidecar, in the middle of an answer, until the other end closes. */
async function foreignStream(
  port: number,
  { key, cert }: ClientIdentity,
): Promise<{ text: string; endedAtMs: number; shownEndsAtMs: number }> {
  const session = connectHttp2(`https://127.0.0.1:${port}`, { key, cert, rejectUnauthorized: false });
  session.on("error", () => undefined);
  await once(session, "connect");
  const shownEndsAtMs = Date.parse((session.socket as TLSSocket).getPeerCertificate().valid_to);
  const stream = session.request({ ":path": "/stream", ":authority": "orders" });
  let text = "";
  stream.setEncoding("latin1");
  stream.on("data", (chunk: string) => (text += chunk));
  stream.on("error", () => undefined);
  await once(session, "close");
  return { text, endedAtMs: Date.now(), shownEndsAtMs };
}

function outbound(): number {
  return Number(web.ready["outbound"]);
}

async function portOf(server: TcpServer): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}
