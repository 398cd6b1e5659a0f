import type { FailureCode } from "../base/errors.ts";
import type { ServiceName } from "../base/spiffe-id.ts";
import type { Call, Decision, Trace } from "./call.ts";
import { compilePolicies } from "./compile.ts";
import { decide } from "./decide.ts";
import { couldAllow } from "./reduce.ts";
import type { AuthorizationPolicy, Resource } from "./resource.ts";

/** What a caller is told: the decision, or that the service does not exist for it. */
export interface Verdict {
  readonly decision: Decision;
  /** As on the wire: SERVICE_UNKNOWN where no ALLOW could ever let the identity in; undefined for "allow" and "unknown". */
  readonly code: FailureCode | undefined;
}

/** Judges a call of `service` by the policies of a whole set, the way both ends of a hop do. */
export function judgeCall(
  resources: readonly Resource[],
  asked: { readonly service: ServiceName; readonly call: Call },
  trace?: Trace,
): Verdict {
  const policies = policiesOf(resources, asked.service);
  const decision = decide(compilePolicies(policies), asked.call, trace);
  const { principal } = asked.call;
  if (principal !== undefined && !couldAllow(policies, principal)) return { decision, code: "SERVICE_UNKNOWN" };
  return { decision, code: decision.code };
}

/** The policies that guard a service. */
function policiesOf(resources: readonly Resource[], service: ServiceName): AuthorizationPolicy[] {
  return resources.filter(
    (resource): resource is AuthorizationPolicy =>
      resource.kind === "AuthorizationPolicy" &&
      resource.target.service === service.service &&
      resource.target.namespace === service.namespace,
  );
}
