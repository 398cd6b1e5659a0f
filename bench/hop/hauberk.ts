import { generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { builtEntry, Mesh, metricsOf, sumOf, type Started } from "../../test/support/mesh.ts";

/** Our two sidecars in the peers' shape, with 50 policies of 10 rules in force and the ALLOW last. */
export interface Hop {
  readonly mesh: Mesh;
  readonly out: Started;
  readonly into: Started;
  /** The calling workload's, as PEM files. */
  readonly identity: IdentityFiles;
  /** What the load sends so that it is this service that is called. */
  readonly headers: readonly string[];
  /** Requests counted by both sidecars so far. */
  counted(): Promise<{ out: number; into: number }>;
}

const policyCount = 50;
const ruleCount = 10;

export interface IdentityFiles {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
}

/** What the hop carries, and how it is asked for. */
export interface HopShape {
  /** What the routee's sidecar is told of it: `http:9000`. */
  readonly app: string;
  /** The last rule of the last policy, which lets the calls pass: methods and paths, or nothing for TCP. */
  readonly allows: string;
  readonly jwt?: boolean;
  /** A port of its own for the service, as TCP needs it. */
  readonly to?: number;
  readonly workers?: number;
  /** Options of both sidecars. */
  readonly environment?: Readonly<Record<string, string>>;
}

export async function startHop(folder: string, shape: HopShape): Promise<Hop> {
  const jwt = shape.jwt === true;
  const mesh = await Mesh.create({ folder, entry: builtEntry, trustDomain: "bench.mesh" });
  await mesh.control();
  const keys = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const policies = join(folder, "policies");
  mkdirSync(policies, { recursive: true });
  writeFileSync(join(policies, "all.yaml"), policyText(shape, keys.publicKey));
  const applied = await mesh.applyPolicies(policies);
  if (applied.code !== 0) throw new Error(applied.err);
  const workers = shape.workers === undefined ? [] : ["--workers", String(shape.workers)];
  const into = await mesh.sidecar("routee", ["--app", shape.app, ...workers], shape.environment);
  const to = shape.to === undefined ? [] : ["--to", `routee=${shape.to}`];
  const out = await mesh.sidecar("load", [...to, ...workers], shape.environment);
  const exported = join(folder, "load.pem");
  await mesh.json(["certs", "export", join(mesh.home, "certs", "load", "1"), "--out", exported]);
  return {
    mesh,
    out,
    into,
    identity: { cert: exported, key: exported, ca: join(mesh.home, "ca", "root.crt") },
    headers: ["Host: routee", ...(jwt ? [`Authorization: Bearer ${tokenOf(keys.privateKey)}`] : [])],
    counted: async () => ({
      out: sumOf(await metricsOf(out), "hauberk_requests_total", ['side="outbound"']),
      into: sumOf(await metricsOf(into), "hauberk_requests_total", ['side="inbound"']),
    }),
  };
}

function policyText({ jwt, allows }: HopShape, key: KeyObject): string {
  const jwk = { ...key.export({ format: "jwk" }), kid: "bench", alg: "ES256", use: "sig" };
  const provider = [
    "apiVersion: hauberk.dev/v1",
    "kind: JwtProvider",
    "metadata: { name: bench }",
    "spec:",
    "  issuer: https://bench.example",
    "  audiences: [bench]",
    "  algorithms: [ES256]",
    `  keys: { inline: ${JSON.stringify({ keys: [jwk] })} }`,
  ].join("\n");
  const policies = Array.from({ length: policyCount }, (_, index) => {
    const last = index === policyCount - 1;
    const rules = Array.from({ length: ruleCount }, (_unused, rule) =>
      last && rule === ruleCount - 1
        ? `    - from: [{ services: [load] }]\n      ${allows}${jwt === true ? "\n      jwt: { provider: bench, claims: { scope: [read] } }" : ""}`
        : `    - from: [{ services: [load] }]\n      to: [{ methods: [GET], paths: ["/other-${index}-${rule}/*"] }]`,
    );
    return `apiVersion: hauberk.dev/v1\nkind: AuthorizationPolicy\nmetadata: { name: p${String(index).padStart(2, "0")} }\nspec:\n  target: { service: routee }\n  action: ALLOW\n  rules:\n${rules.join("\n")}`;
  });
  return [...(jwt === true ? [provider] : []), ...policies].join("\n---\n");
}

function tokenOf(key: KeyObject): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const text = `${part({ alg: "ES256", kid: "bench", typ: "JWT" })}.${part({ iss: "https://bench.example", aud: "bench", sub: "bench", scope: "read write", iat: now, exp: now + 86_400 })}`;
  return `${text}.${sign("sha256", Buffer.from(text), { key, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
}
