import { defaultsOf, type OptionValues } from "../base/options.ts";
import { isTrustDomain } from "../base/spiffe-id.ts";
import { isMap, isScalar, type Node } from "yaml";
import { policyOptions } from "./options.ts";
import { label, policySpec, toPolicy, type ProviderUse } from "./read-policy.ts";
import { providerSpec, toProvider } from "./read-provider.ts";
import type { Resource } from "./resource.ts";
import { readDocuments } from "./yaml-documents.ts";
import { map, oneOf, quote, type At, type Desk, type Problem } from "./yaml-shape.ts";
import { suggest } from "./suggest.ts";

export type { Problem } from "./yaml-shape.ts";

/** YAML into resources: a set is read whole, and nothing of a bad one is used. */
export interface ReadContext {
  readonly trustDomain: string;
  /** Where a resource says none. Default "default". */
  readonly namespace?: string;
  /** Reads what `keys.file` names; given the path beside the policy's own. Throws where it cannot. */
  readonly readFile?: (path: string) => string;
  readonly options?: OptionValues<typeof policyOptions>;
}

export interface PolicyFile {
  /** As it is to be shown, and beside which `keys.file` lies; slashes on every system. */
  readonly path: string;
  readonly text: string;
}

export type PolicySet =
  | { readonly is: "read"; readonly resources: readonly Resource[]; readonly warnings: readonly Problem[] }
  | { readonly is: "refused"; readonly problems: readonly Problem[] };

interface Found {
  readonly resource: Resource;
  readonly at: At;
  readonly desk: Desk;
}

/** What is known only when every file was read. */
interface Gathering {
  readonly found: Found[];
  readonly uses: (ProviderUse & { readonly desk: Desk })[];
}

/**
 * Reads a whole set of policy files. Never throws on content: either every resource, or every problem (up to
 * `policyProblemsMax`), in the order of the files.
 */
export function readPolicySet(files: readonly PolicyFile[], context: ReadContext): PolicySet {
  const limits = context.options ?? defaultsOf(policyOptions);
  const gathering: Gathering = { found: [], uses: [] };
  const desks = files.map((file) => readFileInto(gathering, { file, context, limits }));
  refuseTwins(gathering.found);
  refuseUnknownProviders(gathering);
  const last = gathering.found[limits.policyResourcesMax];
  last?.desk.wrong(
    last.at,
    `Cannot read the set: it has more than ${limits.policyResourcesMax} resources`,
    "Merge policies that say the same",
  );
  const problems = desks.flatMap((desk) => desk.problems);
  if (problems.length > 0)
    return { is: "refused", problems: problems.sort(inOrder).slice(0, limits.policyProblemsMax) };
  const resources = gathering.found.map((one) => freeze(one.resource));
  return {
    is: "read",
    resources: Object.freeze(resources),
    warnings: desks.flatMap((desk) => desk.warnings).sort(inOrder),
  };
}

/** Within one file by place; files stay in their order, because the sort is stable. */
function inOrder(one: Problem, other: Problem): number {
  return one.file === other.file ? one.line - other.line || one.column - other.column : 0;
}

interface Reading {
  readonly file: PolicyFile;
  readonly context: ReadContext;
  readonly limits: OptionValues<typeof policyOptions>;
}

function readFileInto(gathering: Gathering, { file, context, limits }: Reading): Desk {
  const { desk, roots } = readDocuments(file, limits);
  if (!isTrustDomain(context.trustDomain))
    desk.wrong(null, `Cannot read policies: "${context.trustDomain}" is no trust domain`, "Write it as mesh.local");
  for (const root of roots) {
    const resource = readResource(root, { desk, context, gathering });
    if (resource !== undefined) gathering.found.push({ resource, at: root, desk });
  }
  return desk;
}

const kinds = ["AuthorizationPolicy", "JwtProvider"] as const;
const laterKinds = ["HTTPRoute", "GRPCRoute", "TrafficPolicy"];
const header = {
  apiVersion: oneOf("hauberk.dev/v1"),
  kind: oneOf(...kinds),
  metadata: map({ name: label, namespace: label }, ["name"]),
};
const policyDocument = map({ ...header, spec: policySpec }, ["apiVersion", "kind", "metadata", "spec"]);
const providerDocument = map({ ...header, spec: providerSpec }, ["apiVersion", "kind", "metadata", "spec"]);

interface Place {
  readonly desk: Desk;
  readonly context: ReadContext;
  readonly gathering: Gathering;
}

function readResource(root: Node, place: Place): Resource | undefined {
  const kind = kindOf(root, place.desk);
  if (kind === "AuthorizationPolicy") return readPolicy(root, place);
  return kind === "JwtProvider" ? readProvider(root, place) : undefined;
}

function readPolicy(root: Node, { desk, context, gathering }: Place): Resource | undefined {
  const found = policyDocument(root, "the resource", desk);
  const named = nameOf(found, context);
  if (found?.values.spec === undefined || named === undefined) return undefined;
  const uses: ProviderUse[] = [];
  const policy = toPolicy(found.values.spec, { ...named, trustDomain: context.trustDomain, desk, uses });
  gathering.uses.push(...uses.map((use) => ({ ...use, desk })));
  return policy;
}

function readProvider(root: Node, { desk, context }: Place): Resource | undefined {
  const found = providerDocument(root, "the resource", desk);
  const named = nameOf(found, context);
  if (found?.values.spec === undefined || named === undefined) return undefined;
  return toProvider(found.values.spec, { ...named, desk, readFile: context.readFile });
}

interface Headed {
  readonly values: { readonly metadata?: { readonly values: { readonly name?: string; readonly namespace?: string } } };
}

function nameOf(found: Headed | undefined, context: ReadContext): { name: string; namespace: string } | undefined {
  const metadata = found?.values.metadata?.values;
  if (metadata?.name === undefined) return undefined;
  return { name: metadata.name, namespace: metadata.namespace ?? context.namespace ?? "default" };
}

/** The kind decides which shape the rest is held against, so it is looked at first. */
function kindOf(root: Node, desk: Desk): (typeof kinds)[number] | undefined {
  if (!isMap(root))
    return desk.wrong(
      root,
      "Cannot read the resource: it is not a map of keys and values",
      "Start with apiVersion: hauberk.dev/v1",
    );
  const node = root.get("kind", true) as At | undefined;
  const value = isScalar(node) ? node.value : undefined;
  if (typeof value !== "string")
    return desk.wrong(node ?? root, "Cannot read the resource: it has no kind", `Write kind: ${kinds.join(" or ")}`);
  const kind = kinds.find((known) => known === value);
  if (kind !== undefined) return kind;
  if (laterKinds.includes(value))
    return desk.wrong(
      node ?? root,
      `Cannot read the kind ${value}: this release of Hauberk does not know it yet`,
      "Remove it; routes and traffic policies come with a later release",
    );
  const meant = suggest(value, kinds);
  return desk.wrong(
    node ?? root,
    `Cannot read the kind ${quote(value)}: it is not known`,
    meant === undefined ? `Write ${kinds.join(" or ")}` : `Did you mean ${meant}?`,
  );
}

function refuseTwins(found: readonly Found[]): void {
  const seen = new Map<string, Found>();
  for (const one of found) {
    const { kind, namespace, name } = one.resource;
    const key = `${kind} ${namespace}/${name}`;
    const first = seen.get(key);
    if (first === undefined) seen.set(key, one);
    else
      one.desk.wrong(
        one.at,
        `Cannot read ${key}: the set has another of this name in ${first.desk.file}`,
        "Rename one of them",
      );
  }
}

function refuseUnknownProviders({ found, uses }: Gathering): void {
  const providers = found.flatMap(({ resource }) =>
    resource.kind === "JwtProvider" ? [`${resource.namespace}/${resource.name}`] : [],
  );
  for (const use of uses) {
    if (providers.includes(use.key)) continue;
    const meant = suggest(use.key, providers);
    use.desk.wrong(
      use.at,
      `Cannot use the provider ${use.key}: the set has no such JwtProvider`,
      meant === undefined ? "Add the JwtProvider to the set" : `Did you mean ${meant}?`,
    );
  }
}

/** Freezes a value that is made of objects and lists alone. */
function freeze<T>(value: T): T {
  if (typeof value !== "object" || value === null) return value;
  for (const member of Object.values(value)) freeze(member);
  return Object.freeze(value);
}
