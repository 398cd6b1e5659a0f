import { createPrivateKey } from "node:crypto";
import { failures, HauberkError, isRefusal, type FailureCode, type Refusal } from "../base/errors.ts";
import { parseSpiffeId } from "../base/spiffe-id.ts";
import { limits } from "../contract/limits.ts";
import { serviceKeyText } from "../contract/read-watch.ts";
import {
  flag,
  integer,
  list,
  object,
  oneOf,
  parseJson,
  reading,
  sentence,
  tagged,
  text,
  wrong,
  type Reader,
} from "../contract/shape.ts";
import type { ServiceView, StateEntry } from "../contract/watch.ts";
import type { ProxyDescription } from "../proxy/description.ts";
import type { ProxyContext } from "../proxy/proxy.ts";
import type { LogLevel } from "../telemetry/log.ts";
import { setsMaxDefault, type FamilyView } from "../telemetry/metric-view.ts";
import { readCertificate, type Certificate } from "../x509/certificate.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";

/**
 * What a sidecar and its worker processes say to each other, one JSON value a line over a socket pair of their own. The
 * sidecar is believed: it holds the identity. A worker parses what strangers wrote, so it is read like the network.
 */

/** An identity with its key, between processes of one user on one machine; never logged. */
export interface WireIdentity {
  readonly id: string;
  /** Base64 of PKCS#8 DER. */
  readonly key: string;
  /** Base64 DER, leaf first. */
  readonly chain: readonly string[];
  readonly roots: readonly string[];
  readonly bundleSequence: number;
  readonly issuedAtMs: number;
  readonly notAfterMs: number;
  readonly generation: number;
}

/** What stands in a proxy's context and is no plain data: a worker has its own. */
export type NotPlain =
  | "identity"
  | "snapshot"
  | "ask"
  | "clock"
  | "random"
  | "log"
  | "metrics"
  | "access"
  | "dial"
  | "shared";

/** The plain data of a proxy's context, all of it, whatever may be added to it. */
export type ProxySettings = Omit<ProxyContext, NotPlain>;

/** All that a worker never sees change. */
export interface WorkerSettings {
  /** Counted from 1; stands on its log lines. */
  readonly worker: number;
  readonly accessLog: boolean;
  readonly logLevel: LogLevel;
  /** With the ports that all workers share, and this one's share of each limit. */
  readonly proxy: ProxySettings;
}

export type ToWorker =
  /** The first, and once. */
  | {
      readonly type: "start";
      readonly settings: WorkerSettings;
      readonly identity: WireIdentity | null;
      readonly entries: readonly StateEntry[];
    }
  | { readonly type: "identity"; readonly identity: WireIdentity | null }
  /** What changed of the state since the last of these, or since the start. */
  | { readonly type: "state"; readonly set: readonly StateEntry[]; readonly gone: readonly string[] }
  | { readonly type: "answer"; readonly number: number; readonly view: ServiceView | null }
  | {
      readonly type: "unanswered";
      readonly number: number;
      readonly code: FailureCode;
      readonly message: string;
      readonly hint: string;
    }
  | { readonly type: "measure"; readonly number: number }
  | { readonly type: "describe"; readonly number: number }
  | { readonly type: "ping" }
  | { readonly type: "drain"; readonly withinMs: number }
  | { readonly type: "stop" };

export type FromWorker =
  | { readonly type: "listening"; readonly inboundPort: number; readonly outboundPort: number }
  | { readonly type: "failed"; readonly code: string; readonly message: string; readonly hint: string }
  | { readonly type: "ask"; readonly number: number; readonly service: string }
  | { readonly type: "measured"; readonly number: number; readonly families: readonly FamilyView[] }
  | { readonly type: "described"; readonly number: number; readonly description: ProxyDescription }
  | { readonly type: "pong" }
  | { readonly type: "drained" };

/** A thousand label sets of the widest family are a fraction of this. */
export const fromWorkerBytesMax = 8 * 1024 * 1024;

const familiesMax = 256;
const servicesMax = 4_096;

const finite: Reader<number> = (value, at) => {
  if (typeof value !== "number" || !Number.isFinite(value)) wrong(at, "a number");
  return value;
};
const count = integer(0, Number.MAX_SAFE_INTEGER);
const port = integer(0, 65_535);

const family: Reader<FamilyView> = object({
  name: text(128, /^[a-zA-Z_:][a-zA-Z0-9_:]*$/, "a metric's name"),
  help: text(512),
  kind: oneOf("counter", "gauge", "histogram"),
  over: oneOf("sum", "max"),
  labels: list(text(64, /^[a-zA-Z_][a-zA-Z0-9_]*$/, "a label's name"), 8),
  bounds: list(finite, 64),
  sets: list(object({ labels: list(text(2_048), 8), values: list(finite, 66) }), setsMaxDefault + 1),
});

const description: Reader<ProxyDescription> = object({
  inboundPort: port,
  outboundPort: port,
  healthy: flag,
  services: list(
    object({
      service: serviceKeyText,
      endpoints: list(
        object({
          instance: text(64),
          address: text(300),
          healthy: flag,
          stale: flag,
          breaker: oneOf("closed", "open", "probing"),
          open: count,
          connections: count,
        }),
        limits.endpointsMax,
      ),
    }),
    servicesMax,
  ),
});

const fromWorker: Reader<FromWorker> = tagged<FromWorker>("type", {
  listening: object({ type: oneOf("listening"), inboundPort: port, outboundPort: port }),
  failed: object({ type: oneOf("failed"), code: text(64), message: sentence, hint: sentence }),
  ask: object({ type: oneOf("ask"), number: count, service: serviceKeyText }),
  measured: object({ type: oneOf("measured"), number: count, families: list(family, familiesMax) }),
  described: object({ type: oneOf("described"), number: count, description }),
  pong: object({ type: oneOf("pong") }),
  drained: object({ type: oneOf("drained") }),
});

/** Reads one line of a worker: MESSAGE_INVALID for anything that is not exactly a `FromWorker`. */
export function readFromWorker(line: string): FromWorker | Refusal {
  const parsed = parseJson("worker's message", line, fromWorkerBytesMax);
  return isRefusal(parsed) ? parsed : reading("worker's message", fromWorker, parsed.value);
}

/** Values that JSON cannot carry are left out with their set. */
export function wireFamilies(families: readonly FamilyView[]): FamilyView[] {
  return families.map((family) => ({
    ...family,
    sets: family.sets.filter(({ values }) => values.every(Number.isFinite)),
  }));
}

/** The failure that a worker told of; a code that this release does not have is a bug's. */
export function failureOf(failed: { code: string; message: string; hint: string }): HauberkError {
  const code = Object.hasOwn(failures, failed.code) ? (failed.code as FailureCode) : "BUG";
  return new HauberkError(code, failed.message, failed.hint);
}

export function wireIdentity(identity: TlsIdentity | undefined): WireIdentity | null {
  if (identity === undefined) return null;
  const { id, key, chain, roots, bundleSequence, issuedAtMs, notAfterMs, generation } = identity;
  return {
    id: id.text,
    key: key.export({ type: "pkcs8", format: "der" }).toString("base64"),
    chain: chain.map(({ der }) => der.toString("base64")),
    roots: roots.map(({ der }) => der.toString("base64")),
    bundleSequence,
    issuedAtMs,
    notAfterMs,
    generation,
  };
}

/** @throws HauberkError where the sidecar sent what is no identity: a bug. */
export function identityOf(wire: WireIdentity | null): TlsIdentity | undefined {
  if (wire === null) return undefined;
  const { bundleSequence, issuedAtMs, notAfterMs, generation } = wire;
  return Object.freeze({
    id: certain(parseSpiffeId(wire.id)),
    key: createPrivateKey({ key: Buffer.from(wire.key, "base64"), format: "der", type: "pkcs8" }),
    chain: wire.chain.map(certificateOf),
    roots: wire.roots.map(certificateOf),
    bundleSequence,
    issuedAtMs,
    notAfterMs,
    generation,
  });
}

function certificateOf(text: string): Certificate {
  return certain(readCertificate(Buffer.from(text, "base64")));
}

function certain<T>(value: T | Refusal): T {
  if (isRefusal(value)) throw HauberkError.from(value);
  return value;
}
