import { generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { builtEntry, Mesh, metricsOf, sumOf, type Started } from "../../test/support/mesh.ts";

/** Our two sidecars in the peers' shape, with 50 policies of 10 rules in force and the ALLOW last. */
export interface Hop {
  readonly mesh: Mesh;
  readonly out: Started;
  readonly into: Started;
  /** What the load sends so that it is this service that is called. */
  readonly headers: readonly string[];
  /** Requests counted by both sidecars so far. */
  counted(): Promise<{ out: number; into: number }>;
}

const policyCount = 50;
const ruleCount = 10;

export async function startHop(folder: string, jwt: boolean): Promise<Hop> {
  const mesh = await Mesh.create({ folder, entry: builtEntry, trustDomain: "bench.mesh" });
  await mesh.control();
  const keys = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const policies = join(folder, "policies");
  mkdirSync(policies, { recursive: true });
  writeFileSync(join(policies, "all.yaml"), policyText(jwt, keys.publicKey));
  const applied = await mesh.applyPolicies(policies);
  if (applied.code !== 0) throw new Error(applied.err);
  const into = await mesh.sidecar("routee", ["--app", "http:9000"]);
  const out = await mesh.sidecar("load");
  return {
    mesh,
    out,
    into,
    headers: ["Host: routee", ...(jwt ? [`Authorization: Bearer ${tokenOf(keys.privateKey)}`] : [])],
    counted: async () => ({
      out: sumOf(await metricsOf(out), "hauberk_requests_total", ['side="outbound"']),
      into: sumOf(await metricsOf(into), "hauberk_requests_total", ['side="inbound"']),
    }),
  };
}

function policyText(jwt: boolean, key: KeyObject): string {
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
        ? `    - from: [{ services: [load] }]\n      to: [{ methods: [GET], paths: ["/*"] }]${jwt ? "\n      jwt: { provider: bench, claims: { scope: [read] } }" : ""}`
        : `    - from: [{ services: [load] }]\n      to: [{ methods: [GET], paths: ["/other-${index}-${rule}/*"] }]`,
    );
    return `apiVersion: hauberk.dev/v1\nkind: AuthorizationPolicy\nmetadata: { name: p${String(index).padStart(2, "0")} }\nspec:\n  target: { service: routee }\n  action: ALLOW\n  rules:\n${rules.join("\n")}`;
  });
  return [...(jwt ? [provider] : []), ...policies].join("\n---\n");
}

function tokenOf(key: KeyObject): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const text = `${part({ alg: "ES256", kid: "bench", typ: "JWT" })}.${part({ iss: "https://bench.example", aud: "bench", sub: "bench", scope: "read write", iat: now, exp: now + 86_400 })}`;
  return `${text}.${sign("sha256", Buffer.from(text), { key, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
}
