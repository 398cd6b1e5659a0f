import type { FastifyReply, FastifyRequest } from "fastify";
import type { Authority } from "../authority/authority.ts";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { readRenewRequest } from "../contract/read-enrollment.ts";
import { addressOf, textOf } from "./enrollment-api.ts";
import { type App, sendAnswer, sendRefusal, takeText, watchPath } from "./listener.ts";
import type { Peer, Peers } from "./peers.ts";
import type { Rates } from "./rates.ts";
import { serveWatch, type WatchRouteContext } from "./watch-route.ts";

declare module "fastify" {
  interface FastifyRequest {
    /** Who asks; there on every route of the mesh API. */
    peer: Peer;
  }
}

export type Workload = Peer & { readonly standing: { readonly is: "workload" } };

export interface MeshContext extends WatchRouteContext {
  readonly authority: Authority;
  readonly peers: Peers;
  readonly rates: Rates;
  /** Whether the peer's leaf and instance may still go on. */
  readonly mayGoOn: (peer: Workload) => Promise<true | Refusal>;
}

/** On every route of the mesh API: who asks is known before anything of the request is read. */
export function requirePeers(app: App, { peers, rates }: MeshContext): void {
  app.decorateRequest("peer");
  app.addHook("onRequest", async (request, reply) => {
    const peer = await peers.of(request.raw.socket);
    if (isRefusal(peer)) return sendRefusal(reply.header("connection", "close"), peer);
    const refusal = rates.take(peer.rateKey);
    if (refusal !== undefined) return sendRefusal(reply, refusal);
    request.peer = peer;
    return undefined;
  });
}

/** What sidecars ask: renewal and the watch. */
export function addWorkloadRoutes(app: App, context: MeshContext): void {
  const { authority, hub } = context;
  takeText(app);
  // Left unread: the watch reads it line by line, for as long as it lasts.
  app.addContentTypeParser("application/x-ndjson", (_request, _payload, done) => done(null));
  app.addHook("onRequest", async (request, reply) => {
    if (request.peer.standing.is !== "workload") return sendRefusal(reply, notAWorkload(request.peer));
    return undefined;
  });

  app.post("/v1/renew", { schema: { summary: "A workload's next certificate" } }, async (request, reply) => {
    const asked = readRenewRequest(textOf(request.body));
    if (isRefusal(asked)) return sendRefusal(reply, asked);
    const answer = await authority.renew(request.peer.leaf, asked, addressOf(request));
    if (isRefusal(answer) && (answer.code === "CLONE_DETECTED" || answer.code === "INSTANCE_LOCKED")) {
      await hub.dismiss((request.peer as Workload).standing.instance, answer);
    }
    return sendAnswer(reply, answer);
  });

  app.post(watchPath, { schema: { summary: "A sidecar's stream of JSON lines, both ways" } }, (request, reply) =>
    watch(request, reply, context),
  );
}

async function watch(
  request: FastifyRequest,
  reply: FastifyReply,
  context: MeshContext,
): Promise<FastifyReply | undefined> {
  if (request.headers["content-type"] !== "application/x-ndjson") {
    return sendRefusal(
      reply,
      refuse(
        "REQUEST_INVALID",
        "Cannot open the watch: its type is not application/x-ndjson",
        "Send content-type: application/x-ndjson",
      ),
    );
  }
  const peer = request.peer as Workload;
  const goesOn = await context.mayGoOn(peer);
  if (goesOn !== true) return sendRefusal(reply.header("connection", "close"), goesOn);
  reply.hijack();
  serveWatch({ request: request.raw, response: reply.raw }, peer, context);
  return undefined;
}

function notAWorkload(peer: Peer): Refusal {
  return refuse(
    "NOT_A_WORKLOAD",
    `Cannot answer "${peer.id.text}": this route is for workloads`,
    "Use POST /v1/admins to renew an administrator's certificate",
  );
}
