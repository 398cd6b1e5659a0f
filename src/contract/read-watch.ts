import { isLocal, isLoopback, parseAddress } from "../base/ip-address.ts";
import { isLabel, isTrustDomain, parseSpiffeId, serviceKey, serviceOf } from "../base/spiffe-id.ts";
import { isRefusal, type Refusal } from "../base/errors.ts";
import { limits } from "./limits.ts";
import { authorizationPolicy, jwtProvider, label } from "./read-resource.ts";
import {
  der,
  flag,
  integer,
  list,
  moment,
  nullable,
  object,
  oneOf,
  parseJson,
  reading,
  sentence,
  tagged,
  text,
  wrong,
  type Reader,
} from "./shape.ts";
import type {
  BundleView,
  Down,
  Endpoint,
  OwnView,
  Registration,
  RouteePort,
  ServiceView,
  StateEntry,
  StateValue,
  Up,
  Version,
} from "./watch.ts";

/** The readers of the watch, one for each direction. They take any text and never throw. */

const version: Reader<Version> = object({
  epoch: text(64, /^[0-9A-Za-z_-]+$/, "an epoch"),
  counter: integer(0, Number.MAX_SAFE_INTEGER),
});

const hostName = /^[0-9A-Za-z-]{1,63}(?:\.[0-9A-Za-z-]{1,63})*$/;
/** Resolvers read 127.1, 0x7f000001 and 2130706433 as addresses: only the full form is one here. */
const shortForm = /(?:^|\.)(?:0x[0-9a-f]*|[0-9]+)$/i;

/**
 * An IP address or a host name; what it leads to proves itself by its certificate. Whoever registers chooses where others
 * dial: the dialler's own link (with its metadata service), everybody and nobody are no endpoints, in no spelling.
 * Loopback is one for sidecars of the same machine, and the registry sees to that.
 */
const address: Reader<string> = (value, at) => {
  const read = text(253)(value, at);
  const words = parseAddress(read);
  if (words === undefined) {
    if (!hostName.test(read)) wrong(at, "an address");
    if (shortForm.test(read)) wrong(at, "an address in its full form");
    return read;
  }
  if (read.includes("%")) wrong(at, "an address without a zone");
  if ((isLocal(words) && !isLoopback(words)) || isMulticast(words)) wrong(at, "an address that others can reach");
  return read;
};

/** And broadcast: 224.0.0.0/3, ff00::/8. */
function isMulticast(words: readonly number[]): boolean {
  return (words[0] as number) >= (words.length === 2 ? 0xe000 : 0xff00);
}

const tcpPort = integer(1, 65_535);

const routeePort: Reader<RouteePort> = object({ name: label, port: tcpPort, protocol: oneOf("http", "h2", "tcp") });

const routeePorts: Reader<readonly RouteePort[]> = (value, at) => {
  const read = list(routeePort, limits.routeePortsMax)(value, at);
  if (new Set(read.map((port) => port.name)).size !== read.length) wrong(at, "a list of ports with names of their own");
  return read;
};

/** `orders.default` */
export const serviceKeyText: Reader<string> = (value, at) => {
  const read = text(127)(value, at);
  const [service = "", namespace = "", ...rest] = read.split(".");
  if (rest.length > 0 || !isLabel(service) || !isLabel(namespace)) wrong(at, "SERVICE.NAMESPACE");
  return read;
};

const registration: Reader<Registration> = object({
  address,
  port: tcpPort,
  ports: routeePorts,
  healthy: flag,
  draining: flag,
});

const subscriptions = list(serviceKeyText, limits.subscriptionsMax);

const up: Reader<Up> = tagged<Up>("type", {
  hello: object(
    {
      type: oneOf("hello"),
      protocol: oneOf(1),
      release: text(64, /^[0-9A-Za-z.+-]+$/, "a release"),
      version: nullable(version),
      registration: nullable(registration),
      subscriptions,
    },
    { name: text(63, /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/, "an instance's name"), workers: integer(1, 1_024) },
  ),
  register: object({ type: oneOf("register"), registration: nullable(registration) }),
  subscribe: object({ type: oneOf("subscribe"), service: serviceKeyText }),
  unsubscribe: object({ type: oneOf("unsubscribe"), service: serviceKeyText }),
  ack: object({ type: oneOf("ack"), version }),
  reject: object({ type: oneOf("reject"), version, because: sentence }),
  pong: object({ type: oneOf("pong"), number: integer(0, Number.MAX_SAFE_INTEGER) }),
});

const instance = text(64, /^[0-9A-Za-z._-]+$/, "an instance");

const endpoint: Reader<Endpoint> = object({
  instance,
  address,
  port: tcpPort,
  ports: routeePorts,
  healthy: flag,
  stale: flag,
});

const policies = list(authorizationPolicy, limits.policiesMax);

const serviceView: Reader<ServiceView> = object({
  id: (value, at) => {
    const read = text(2_048)(value, at);
    const id = parseSpiffeId(read);
    if (isRefusal(id) || serviceOf(id) === undefined) wrong(at, "a service's SPIFFE ID");
    return read;
  },
  policies,
  endpoints: list(endpoint, limits.endpointsMax),
});

const ownView: Reader<OwnView> = object({ policies });

const bundleView: Reader<BundleView> = object({
  trustDomain: (value, at) => {
    if (typeof value !== "string" || !isTrustDomain(value)) wrong(at, "a trust domain");
    return value;
  },
  sequence: integer(0, Number.MAX_SAFE_INTEGER),
  roots: list(der, limits.rootsMax),
});

const stateKey = text(600, /^(?:bundle|own|provider\/[^/]+\/[^/]+|service\/[^/]+)$/, "a key of the state");

/** The key says what the value has to be, and a service's ID has to be the one that its key names. */
function stateValue(key: string, value: unknown, at: string): StateValue {
  if (key === "bundle") return bundleView(value, at);
  if (key === "own") return ownView(value, at);
  if (value === null) return null;
  if (key.startsWith("provider/")) {
    const provider = jwtProvider(value, at);
    if (key !== `provider/${provider.namespace}/${provider.name}`) wrong(at, `what ${key} names`);
    return provider;
  }
  const service = serviceView(value, at);
  const id = parseSpiffeId(service.id);
  const name = isRefusal(id) ? undefined : serviceOf(id);
  if (name === undefined || key !== `service/${serviceKey(name)}`) wrong(at, `what ${key} names`);
  return service;
}

const stateEntry: Reader<StateEntry> = (value, at) => {
  if (!Array.isArray(value) || value.length !== 2) wrong(at, "a pair of key and value");
  const key = stateKey(value[0], at);
  return [key, stateValue(key, value[1], `${at}[1]`)];
};

const entries = list(stateEntry, limits.entriesMax);

const onlyTrue: Reader<true> = (value, at) => {
  if (value !== true) wrong(at, "true");
  return value;
};

const down: Reader<Down> = tagged<Down>("type", {
  full: object({ type: oneOf("full"), version, entries }, { more: onlyTrue }),
  delta: object(
    { type: oneOf("delta"), version, set: entries, gone: list(stateKey, limits.entriesMax) },
    { more: onlyTrue },
  ),
  ping: object({ type: oneOf("ping"), number: integer(0, Number.MAX_SAFE_INTEGER), wallMs: moment }),
  goodbye: object({ type: oneOf("goodbye"), because: sentence }),
  notice: object({ type: oneOf("notice"), code: text(64), message: sentence, hint: sentence }),
  refused: object({ type: oneOf("refused"), code: text(64), message: sentence, hint: sentence }),
});

/** Reads one line of the control plane: MESSAGE_INVALID for anything that is not exactly a `Down`. */
export function readDown(line: string): Down | Refusal {
  const parsed = parseJson("control plane's message", line, limits.downLineBytesMax);
  return isRefusal(parsed) ? parsed : reading("control plane's message", down, parsed.value);
}

/** Reads one line of a sidecar: MESSAGE_INVALID for anything that is not exactly an `Up`. */
export function readUp(line: string): Up | Refusal {
  const parsed = parseJson("sidecar's message", line, limits.upLineBytesMax);
  return isRefusal(parsed) ? parsed : reading("sidecar's message", up, parsed.value);
}

/** Reads state that lay on disk, as `full` carries it. */
export function readEntries(value: unknown): readonly StateEntry[] | Refusal {
  return reading("state", entries, value);
}

/** One line, its end included. */
export function writeLine(message: Down | Up): string {
  return `${JSON.stringify(message)}\n`;
}
