import type { Clock } from "../base/clock.ts";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import type { Resource } from "../base/resource.ts";
import { serviceKey } from "../base/spiffe-id.ts";
import type { PoliciesApplied, PoliciesRequest } from "../contract/admin.ts";
import { limits } from "../contract/limits.ts";
import { readResourceList } from "../contract/read-resource.ts";
import { readPolicySet } from "../policy/read-yaml.ts";
import type { Store } from "../storage/store.ts";
import { indexOf, noPolicies } from "./policy-index.ts";

/** The stored set of policies: read, compared and replaced whole, or not at all. */
export interface PolicySetContext {
  readonly store: Store;
  readonly clock: Clock;
}

/** What the store holds, or POLICY_INVALID for a row that is none. */
export function storedResources(json: string): readonly Resource[] | Refusal {
  try {
    return readResourceList(JSON.parse(json) as unknown);
  } catch {
    return refuse(
      "POLICY_INVALID",
      "Cannot read the stored policies: they are no JSON",
      "Restore the store from a backup",
    );
  }
}

/**
 * Makes the stored set equal to the request's. POLICY_CONFLICT where another set was applied since the caller looked,
 * POLICY_INVALID with every problem, POLICY_SET_EMPTY unless an empty set was asked for by name.
 */
export async function applyPolicies(
  request: Omit<PoliciesRequest, "resources"> & { readonly resources: unknown },
  by: string,
  { store, clock }: PolicySetContext,
): Promise<PoliciesApplied | Refusal> {
  const resources = validated(request.resources, store.trustDomain);
  if (isRefusal(resources)) return resources;
  if (resources.length === 0 && request.allowEmpty !== true) return emptySet();
  const current = await store.policies();
  if (current.revision !== request.revision) return conflict(current.revision, request.revision);
  const before = storedResources(current.json);
  const difference = differenceOf(isRefusal(before) ? [] : before, resources);
  const { added, changed, removed } = difference;
  const same = added.length + changed.length + removed.length === 0 && !isRefusal(before);
  if (same || request.dryRun === true) return { revision: current.revision, ...difference };
  const atMs = clock.wallMs();
  return store.write(async (tx) => {
    const json = JSON.stringify(resources);
    const row = await tx.putPolicies({ json, atMs, by, ifRevision: request.revision });
    if (row === undefined) return conflict((await tx.policies()).revision, request.revision);
    const reason = `revision ${row.revision}: ${added.length} added, ${changed.length} changed, ${removed.length} removed`;
    const line = { at: new Date(atMs).toISOString(), what: "policies-apply", who: by, verdict: "done", reason };
    await tx.appendAudit({ atMs, line: JSON.stringify(line) });
    return { revision: row.revision, ...difference };
  });
}

/**
 * Checks the shape with the contract's readers, then everything else with the very reader that people's files go through,
 * by writing each resource as the document that it came from: there is one rule for what a policy may say.
 */
function validated(value: unknown, trustDomain: string): readonly Resource[] | Refusal {
  const shaped = readResourceList(value);
  if (isRefusal(shaped)) return shaped;
  const files = shaped.map((resource) => ({ path: nameOf(resource), text: JSON.stringify(documentOf(resource)) }));
  const read = readPolicySet(files, { trustDomain });
  if (read.is === "read") return tooLarge(read.resources) ?? read.resources;
  const [first] = read.problems;
  const more = read.problems.length > 1 ? ` (and ${read.problems.length - 1} more)` : "";
  const because = (first?.message ?? "").replace(/^Cannot /, "cannot ").slice(0, 400);
  return refuse(
    "POLICY_INVALID",
    `Cannot apply the policies: ${first?.file ?? "the set"}: ${because}${more}`,
    first?.hint ?? "Run hauberk policy test",
  );
}

/** What a sidecar would refuse to read must not come into force: it would keep everything that comes later from it, too. */
export function tooLarge(resources: readonly Resource[]): Refusal | undefined {
  const { targets, providers } = indexOf(0, resources, noPolicies);
  const parts = [
    ...[...targets].map(([service, { text }]) => ({ what: `the policies of "${service}"`, text })),
    ...[...providers].map(([name, text]) => ({ what: `the JwtProvider "${name}"`, text })),
  ];
  const found = parts
    .map(({ what, text }) => ({ what, bytes: Buffer.byteLength(text) }))
    .find(({ bytes }) => bytes > limits.policyBytesMax);
  return found === undefined
    ? undefined
    : refuse(
        "POLICY_INVALID",
        `Cannot apply the policies: ${found.what} take ${found.bytes} bytes as JSON, at most ${limits.policyBytesMax} were wanted`,
        "Say the same with fewer rules, or split the service",
      );
}

function documentOf(resource: Resource): object {
  const { kind, name, namespace } = resource;
  const head = { apiVersion: "hauberk.dev/v1", kind, metadata: { name, namespace } };
  if (resource.kind === "AuthorizationPolicy") {
    const { target, action, mode, rules } = resource;
    return { ...head, spec: { target: { service: serviceKey(target) }, action, mode, rules } };
  }
  const { issuer, audiences, algorithms, keys, forward } = resource;
  const written = keys.is === "inline" ? { inline: keys.jwks } : { uri: keys.uri };
  return { ...head, spec: { issuer, audiences, algorithms, keys: written, forward } };
}

interface Difference {
  readonly added: readonly string[];
  readonly changed: readonly string[];
  readonly removed: readonly string[];
}

/** By name, in its order. */
export function differenceOf(before: readonly Resource[], after: readonly Resource[]): Difference {
  const old = new Map(before.map((resource) => [nameOf(resource), canonical(resource)]));
  const next = new Map(after.map((resource) => [nameOf(resource), canonical(resource)]));
  const names = (map: Map<string, string>, keep: (name: string, text: string) => boolean): string[] =>
    [...map]
      .filter(([name, text]) => keep(name, text))
      .map(([name]) => name)
      .sort();
  return {
    added: names(next, (name) => !old.has(name)),
    changed: names(next, (name, text) => old.has(name) && old.get(name) !== text),
    removed: names(old, (name) => !next.has(name)),
  };
}

/** `AuthorizationPolicy default/web-reads-orders` */
function nameOf(resource: Resource): string {
  return `${resource.kind} ${resource.namespace}/${resource.name}`;
}

/** JSON with the keys of every object in order, so that only what is said counts. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, part: unknown) =>
    typeof part === "object" && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}

function conflict(current: number, expected: number): Refusal {
  return refuse(
    "POLICY_CONFLICT",
    `Cannot apply the policies: the stored set is at revision ${current}, and ${expected} was expected`,
    "Look at the stored set again (GET /v1/policies), then apply anew",
  );
}

function emptySet(): Refusal {
  return refuse(
    "POLICY_SET_EMPTY",
    "Cannot apply the policies: the set is empty, which would end every call in the mesh",
    "Name a folder with policies, or say allowEmpty",
  );
}
