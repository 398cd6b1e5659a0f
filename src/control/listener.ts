import type { Server, ServerOptions } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { fastify, type FastifyError, type FastifyInstance, type FastifyReply, type FastifyRequest } from "fastify";
import type { Clock } from "../base/clock.ts";
import { failures, HauberkError, messageOf, refuse, type Refusal } from "../base/errors.ts";
import { shareOf } from "../base/ip-address.ts";
import type { OptionValues } from "../base/options.ts";
import { answerOf } from "../contract/read-enrollment.ts";
import { parseJson } from "../contract/shape.ts";
import { isRefusal } from "../base/errors.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { controlOptions } from "./options.ts";
import { Rates } from "./rates.ts";

export type App = FastifyInstance<Server>;

/** The one route whose request goes on. */
export const watchPath = "/v1/watch";

export interface ListenerContext {
  readonly clock: Clock;
  readonly log: Logger;
  readonly options: OptionValues<typeof controlOptions>;
}

export interface ListenerWish {
  readonly name: "mesh" | "enrollment";
  readonly tls: ServerOptions;
  readonly connectionsMax: number;
}

/** Every connection of a listener, those in the middle of a handshake too, which the HTTP server does not know. */
const sockets = new WeakMap<Server, Set<Socket>>();

/** What both listeners have in common: every limit that counts before a route is known, and how refusals look. */
export function makeListener(wish: ListenerWish, context: ListenerContext): App {
  const { clock, log, options } = context;
  const app = fastify({
    https: {
      ...wish.tls,
      handshakeTimeout: options.handshakeMs,
      headersTimeout: options.headersMs,
      connectionsCheckingInterval: Math.max(100, Math.floor(options.headersMs / 4)),
      maxHeaderSize: 8_192,
      ALPNProtocols: ["http/1.1"],
    },
    // Node counts a watch, whose body never ends, as one slow request: bodies have a limit of their own below.
    requestTimeout: 0,
    keepAliveTimeout: options.idleMs,
    bodyLimit: options.bodyBytesMax,
    trustProxy: false,
    logger: false,
    exposeHeadRoutes: false,
    forceCloseConnections: false,
    routerOptions: { maxParamLength: 256 },
    // What the router itself refuses (a path that is no path, an id that is too long) carries a code like everything else.
    frameworkErrors: (error, request, reply) =>
      refuseNow(reply as FastifyReply, refusalOf(error, request as FastifyRequest, log)),
    clientErrorHandler: (_error, socket) => {
      // Whatever it was, it was no HTTP: there is nobody to explain it to.
      if (socket.writable) socket.end("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
      else socket.destroy();
    },
  });
  const open = new Set<Socket>();
  sockets.set(app.server, open);
  app.server.maxConnections = wish.connectionsMax;
  app.server.on("tlsClientError", (error, socket) => {
    log.debug("A TLS handshake failed", { listener: wish.name, because: error.message, from: socket.remoteAddress });
  });
  const fair = fairShare(wish.connectionsMax);
  app.server.on("connection", (socket) => {
    open.add(socket);
    socket.on("error", () => socket.destroy());
    socket.once("close", () => open.delete(socket));
    fair(socket);
  });

  const rates = new Rates(clock, { perSecond: options.addressPerSecond, burstMax: options.addressBurstMax });
  app.addHook("onRequest", (request, reply, done) => {
    const refusal = rates.take(shareOf(request.raw.socket.remoteAddress ?? ""));
    if (refusal === undefined) {
      limitBody(request, context);
      done();
    } else {
      refuseNow(reply, refusal);
    }
  });
  app.setErrorHandler((error: FastifyError, request, reply) => sendRefusal(reply, refusalOf(error, request, log)));
  app.setNotFoundHandler((_request, reply) =>
    sendRefusal(
      reply,
      refuse("NOT_FOUND", "Cannot answer: there is no such route on this listener", "Look at GET /v1/openapi.json"),
    ),
  );
  return app;
}

/** JSON bodies as they came, for readers of the contract, which count bytes and depth themselves. */
export function takeText(app: FastifyInstance<Server>): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("application/json", { parseAs: "string" }, (_request, body, done) => done(null, body));
}

/** JSON bodies parsed, their depth counted before. */
export function takeJson(app: FastifyInstance<Server>, bytesMax: number): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("application/json", { parseAs: "string" }, (_request, body, done) => {
    const parsed = parseJson("request", String(body), bytesMax);
    if (isRefusal(parsed)) done(HauberkError.from(parsed));
    else done(null, parsed.value);
  });
}

export async function sendRefusal(reply: FastifyReply, refusal: Refusal): Promise<FastifyReply> {
  return reply
    .code(failures[refusal.code].status)
    .header("content-type", "application/json")
    .send(JSON.stringify(answerOf(refusal)));
}

/** From where nobody waits: what cannot be said ends its connection. */
function refuseNow(reply: FastifyReply, refusal: Refusal): void {
  sendRefusal(reply, refusal).catch(() => reply.raw.destroy());
}

/** A value as JSON that needs no schema, or a refusal. */
export async function sendAnswer(reply: FastifyReply, answer: object | Refusal): Promise<FastifyReply> {
  if (isRefusal(answer)) return sendRefusal(reply, answer);
  return reply
    .header("content-type", "application/json")
    .header("cache-control", "no-store")
    .send(JSON.stringify(answer));
}

/** @throws HauberkError PORT_TAKEN */
export async function listen(
  app: App,
  at: { readonly host: string; readonly port: number },
): Promise<{ host: string; port: number }> {
  try {
    await app.listen({ host: at.host, port: at.port });
  } catch (thrown) {
    const where = `${at.host}:${at.port}`;
    const named = "--mesh or --enrollment HOST:PORT, or addresses in hauberk.yaml, which the other commands read too";
    throw (thrown as NodeJS.ErrnoException).code === "EADDRINUSE"
      ? new HauberkError(
          "PORT_TAKEN",
          `Cannot listen on ${where}: it is in use`,
          `End what listens there, or name another: ${named}`,
          thrown,
        )
      : new HauberkError(
          "UNAVAILABLE",
          `Cannot listen on ${where}: ${messageOf(thrown)}`,
          `Name an address of this machine: ${named}`,
          thrown,
        );
  }
  app.server.on("error", () => undefined); // A failed accept ends one connection, never the process.
  return { host: at.host, port: (app.server.address() as AddressInfo).port };
}

/** Answers under way get `withinMs`; then every connection is cut. At once for 0. */
export async function closeListener(app: App, clock: Clock, withinMs: number): Promise<void> {
  const cut = (): void => {
    for (const socket of sockets.get(app.server) ?? []) socket.destroy();
  };
  const cancel = clock.after(withinMs, cut);
  if (withinMs === 0) cut();
  try {
    await app.close();
  } finally {
    cancel();
  }
}

/** One address, which needs no certificate to connect, gets at most half of a listener's connections: others still get in. */
function fairShare(connectionsMax: number): (socket: Socket) => void {
  const max = Math.ceil(connectionsMax / 2);
  const held = new Map<string, number>();
  return (socket) => {
    const key = shareOf(socket.remoteAddress ?? "");
    const count = held.get(key) ?? 0;
    if (count >= max) {
      socket.destroy();
      return;
    }
    held.set(key, count + 1);
    socket.once("close", () => {
      const left = (held.get(key) ?? 1) - 1;
      if (left === 0) held.delete(key);
      else held.set(key, left);
    });
  };
}

/**
 * A body has to be there in time, whatever the method and the type: also one that nobody asked for holds its connection.
 * Only the watch's has no end, on the one route that has it.
 */
function limitBody(request: FastifyRequest, { clock, options }: ListenerContext): void {
  const { raw } = request;
  const { "content-length": length = "0", "transfer-encoding": coding } = raw.headers;
  if ((length === "0" && coding === undefined) || request.routeOptions.url === watchPath) return;
  const cancel = clock.after(options.bodyMs, () => raw.socket.destroy());
  raw.once("end", cancel);
  raw.once("close", cancel);
}

const ofFastify: Readonly<Record<string, Refusal>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: refuse(
    "BODY_TOO_LARGE",
    "Cannot read the request: its body is over the limit",
    "Send less",
  ),
  FST_ERR_CTP_INVALID_MEDIA_TYPE: refuse(
    "REQUEST_INVALID",
    "Cannot read the request: its type is not application/json",
    "Send content-type: application/json",
  ),
};

/** The wire carries code, sentence and hint; what else an error says is for the log. */
function refusalOf(error: FastifyError, request: FastifyRequest, log: Logger): Refusal {
  if (error instanceof HauberkError) {
    if (failures[error.code].status >= 500)
      log.error("A request failed", { code: error.code, because: error.message, cause: messageOf(error.cause) });
    return refuse(error.code, error.message, error.hint);
  }
  const known = ofFastify[error.code];
  if (known !== undefined) return known;
  if (error.validation !== undefined) {
    const because = error.validation.map((each) => `${each.instancePath} ${each.message ?? ""}`.trim()).join("; ");
    return refuse(
      "MESSAGE_INVALID",
      `Cannot read the request: ${because.slice(0, 400)}`,
      "Look at GET /v1/openapi.json",
    );
  }
  if (error.statusCode !== undefined && error.statusCode < 500) {
    return refuse(
      "REQUEST_INVALID",
      "Cannot read the request: it is no request of this API",
      "Look at GET /v1/openapi.json",
    );
  }
  log.error("A request failed", { route: request.routeOptions.url, because: error.message, stack: error.stack });
  return refuse("BUG", "Cannot answer: the control plane failed", "Report this with the control plane's log");
}
