import { parseAddress } from "../../base/ip-address.ts";
import { HauberkError, isRefusal, type FailureCode } from "../../base/errors.ts";
import { serviceKey } from "../../base/spiffe-id.ts";
import { pathOf, toCall, type CaseCall } from "../../policy/cases.ts";
import { explain } from "../../policy/explain.ts";
import type { TraceStep } from "../../policy/call.ts";
import type { Resource } from "../../policy/resource.ts";
import { exits, usageError, type Input, type Run } from "../command.ts";
import { readPolicyFolder } from "../policy-folder.ts";
import { show } from "../terminal.ts";

/** What `--json` gives. */
interface Answer {
  /** Where the policies were read; what the mesh runs may be another set. */
  readonly folder: string;
  readonly from: string;
  readonly to: string;
  readonly method: string;
  /** Normalized, as it is matched and forwarded. */
  readonly path: string;
  /** Whose decision this is: without an address the caller's sidecar's, which cannot know it. */
  readonly side: "caller" | "callee";
  readonly verdict: "allow" | "deny" | "unknown";
  readonly code: FailureCode | null;
  readonly by: string;
  readonly audits: readonly string[];
  readonly steps: readonly TraceStep[];
}

const hint = "See hauberk policy explain --help";

/** Decides one call by a folder's policies, without a control plane; 0 for "allow", 1 for anything else. */
export const run: Run = async (input) => {
  const folder = readPolicyFolder(input, input.flag("policies"));
  const wished = callOf(input, folder.resources);
  const asked = toCall(wished, { trustDomain: folder.trustDomain });
  if (typeof asked === "string") throw new HauberkError("USAGE", asked, hint);
  const about = {
    folder: folder.folder,
    from: asked.call.principal?.text ?? "",
    to: serviceKey(asked.service),
    method: wished.method,
    side: input.flag("address") === undefined ? "caller" : "callee",
  } as const;
  const normal = pathOf(wished);
  if (isRefusal(normal)) {
    // What the sidecar refuses before any policy is a denial too.
    const by = "normalization";
    const answer: Answer = {
      ...about,
      path: wished.path,
      verdict: "deny",
      code: normal.code,
      by,
      audits: [],
      steps: [],
    };
    return tell(input, answer, [normal.message, `deny with ${normal.code}, before any policy`]);
  }
  const { decision, code, steps, lines } = explain(folder.resources, {
    ...asked,
    call: { ...asked.call, path: normal.path },
  });
  const { verdict, by, audits } = decision;
  const answer: Answer = { ...about, path: normal.path, verdict, code: code ?? null, by, audits, steps };
  const doubts: string[] = [];
  if (verdict === "unknown")
    doubts.push(`  only the sidecar of ${about.to} can tell; with --address ADDRESS this says what it decides`);
  if (input.flag("port") === undefined && folder.resources.some((resource) => namesPorts(resource, about.to)))
    doubts.push(
      `  a policy names ports, and port 80 was assumed; with --port PORT this says what holds for the one of --app`,
    );
  return tell(input, answer, [...lines, ...doubts]);
};

/** Policies do not say which ports a service has: what was assumed must not look like what the sidecar decides. */
function namesPorts(resource: Resource, service: string): boolean {
  if (resource.kind !== "AuthorizationPolicy" || serviceKey(resource.target) !== service) return false;
  return resource.rules.some(({ to }) => to?.some(({ ports }) => ports !== undefined));
}

function tell(input: Input, answer: Answer, lines: readonly string[]): number {
  const named = input.flag("policies");
  const apply = `hauberk policy apply${named === undefined ? "" : ` ${named}`}`;
  const source = `Read from ${answer.folder}, not from the mesh: ${apply} puts it in force, --dry-run first shows what differs`;
  show(input.terminal, answer, () => [...lines, source].join("\n"));
  return answer.verdict === "allow" ? exits.done : exits.negative;
}

function callOf(input: Input, resources: readonly Resource[]): CaseCall {
  const { method, path } = requestLine(input.words);
  const port = input.flag("port");
  if (port !== undefined && !(/^\d{1,5}$/.test(port) && Number(port) >= 1 && Number(port) <= 65_535)) {
    throw usageError(`--port ${port} is not a number from 1 to 65535`, hint);
  }
  const address = input.flag("address");
  if (address !== undefined && parseAddress(address) === undefined) {
    throw usageError(`--address ${address} is no IP address`, hint);
  }
  const tokens = tokensOf(input, resources);
  return {
    from: needed(input, "from"),
    to: needed(input, "to"),
    method,
    path,
    headers: headersOf(input),
    address: address ?? "unseen",
    ...(port === undefined ? {} : { port: Number(port) }),
    ...(tokens === undefined ? {} : { tokens }),
  };
}

function needed(input: Input, name: string): string {
  const value = input.flag(name);
  if (value === undefined) throw usageError(`--${name} SERVICE is missing`, hint);
  return value;
}

/** `GET /` where nothing is said; one word that begins with / is a path. CONNECT is a TCP connection, which has none. */
function requestLine(words: readonly string[]): { method: string; path: string } {
  const [first, second] = words;
  if (second === undefined && first?.startsWith("/") === true) return { method: "GET", path: first };
  const method = first ?? "GET";
  // RFC 9110, 5.6.2: a method is a token, and its case counts.
  if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(method)) throw usageError(`"${method}" is no method`, hint);
  if (method !== "CONNECT") return { method, path: second ?? "/" };
  if (second !== undefined) throw usageError("CONNECT is a TCP connection, which has no path", hint);
  return { method, path: "" };
}

function headersOf(input: Input): Record<string, string[]> {
  const headers = new Map<string, string[]>();
  for (const text of input.flags("header")) {
    const colon = text.indexOf(":");
    if (colon < 1) throw usageError(`--header "${text}" is not NAME: VALUE`, hint);
    const name = text.slice(0, colon).trim().toLowerCase();
    headers.set(name, [...(headers.get(name) ?? []), text.slice(colon + 1).trim()]);
  }
  return Object.fromEntries(headers);
}

/** A valid token where a claim or a provider is named; none else. */
function tokensOf(input: Input, resources: readonly Resource[]): CaseCall["tokens"] {
  const given = input.flags("claim");
  if (given.length === 0 && input.flag("provider") === undefined) return undefined;
  const claims = new Map<string, string[]>();
  for (const text of given) {
    const equals = text.indexOf("=");
    if (equals < 1) throw usageError(`--claim "${text}" is not NAME=VALUE`, hint);
    const name = text.slice(0, equals);
    claims.set(name, [...(claims.get(name) ?? []), text.slice(equals + 1)]);
  }
  const values = [...claims].map(([name, list]): [string, unknown] => [name, list.length === 1 ? list[0] : list]);
  return { [providerOf(input, resources)]: Object.fromEntries(values) };
}

/** As "namespace/name". */
function providerOf(input: Input, resources: readonly Resource[]): string {
  const known = resources.flatMap((resource) =>
    resource.kind === "JwtProvider" ? [`${resource.namespace}/${resource.name}`] : [],
  );
  const named = input.flag("provider");
  if (named === undefined) {
    const [only, ...more] = known;
    if (only !== undefined && more.length === 0) return only;
    throw usageError(
      known.length === 0
        ? "there is no JwtProvider whose token it could be"
        : `--provider is missing, and there are several: ${known.join(", ")}`,
      known.length === 0 ? "Add a JwtProvider to the policies, or leave --claim out" : "Name one with --provider",
    );
  }
  const full = named.includes("/") ? named : `default/${named}`;
  if (known.includes(full)) return full;
  throw usageError(
    `there is no JwtProvider "${named}"`,
    known.length === 0 ? "Add one to the policies" : `Use one of ${known.join(", ")}`,
  );
}
