import type { FastifyReply } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { serializerCompiler, validatorCompiler } from "fastify-type-provider-zod";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { serviceId, serviceKey } from "../base/spiffe-id.ts";
import type * as contract from "../contract/admin.ts";
import { readRenewRequest } from "../contract/read-enrollment.ts";
import type { Registry } from "../registry/registry.ts";
import type { InstanceRow, LeafRow, TokenRow } from "../storage/rows.ts";
import type { Store } from "../storage/store.ts";
import { readCertificate } from "../x509/certificate.ts";
import { type App, sendRefusal, takeJson } from "./listener.ts";
import type { MeshContext } from "./mesh-api.ts";
import { addressOf } from "./enrollment-api.ts";
import { applyPolicies, storedResources } from "./policy-set.ts";
import * as schemas from "./schemas.ts";

export interface AdminContext extends MeshContext {
  readonly store: Store;
  readonly registry: Registry;
  /** A set was applied: tell the sidecars. */
  readonly policiesChanged: () => Promise<void>;
}

type AdminApp = ReturnType<typeof typed>;

function typed(app: App) {
  return app.withTypeProvider<ZodTypeProvider>();
}

/** What administrators ask, each of whom is a row of the store: asked at every request, so that a revoked one is out. */
export function addAdminRoutes(plain: App, context: AdminContext): void {
  const app = typed(plain);
  app.setValidatorCompiler(validatorCompiler);
  app.setSerializerCompiler(serializerCompiler);
  takeJson(plain, context.options.policiesBytesMax);
  app.addHook("onRequest", async (request, reply) => {
    const admin =
      request.peer.standing.is === "administrator"
        ? await context.authority.adminOf(request.peer.leaf)
        : notAnAdministrator();
    return isRefusal(admin) ? sendRefusal(reply, admin) : undefined;
  });
  addTokens(app, context);
  addPolicies(app, context);
  addServices(app, context);
  addCertificates(app, context);
  addInstances(app, context);
  addAdmins(app, context);
  addAudit(app, context);
}

function addTokens(app: AdminApp, { authority }: AdminContext): void {
  const { tokenRequest, tokenMade, tokens, pageById, byId } = schemas;
  app.post(
    "/v1/tokens",
    { schema: { summary: "Make an enrollment token", body: tokenRequest, response: answers(201, tokenMade) } },
    async (request, reply) => {
      const { service, namespace, ttlMs, uses } = request.body;
      const made = await authority.createToken({
        service: { service, namespace },
        by: request.peer.rateKey,
        ...(ttlMs === undefined ? {} : { lifetimeMs: ttlMs }),
        ...(uses === undefined ? {} : { uses }),
      });
      if (isRefusal(made)) return refused(reply, made);
      const { row, token } = made;
      return reply
        .code(201)
        .send({ id: row.id, token, grant: row.identity, expiresAtMs: row.expiresAtMs, usesMax: row.usesMax });
    },
  );
  app.get(
    "/v1/tokens",
    {
      schema: {
        summary: "Enrollment tokens, without their text",
        querystring: pageById,
        response: answers(200, tokens),
      },
    },
    async (request) => {
      const rows = await authority.listTokens(pageOf(request.query));
      return { tokens: rows.map(tokenRow), next: nextOf(rows, request.query.limit, (row) => row.id) };
    },
  );
  app.delete(
    "/v1/tokens/:id",
    { schema: { summary: "Make a token useless", params: byId, response: answers(204, schemas.nothing) } },
    async (request, reply) => done(reply, await authority.revokeToken(request.params.id, request.peer.rateKey)),
  );
}

function addPolicies(app: AdminApp, context: AdminContext): void {
  const { store, options } = context;
  const { policies, policiesRequest, policiesApplied } = schemas;
  app.get(
    "/v1/policies",
    { schema: { summary: "The stored set", response: answers(200, policies) } },
    async (_request, reply) => {
      const row = await store.policies();
      const resources = storedResources(row.json);
      if (isRefusal(resources)) return refused(reply, resources);
      return { revision: row.revision, resources: resources as unknown as Record<string, unknown>[] };
    },
  );
  app.put(
    "/v1/policies",
    {
      bodyLimit: options.policiesBytesMax,
      schema: {
        summary: "Make the stored set equal to this one",
        body: policiesRequest,
        response: answers(200, policiesApplied),
      },
    },
    async (request, reply) => {
      const { revision, resources, allowEmpty, dryRun } = request.body;
      const wish = {
        revision,
        resources,
        ...(allowEmpty === undefined ? {} : { allowEmpty }),
        ...(dryRun === undefined ? {} : { dryRun }),
      };
      const applied = await applyPolicies(wish, request.peer.rateKey, context);
      if (isRefusal(applied)) return refused(reply, applied);
      await context.policiesChanged();
      return {
        revision: applied.revision,
        added: [...applied.added],
        changed: [...applied.changed],
        removed: [...applied.removed],
      };
    },
  );
}

function addServices(app: AdminApp, { authority, registry, hub }: AdminContext): void {
  app.get(
    "/v1/services",
    {
      schema: {
        summary: "Services, endpoints, and which sidecar runs which version",
        response: answers(200, schemas.services),
      },
    },
    async () => {
      const byService = Map.groupBy(registry.list(), (entry) => serviceKey(entry.name));
      const services = [...byService]
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([, entries]) => {
          const { service, namespace } = entries[0]?.name ?? { service: "", namespace: "" };
          const endpoints = entries.map(({ instance, registration, stale, connected }) => ({
            instance,
            address: registration.address,
            port: registration.port,
            ports: [...registration.ports],
            healthy: registration.healthy,
            draining: registration.draining,
            stale,
            connected,
          }));
          return { service, namespace, id: serviceId(authority.trustDomain, { service, namespace }), endpoints };
        });
      const sidecars = hub.streams.map((stream) => ({
        instance: stream.instance,
        name: stream.name,
        id: stream.peer.id.text,
        release: stream.release,
        workers: stream.workers,
        remoteAddress: stream.peer.remoteAddress,
        connectedAtMs: stream.openedAtMs,
        sent: stream.sent,
        acknowledged: stream.acknowledged,
        rejected: stream.rejected,
        subscriptions: [...stream.subscriptions].sort(),
      }));
      return { version: hub.version, services, sidecars };
    },
  );
}

/** How many pages of ended certificates one request passes over in search of live ones. */
const passesMax = 10;

function addCertificates(app: AdminApp, { authority, clock }: AdminContext): void {
  const { certificates, certificatesQuery } = schemas;
  app.get(
    "/v1/certificates",
    {
      schema: {
        summary: "Leaves that live; with all=true, ended ones too",
        querystring: certificatesQuery,
        response: answers(200, certificates),
      },
    },
    async (request) => {
      const { all, limit } = request.query;
      const found: LeafRow[] = [];
      let next: string | null = request.query.after ?? null;
      for (let pass = 0; pass < passesMax; pass++) {
        const rows = await authority.listLeaves(pageOf({ limit, after: next ?? undefined }));
        const live = all ? rows : rows.filter((row) => row.notAfterMs > clock.wallMs() && row.status !== "revoked");
        const taken = live.slice(0, limit - found.length);
        found.push(...taken);
        const full = found.length === limit && (taken.length < live.length || rows.length === limit);
        next = full ? (taken.at(-1)?.serial ?? null) : nextOf(rows, limit, (row) => row.serial);
        if (next === null || found.length === limit) break;
      }
      return { certificates: found.map(certificateRow), next };
    },
  );
}

function addInstances(app: AdminApp, { authority, hub }: AdminContext): void {
  const { byId, instances, lockRequest, pageById, nothing } = schemas;
  app.get(
    "/v1/instances",
    { schema: { summary: "Enrolled copies of workloads", querystring: pageById, response: answers(200, instances) } },
    async (request) => {
      const rows = await authority.listInstances(pageOf(request.query));
      return { instances: rows.map(instanceRow), next: nextOf(rows, request.query.limit, (row) => row.id) };
    },
  );
  app.post(
    "/v1/instances/:id/lock",
    {
      schema: {
        summary: "Shut one instance out, now",
        params: byId,
        body: lockRequest,
        response: answers(204, nothing),
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const { because } = request.body;
      const answer = await authority.lockInstance(id, { by: request.peer.rateKey, because });
      if (answer === true) {
        await hub.dismiss(
          id,
          refuse(
            "INSTANCE_LOCKED",
            `Cannot go on: this instance is locked (${because})`,
            "Ask an administrator to unlock it",
          ),
        );
      }
      return done(reply, answer);
    },
  );
  app.post(
    "/v1/instances/:id/unlock",
    { schema: { summary: "Let it in again", params: byId, response: answers(204, nothing) } },
    async (request, reply) => done(reply, await authority.unlockInstance(request.params.id, request.peer.rateKey)),
  );
}

function addAdmins(app: AdminApp, { authority }: AdminContext): void {
  const { adminRenewed, adminRequest, admins, byName, nothing } = schemas;
  app.get("/v1/admins", { schema: { summary: "Administrators", response: answers(200, admins) } }, async () => ({
    admins: (await authority.listAdmins()).map(({ name, createdAtMs, by, revokedAtMs }): contract.AdminRow => ({
      name,
      createdAtMs,
      by,
      revokedAtMs,
    })),
  }));
  app.post(
    "/v1/admins",
    {
      schema: {
        summary: "The calling administrator's next certificate",
        body: adminRequest,
        response: answers(200, adminRenewed),
      },
    },
    async (request, reply) => {
      const asked = readRenewRequest(JSON.stringify(request.body));
      if (isRefusal(asked)) return refused(reply, asked);
      const answer = await authority.renew(request.peer.leaf, asked, addressOf(request));
      if (isRefusal(answer)) return refused(reply, answer);
      const { chain, roots, controlUrls, enrollmentUrls } = answer;
      return {
        ...answer,
        chain: [...chain],
        roots: [...roots],
        controlUrls: [...controlUrls],
        enrollmentUrls: [...enrollmentUrls],
      };
    },
  );
  app.delete(
    "/v1/admins/:name",
    { schema: { summary: "Take an administrator's rights away", params: byName, response: answers(204, nothing) } },
    async (request, reply) => done(reply, await authority.revokeAdmin(request.params.name, request.peer.rateKey)),
  );
}

function addAudit(app: AdminApp, { authority }: AdminContext): void {
  const { audit, pageByNumber } = schemas;
  app.get(
    "/v1/audit",
    { schema: { summary: "The audit log, oldest first", querystring: pageByNumber, response: answers(200, audit) } },
    async (request) => {
      const { limit, after } = request.query;
      const rows = await authority.listAudit({ limit, ...(after === undefined ? {} : { after }) });
      const lines = rows.map((row) => ({
        number: row.seq,
        atMs: row.atMs,
        entry: JSON.parse(row.line) as Record<string, unknown>,
      }));
      return { lines, next: nextOf(rows, limit, (row) => row.seq) } satisfies contract.AuditAnswer;
    },
  );
}

function answers<const C extends number, S>(
  code: C,
  schema: S,
): Record<C, S> & Record<"4xx" | "5xx", typeof schemas.refusal> {
  const refusals = { "4xx": schemas.refusal, "5xx": schemas.refusal };
  return { [code]: schema, ...refusals } as Record<C, S> & typeof refusals;
}

/** The reply's type allows only what the schema says; a refusal is sent as text, past the serializer. */
async function refused(reply: object, refusal: Refusal): Promise<never> {
  await sendRefusal(reply as FastifyReply, refusal);
  return reply as never;
}

async function done(reply: object, answer: true | Refusal): Promise<never> {
  if (isRefusal(answer)) return refused(reply, answer);
  await (reply as FastifyReply).code(204).send();
  return reply as never;
}

function pageOf(query: { readonly limit: number; readonly after?: string | undefined }): {
  limit: number;
  after?: string;
} {
  return query.after === undefined ? { limit: query.limit } : { limit: query.limit, after: query.after };
}

function nextOf<R, K>(rows: readonly R[], limit: number, key: (row: R) => K): K | null {
  const last = rows.at(-1);
  return rows.length < limit || last === undefined ? null : key(last);
}

function tokenRow(row: TokenRow) {
  const { id, identity, createdAtMs, by, expiresAtMs, usesMax, uses, revokedAtMs } = row;
  return { id, grant: identity, createdAtMs, createdBy: by, expiresAtMs, usesMax, usesCount: uses, revokedAtMs };
}

function instanceRow(row: InstanceRow): contract.InstanceRow {
  const { id, identity, createdAtMs, leafEndsAtMs, lockedAtMs, lockedBecause, endedAtMs } = row;
  return { id, identity, createdAtMs, leafEndsAtMs, lockedAtMs, lockedBecause, endedAtMs };
}

function certificateRow(row: LeafRow) {
  const { serial, holder, owner, parent, issuedAtMs, notAfterMs, seenAtMs, status } = row;
  const certificate = readCertificate(Buffer.from(row.der));
  const id = isRefusal(certificate) ? "" : (certificate.uris[0] ?? "");
  const instance = holder === "workload" ? owner : null;
  return { serial, id, holder, owner, instance, parent, issuedAtMs, notAfterMs, seenAtMs, status };
}

function notAnAdministrator(): Refusal {
  return refuse(
    "NOT_AN_ADMINISTRATOR",
    "Cannot answer: this route is for administrators, and this is a workload's identity",
    "Use an administrator's SVID: hauberk admin issue NAME",
  );
}
