import { isRefusal, refuse, type FailureCode, type Refusal } from "../base/errors.ts";
import { parseServiceName, parseSpiffeId, serviceId, type ServiceName, type SpiffeId } from "../base/spiffe-id.ts";
import type { Fields } from "../http/message.ts";
import { normalizePath } from "../http/target.ts";
import type { Call, TokenState } from "./call.ts";
import { explain } from "./explain.ts";
import type { Resource } from "./resource.ts";
import { hostOfService, spellingsOf } from "./spellings.ts";

/** Calls with the decision that is expected of them: the tests of a set of policies. */
export interface PolicyCase {
  readonly name: string;
  readonly file: string;
  readonly line: number;
  readonly call: CaseCall;
  readonly expect: "allow" | "deny" | "unknown";
  /** As the caller is told; SERVICE_UNKNOWN included. Not compared where it is absent. */
  readonly code?: FailureCode;
  /** The deciding policy, "namespace/name" or "default deny". Not compared where it is absent. */
  readonly by?: string;
}

export interface CaseCall {
  /** A service, or a SPIFFE ID; absent for a caller without an identity. */
  readonly from?: string;
  readonly to: string;
  readonly method: string;
  /** As the workload writes it; normalized as the sidecar does. A TCP connection (CONNECT) has none. */
  readonly path: string;
  /** Default: the service's name in the mesh. */
  readonly host?: string;
  /** Default 80. */
  readonly port?: number;
  readonly headers?: Readonly<Record<string, readonly string[]>>;
  /** Default 192.0.2.1; "unseen" for what the caller's sidecar decides. */
  readonly address?: string;
  /** By provider: the claims of a valid token, or what is wrong with it. */
  readonly tokens?: Readonly<Record<string, "invalid" | "unavailable" | Readonly<Record<string, unknown>>>>;
}

export interface CaseResult {
  readonly case: PolicyCase;
  readonly passed: boolean;
  readonly got: {
    readonly verdict: "allow" | "deny" | "unknown";
    readonly code: FailureCode | undefined;
    readonly by: string;
  };
  /** The walk, for a case that failed. */
  readonly lines: readonly string[];
}

export interface CaseContext {
  readonly trustDomain: string;
  /** What bare names mean. Default "default". */
  readonly namespace?: string;
}

/** Runs every case; none stops the others. */
export function runCases(
  resources: readonly Resource[],
  cases: readonly PolicyCase[],
  context: CaseContext,
): CaseResult[] {
  return cases.map((one) => runCase(resources, one, context));
}

function runCase(resources: readonly Resource[], one: PolicyCase, context: CaseContext): CaseResult {
  const asked = toCall(one.call, context);
  if (typeof asked === "string") return failedCase(one, asked);
  const normal = pathOf(one.call);
  // What the sidecar refuses before any policy is a denial too.
  if (isRefusal(normal))
    return result(one, { verdict: "deny", code: normal.code, by: "normalization" }, [normal.message]);
  const { decision, code, lines } = explain(resources, { ...asked, call: { ...asked.call, path: normal.path } });
  return result(one, { verdict: decision.verdict, code, by: decision.by }, lines);
}

function result(one: PolicyCase, got: CaseResult["got"], lines: readonly string[]): CaseResult {
  const passed =
    got.verdict === one.expect &&
    (one.code === undefined || one.code === got.code) &&
    (one.by === undefined || one.by === got.by);
  return { case: one, passed, got, lines };
}

/** A case whose call cannot be made fails, and says why. */
function failedCase(one: PolicyCase, because: string): CaseResult {
  return {
    case: one,
    passed: false,
    got: { verdict: "deny", code: "REQUEST_INVALID", by: "the case" },
    lines: [because],
  };
}

/** The path as policy sees it, or what sidecars refuse before they ask it. */
export function pathOf(call: Pick<CaseCall, "method" | "path">): { readonly path: string } | Refusal {
  if (call.method === "TRACE")
    return refuse("METHOD_UNSUPPORTED", "Cannot carry TRACE: no sidecar does, whatever policies say", "Leave it out");
  return call.method === "CONNECT" ? { path: "" } : normalizePath(call.path);
}

/** The call that a case describes; a text says why it cannot be made. Also what `policy explain` makes of its words. */
export function toCall(call: CaseCall, context: CaseContext): { service: ServiceName; call: Call } | string {
  const namespace = context.namespace ?? "default";
  const service = parseServiceName(call.to, namespace);
  if (isRefusal(service)) return service.message;
  const principal = call.from === undefined ? undefined : principalOf(call.from, namespace, context.trustDomain);
  if (isRefusal(principal)) return principal.message;
  const tokens = new Map(
    Object.entries(call.tokens ?? {}).map(([name, state]) => [
      name.includes("/") ? name : `${namespace}/${name}`,
      stateOf(state),
    ]),
  );
  return {
    service,
    call: {
      principal,
      method: call.method,
      path: call.path,
      host: hostIn(call.host, service),
      port: call.port ?? 80,
      fields: fieldsOf(call.headers ?? {}),
      sourceAddress: call.address === "unseen" ? undefined : (call.address ?? "192.0.2.1"),
      token: (provider) => tokens.get(provider) ?? { is: "absent" },
    },
  };
}

/** As a sidecar sees it: one host for all names of the called service. */
function hostIn(written: string | undefined, service: ServiceName): string {
  const host = hostOfService(service);
  return written === undefined || spellingsOf(host).includes(written.toLowerCase()) ? host : written;
}

function principalOf(from: string, namespace: string, trustDomain: string): SpiffeId | Refusal {
  if (from.startsWith("spiffe://")) return parseSpiffeId(from);
  const name = parseServiceName(from, namespace);
  return isRefusal(name) ? name : parseSpiffeId(serviceId(trustDomain, name));
}

function stateOf(state: "invalid" | "unavailable" | Readonly<Record<string, unknown>>): TokenState {
  return typeof state === "string" ? { is: state, because: "the case says so" } : { is: "valid", claims: state };
}

function fieldsOf(headers: Readonly<Record<string, readonly string[]>>): Fields {
  return Object.entries(headers).flatMap(([name, values]) => values.flatMap((value) => [name, value]));
}
