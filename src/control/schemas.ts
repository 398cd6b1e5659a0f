import { z } from "zod";

/** The admin API's requests and answers as schemas: they check what comes in, and are the OpenAPI document. */

const moment = z.number().describe("Milliseconds since 1970");
const label = z.string().regex(/^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/, "not an RFC 1123 label");
const id = z.string().regex(/^[0-9A-Za-z._-]{1,64}$/, "not an identifier");
const version = z.object({ epoch: z.string(), counter: z.number() });
const page = { limit: z.coerce.number().int().min(1).max(1_000).default(100) };

export const refusal = z.object({ code: z.string(), message: z.string(), hint: z.string() });
export const nothing = z.null();
export const byId = z.strictObject({ id });
export const byName = z.strictObject({ name: label });

export const tokenRequest = z.strictObject({
  service: label,
  namespace: label.default("default"),
  ttlMs: z.number().int().positive().optional(),
  uses: z.number().int().min(1).max(10_000).optional(),
});
export const tokenMade = z.object({
  id: z.string(),
  token: z.string(),
  grant: z.string(),
  expiresAtMs: moment,
  usesMax: z.number(),
});
export const tokens = z.object({
  tokens: z.array(
    z.object({
      id: z.string(),
      grant: z.string(),
      createdAtMs: moment,
      createdBy: z.string(),
      expiresAtMs: moment,
      usesMax: z.number(),
      usesCount: z.number(),
      revokedAtMs: moment.nullable(),
    }),
  ),
  next: z.string().nullable(),
});

export const pageById = z.strictObject({ ...page, after: id.optional() });
export const pageByNumber = z.strictObject({ ...page, after: z.coerce.number().int().min(0).optional() });

const resource = z.record(z.string(), z.unknown());
export const policies = z.object({ revision: z.number(), resources: z.array(resource) });
export const policiesRequest = z.strictObject({
  revision: z.number().int().min(0).describe("The revision that the caller saw"),
  resources: z.array(resource).max(10_000),
  allowEmpty: z.boolean().optional(),
  dryRun: z.boolean().optional(),
});
export const policiesApplied = z.object({
  revision: z.number(),
  added: z.array(z.string()),
  changed: z.array(z.string()),
  removed: z.array(z.string()),
});

const port = z.object({ name: z.string(), port: z.number(), protocol: z.string() });
export const services = z.object({
  version,
  services: z.array(
    z.object({
      service: z.string(),
      namespace: z.string(),
      id: z.string(),
      endpoints: z.array(
        z.object({
          instance: z.string(),
          address: z.string(),
          port: z.number(),
          ports: z.array(port),
          healthy: z.boolean(),
          draining: z.boolean(),
          stale: z.boolean(),
          connected: z.boolean(),
        }),
      ),
    }),
  ),
  sidecars: z.array(
    z.object({
      instance: z.string(),
      name: z.string().nullable(),
      id: z.string(),
      release: z.string(),
      workers: z.number(),
      remoteAddress: z.string(),
      connectedAtMs: moment,
      sent: version.nullable(),
      acknowledged: version.nullable(),
      rejected: z.object({ version, because: z.string() }).nullable(),
      subscriptions: z.array(z.string()),
    }),
  ),
});

export const certificatesQuery = z.strictObject({ ...page, after: id.optional(), all: z.stringbool().default(false) });
export const certificates = z.object({
  certificates: z.array(
    z.object({
      serial: z.string(),
      id: z.string(),
      holder: z.string(),
      owner: z.string(),
      instance: z.string().nullable(),
      parent: z.string().nullable(),
      issuedAtMs: moment,
      notAfterMs: moment,
      seenAtMs: moment.nullable(),
      status: z.string(),
    }),
  ),
  next: z.string().nullable(),
});

export const instances = z.object({
  instances: z.array(
    z.object({
      id: z.string(),
      identity: z.string(),
      createdAtMs: moment,
      leafEndsAtMs: moment,
      lockedAtMs: moment.nullable(),
      lockedBecause: z.string().nullable(),
      endedAtMs: moment.nullable(),
    }),
  ),
  next: z.string().nullable(),
});
export const lockRequest = z.strictObject({
  because: z.string().min(1).max(200).default("locked by an administrator"),
});

export const admins = z.object({
  admins: z.array(z.object({ name: z.string(), createdAtMs: moment, by: z.string(), revokedAtMs: moment.nullable() })),
});
export const adminRequest = z.strictObject({
  csr: z.string().max(22_000).describe("Base64 of a PKCS#10 request, P-256"),
});
export const adminRenewed = z.object({
  instance: z.string(),
  chain: z.array(z.string()),
  roots: z.array(z.string()),
  bundleSequence: z.number(),
  issuedAtMs: moment,
  notAfterMs: moment,
  controlUrls: z.array(z.string()),
  enrollmentUrls: z.array(z.string()),
});

export const audit = z.object({
  lines: z.array(z.object({ number: z.number(), atMs: moment, entry: z.record(z.string(), z.unknown()) })),
  next: z.number().nullable(),
});
