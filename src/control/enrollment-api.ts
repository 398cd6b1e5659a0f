import type { Authority } from "../authority/authority.ts";
import { isRefusal } from "../base/errors.ts";
import type { HealthAnswer } from "../contract/admin.ts";
import { readChallengeRequest, readEnrollRequest, readRecoverRequest } from "../contract/read-enrollment.ts";
import { writeBundle } from "../x509/bundle.ts";
import type { OwnIdentity } from "./own-identity.ts";
import { type App, sendAnswer, takeText } from "./listener.ts";

export interface EnrollmentContext {
  readonly authority: Authority;
  readonly own: OwnIdentity;
  readonly health: () => HealthAnswer;
}

const refreshHintSeconds = 300;

/** All that stands open to callers without a certificate, and nothing else: a listener of its own. */
export function addEnrollmentRoutes(app: App, { authority, own, health }: EnrollmentContext): void {
  takeText(app);
  app.get("/v1/health", (_request, reply) => sendAnswer(reply, health()));
  app.get("/v1/roots", (_request, reply) => sendAnswer(reply, authority.rootsAnswer()));
  // The published CA data: the bundle as other trust domains read it (SPIFFE Trust Domain and Bundle, section 4).
  app.get("/v1/bundle", (_request, reply) => {
    const { roots, bundleSequence } = own.published.read();
    const bundle = writeBundle({ roots, sequence: BigInt(bundleSequence), refreshHintSeconds });
    return reply.header("content-type", "application/json").send(bundle);
  });
  app.post("/v1/enroll", async (request, reply) => {
    const asked = readEnrollRequest(textOf(request.body));
    return sendAnswer(reply, isRefusal(asked) ? asked : await authority.enroll(asked, addressOf(request)));
  });
  app.post("/v1/recover/challenge", (request, reply) => {
    const asked = readChallengeRequest(textOf(request.body));
    return sendAnswer(reply, isRefusal(asked) ? asked : authority.recoverChallenge());
  });
  app.post("/v1/recover", async (request, reply) => {
    const asked = readRecoverRequest(textOf(request.body));
    return sendAnswer(reply, isRefusal(asked) ? asked : await authority.recover(asked, addressOf(request)));
  });
}

/** A request without a body reads as an empty one, and is refused as such. */
export function textOf(body: unknown): string {
  return typeof body === "string" ? body : "";
}

export function addressOf(request: {
  readonly raw: { readonly socket: { readonly remoteAddress?: string | undefined } };
}): string {
  return request.raw.socket.remoteAddress ?? "";
}
