import { refuse, type Refusal } from "../base/errors.ts";
import { isLocal, parseAddress } from "../base/ip-address.ts";
import { isLabel, type ServiceName } from "../base/spiffe-id.ts";

/** Which service, or which address outside, an authority means. Nothing is looked up: the answer lies in the name. */
export interface RouteContext {
  /** The caller's own: what a bare `orders` means. */
  readonly namespace: string;
  readonly trustDomain: string;
  /** What may be reached outside: `api.example.com`, `api.example.com:443`, `*.example.com`, an IP address, or `*`. */
  readonly egress: readonly string[];
}

export type AuthorityRoute =
  /** Without a port, or with 80: the service's first HTTP port. */
  | { readonly is: "service"; readonly service: ServiceName; readonly port?: number | undefined }
  | { readonly is: "egress"; readonly host: string; readonly port: number };

const hostMax = 253;
const defaultPort = 80;

/**
 * Routes `orders`, `orders.shop` and `orders.shop.mesh`, in any case, with one trailing dot and a port or without
 * (`Orders.Shop.:8080`), to their service, and what `egress` lists to the outside.
 * A name of two labels that `egress` lists by name is outside; bare names and `.mesh` never are. `example.com` means the host on
 * the internet, not the service example of a namespace com: the oldest public domains are no namespaces in the short form.
 * Loopback, link-local and unspecified addresses never pass, whatever is listed: they would let a peer's words choose a
 * port of this machine.
 * REQUEST_INVALID for what is no authority, NOT_IN_MESH for one that is not served.
 */
export function routeAuthority(authority: string, context: RouteContext): AuthorityRoute | Refusal {
  const read = readHost(authority);
  if (typeof read === "string") {
    const hint = "Send host or host:port, such as orders or orders.shop:8080";
    return refuse("REQUEST_INVALID", `Cannot read the authority: ${read}`, hint);
  }
  const { host, port } = read;
  const address = parseAddress(host.startsWith("[") ? host.slice(1, -1) : host);
  if (address !== undefined) return routeAddress(read, address, context);
  if (host === "localhost" || host.endsWith(".localhost")) return notInMesh(host, context, "it is this machine");
  const service = publicHost.test(host) ? undefined : serviceIn(host, context.namespace);
  const mayLeave = service === undefined || isTwoLabels(host);
  if (mayLeave && context.egress.some((entry) => lists(entry, read) && (entry !== "*" || service === undefined)))
    return { is: "egress", host, port: port ?? defaultPort };
  if (service === undefined) return notInMesh(host, context, "it is no name of a service, and egress does not list it");
  return { is: "service", service, port: port === defaultPort ? undefined : port };
}

function routeAddress(read: Host, address: readonly number[], context: RouteContext): AuthorityRoute | Refusal {
  if (isLocal(address)) return notInMesh(read.host, context, "it is a loopback, link-local or unspecified address");
  if (context.egress.some((entry) => lists(entry, read)))
    return { is: "egress", host: read.host, port: read.port ?? defaultPort };
  return notInMesh(read.host, context, "it is an address, and egress does not list it");
}

interface Host {
  /** Lower case, no trailing dot; IPv6 in its brackets. */
  readonly host: string;
  readonly port: number | undefined;
}

/** RFC 3986, 3.2, without userinfo and percent-encoding; a text says what is wrong. */
function readHost(authority: string): Host | string {
  const bracket = authority.startsWith("[") ? authority.indexOf("]") : -1;
  const colon = authority.indexOf(":", bracket + 1);
  if (authority.startsWith("[") && colon !== bracket + 1 && bracket !== authority.length - 1)
    return "its brackets are wrong";
  const port = colon < 0 ? undefined : readPort(authority.slice(colon + 1));
  if (Number.isNaN(port)) return "its port is not a number from 1 to 65535";
  const written = (colon < 0 ? authority : authority.slice(0, colon)).toLowerCase();
  const host = written.endsWith(".") ? written.slice(0, -1) : written;
  if (host.startsWith("[")) {
    const inside = host.slice(1, -1);
    const fine =
      host.endsWith("]") && inside.includes(":") && !inside.includes("%") && parseAddress(inside) !== undefined;
    return fine ? { host, port } : "its IPv6 address is malformed";
  }
  if (host === "" || host.length > hostMax) return `its host is not 1 to ${hostMax} characters`;
  if (!hostForm.test(host))
    return "its host holds an empty label, or other characters than letters, digits, -, _ and .";
  // Resolvers read an address where the last label is a number: 127.1, 0x7f.1 and 2130706433 all mean 127.0.0.1.
  if (numberLast.test(host) && parseAddress(host) === undefined) return "its address is not dotted decimal";
  return { host, port };
}

const hostForm = /^[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*$/;
/** Two labels with a domain of RFC 920 or 1591 that nobody calls a namespace; `api.com.mesh` says it unmistakably. */
const publicHost = /^[a-z0-9-]+\.(?:com|net|org|edu|gov)$/;
const numberLast = /(?:^|\.)(?:\d+|0x[0-9a-f]*)$/;

function readPort(text: string): number {
  return /^[1-9]\d{0,4}$/.test(text) && Number(text) <= 65_535 ? Number(text) : Number.NaN;
}

function serviceIn(host: string, own: string): ServiceName | undefined {
  const [service, namespace = own, mesh = "mesh", ...rest] = host.split(".");
  if (service === undefined || rest.length > 0 || mesh !== "mesh") return undefined;
  return isLabel(service) && isLabel(namespace) ? { service, namespace } : undefined;
}

function isTwoLabels(host: string): boolean {
  const dot = host.indexOf(".");
  return dot > 0 && dot === host.lastIndexOf(".");
}

/** Why an entry of the egress list would let nothing out, or undefined: names of the mesh and of this machine never leave by it. */
export function whyNotEgress(entry: string): string | undefined {
  if (entry === "*") return undefined;
  const [, scheme] = /^([a-z][a-z0-9+.-]*):\/\//i.exec(entry) ?? [];
  if (scheme !== undefined) return `it is a URL with the scheme ${scheme}, and a host was wanted`;
  if (entry.includes("/")) return "it holds a path, and a host was wanted: every path of it may be called";
  const read = readHost(entry.startsWith("*.") ? entry.slice(2) : entry);
  if (typeof read === "string") return read;
  const { host } = read;
  const address = parseAddress(host.startsWith("[") ? host.slice(1, -1) : host);
  if (address !== undefined && entry.startsWith("*.")) return "an address has no names below it";
  if (address !== undefined)
    return isLocal(address) ? "it is a loopback, link-local or unspecified address" : undefined;
  if (host === "localhost" || host.endsWith(".localhost")) return "it is this machine";
  if (host === "mesh" || host.endsWith(".mesh")) return "it is a name of the mesh";
  return host.includes(".") || entry.startsWith("*.") ? undefined : "a bare name is a service of the mesh";
}

/** Whether an entry of the egress list means this host and port. */
function lists(entry: string, { host, port }: Host): boolean {
  if (entry === "*") return true;
  if (entry.startsWith("*.")) {
    const { name, only } = splitPort(entry.slice(1));
    return (
      host.endsWith(name.toLowerCase()) &&
      host.length > name.length &&
      (only === undefined || only === (port ?? defaultPort))
    );
  }
  const { name, only } = splitPort(entry);
  const listed = name.toLowerCase();
  return (
    (listed.endsWith(".") ? listed.slice(0, -1) : listed) === host &&
    (only === undefined || only === (port ?? defaultPort))
  );
}

function splitPort(entry: string): { name: string; only: number | undefined } {
  const colon = entry.lastIndexOf(":");
  const closed = entry.lastIndexOf("]");
  if (colon < 0 || colon < closed) return { name: entry, only: undefined };
  // A listed port that is none matches nothing.
  return { name: entry.slice(0, colon), only: readPort(entry.slice(colon + 1)) };
}

function notInMesh(host: string, context: RouteContext, because: string): Refusal {
  return refuse(
    "NOT_IN_MESH",
    `Cannot route "${host}" in the mesh ${context.trustDomain}: ${because}`,
    "Call a service as orders or orders.shop; let a host outside of the mesh be called with --egress HOST, or call it without the proxy: add it to no_proxy",
  );
}
