import { refuse, type Refusal } from "./errors.ts";

/**
 * SPIFFE IDs as SPIFFE-ID.md, sections 2.1 to 2.4 define them, read strictly: nothing is normalized.
 * `spiffe://mesh.local/ns/default/sa/orders`
 */
export interface SpiffeId {
  readonly trustDomain: string;
  /** "" for a trust domain's own ID, else "/" and segments. */
  readonly path: string;
  /** The whole ID. */
  readonly text: string;
}

/** A service: RFC 1123 labels. */
export interface ServiceName {
  readonly namespace: string;
  readonly service: string;
}

const scheme = "spiffe://";
const idMax = 2048;
const trustDomainMax = 255;
const trustDomainForm = /^[a-z0-9._-]+$/;
const segmentForm = /^[a-zA-Z0-9._-]+$/;
const labelForm = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** Reads an ID; anything that is not exactly one is refused, never mended. */
export function parseSpiffeId(text: string): SpiffeId | Refusal {
  const not = (because: string): Refusal =>
    refuse("MESSAGE_INVALID", `Cannot read the SPIFFE ID: ${because}`, "Write spiffe://TRUST-DOMAIN/PATH");
  if (text.length > idMax) return not(`it is longer than ${idMax} bytes`);
  if (!text.startsWith(scheme)) return not("it does not start with spiffe://");
  const slash = text.indexOf("/", scheme.length);
  const trustDomain = slash < 0 ? text.slice(scheme.length) : text.slice(scheme.length, slash);
  const path = slash < 0 ? "" : text.slice(slash);
  if (trustDomain.length > trustDomainMax || !trustDomainForm.test(trustDomain)) {
    return not(`its trust domain is not 1 to ${trustDomainMax} of a-z, 0-9, ".", "_", "-"`);
  }
  if (path !== "") {
    for (const segment of path.slice(1).split("/")) {
      if (segment === "." || segment === ".." || !segmentForm.test(segment)) {
        return not(
          'a segment of its path is empty, a dot segment, or has other characters than a-z, A-Z, 0-9, ".", "_", "-"',
        );
      }
    }
  }
  return { trustDomain, path, text };
}

export function isTrustDomain(text: string): boolean {
  return text.length <= trustDomainMax && trustDomainForm.test(text);
}

/** Whether `text` is an RFC 1123 label: what services, namespaces and ports are called. */
export function isLabel(text: string): boolean {
  return labelForm.test(text);
}

/** `orders` in the caller's namespace, or `orders.shop`, as people write services. */
export function parseServiceName(text: string, namespace: string): ServiceName | Refusal {
  const [service, ns = namespace, ...rest] = text.split(".");
  if (service === undefined || rest.length > 0 || !isLabel(service) || !isLabel(ns)) {
    return refuse(
      "USAGE",
      `Cannot read the service name "${text}": it is not SERVICE or SERVICE.NAMESPACE of lower-case letters, digits and "-"`,
      "Write orders, or orders.shop for another namespace",
    );
  }
  return { service, namespace: ns };
}

/** The ID of a service's workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<service>`. */
export function serviceId(trustDomain: string, name: ServiceName): string {
  return `${scheme}${trustDomain}/ns/${name.namespace}/sa/${name.service}`;
}

/** The service that an ID names, or undefined where it has another shape. */
export function serviceOf(id: SpiffeId): ServiceName | undefined {
  const [empty, ns, namespace, sa, service, ...rest] = id.path.split("/");
  if (empty !== "" || ns !== "ns" || sa !== "sa" || rest.length > 0) return undefined;
  if (namespace === undefined || service === undefined || !isLabel(namespace) || !isLabel(service)) return undefined;
  return { namespace, service };
}

/** The control plane's own ID. */
export function controlId(trustDomain: string): string {
  return `${scheme}${trustDomain}/hauberk/control`;
}

/** An administrator's ID. */
export function adminId(trustDomain: string, name: string): string {
  return `${scheme}${trustDomain}/admin/${name}`;
}

/** The administrator that an ID names, or undefined. */
export function adminOf(id: SpiffeId): string | undefined {
  const [empty, admin, name, ...rest] = id.path.split("/");
  return empty === "" && admin === "admin" && rest.length === 0 && name !== undefined && isLabel(name)
    ? name
    : undefined;
}

/** Whether an ID is of those that run the mesh, the control plane's or an administrator's: none of them is a workload. */
export function runsTheMesh(id: SpiffeId): boolean {
  return /^\/(?:hauberk|admin)(?:\/|$)/.test(id.path);
}

/** `orders.shop`: the key of a service in maps and messages. */
export function serviceKey(name: ServiceName): string {
  return `${name.service}.${name.namespace}`;
}
