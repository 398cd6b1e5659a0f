import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { HauberkError, isRefusal } from "../base/errors.ts";
import { isLabel, parseServiceName, type ServiceName } from "../base/spiffe-id.ts";
import type { RouteePort } from "../contract/watch.ts";
import type { TokenAtHand } from "../identity/token-beside.ts";
import { whyNotEgress } from "../routing/route-authority.ts";
import { usageError, type Input } from "./command.ts";
import { findHome, readSecretFile, stateHome } from "./home.ts";

/** What `run` and `proxy` were asked for, checked, before anything is opened. */
export interface SidecarInput {
  readonly service: ServiceName;
  readonly instance: string;
  readonly ports: readonly RouteePort[];
  readonly to: readonly NamedListener[];
  readonly stateFolder: string;
  readonly token: (() => string | undefined) | undefined;
  /** The same one beside an identity; undefined where none was given, or its file is gone, as after its use. */
  readonly tokenAtHand: () => TokenAtHand | undefined;
  readonly advertise: string | undefined;
  readonly inbound: { readonly host: string; readonly port: number | undefined };
  readonly outboundPort: number | undefined;
  readonly allowOrigins: readonly string[];
  readonly egress: readonly string[];
  readonly healthPath: string | undefined;
  readonly balancer: "round-robin" | "least-connections";
  readonly adminSocket: string;
  readonly allowExposed: readonly number[];
  readonly accessLog: boolean;
  /** How many processes carry the traffic. */
  readonly workers: number;
  readonly logLevel: "debug" | "info" | "warn" | "error";
}

/** A listener of its own for one service: on a loopback port, or a Unix socket. */
export interface NamedListener {
  readonly service: ServiceName;
  /** The routee's port; undefined for the first one that the service registered. */
  readonly port?: number;
  readonly at: number | string;
}

export function readSidecarInput(input: Input, defaultLogLevel: "info" | "warn"): SidecarInput {
  const service = readService(input);
  const instance = input.flag("instance") ?? "1";
  if (!isLabel(instance)) throw usage(input, `--instance ${instance} is no name of lower-case letters, digits and "-"`);
  const stateFolder = stateFolderOf(input, service, instance);
  return {
    service,
    instance,
    ports: readPorts(input),
    to: input.flags("to").map((text) => readTo(input, text, service.namespace)),
    stateFolder,
    token: tokenSource(input),
    tokenAtHand: () => tokenAtHand(input),
    advertise: input.flag("advertise"),
    inbound: { host: input.flag("inbound-host") ?? "0.0.0.0", port: readPort(input, "inbound-port") },
    outboundPort: readPort(input, "outbound-port"),
    allowOrigins: readOrigins(input),
    egress: readEgress(input),
    healthPath: readHealthPath(input),
    balancer: oneOf(input, "balancer", ["round-robin", "least-connections"]) ?? "round-robin",
    adminSocket: resolve(input.cwd, input.flag("admin-socket") ?? join(stateFolder, "admin.sock")),
    allowExposed: input.flags("allow-exposed").map((text) => portOf(input, "allow-exposed", text)),
    accessLog: input.on("access-log"),
    workers: readWorkers(input),
    logLevel: oneOf(input, "log-level", ["debug", "info", "warn", "error"]) ?? defaultLogLevel,
  };
}

function usage(input: Input, message: string): HauberkError {
  return usageError(message, input.program.length > 0 ? "See hauberk run --help" : "See hauberk proxy --help");
}

function readService(input: Input): ServiceName {
  const name = input.flag("service");
  if (name === undefined) throw usage(input, "--service is missing");
  const namespace = input.flag("namespace") ?? "default";
  const service = parseServiceName(name, namespace);
  if (isRefusal(service)) throw HauberkError.from(service);
  return service;
}

/** In a mesh home `certs/SERVICE/INSTANCE`; elsewhere below the user's own state. */
function stateFolderOf(input: Input, service: ServiceName, instance: string): string {
  const named = input.flag("state");
  if (named !== undefined) return resolve(input.cwd, named);
  const name = service.namespace === "default" ? service.service : `${service.service}.${service.namespace}`;
  const home = findHome(input.cwd, input.flag("home") ?? input.environment["HAUBERK_HOME"]);
  return home === undefined
    ? join(stateHome(input.environment), "sidecars", name, instance)
    : join(home.certs, name, instance);
}

/** More than the cores of a large machine; each holds some 60 MB. */
const workersMax = 64;

/** What may be said of a routee's port, and what that is to the mesh: gRPC is HTTP/2. */
const protocols: ReadonlyMap<string, RouteePort["protocol"]> = new Map([
  ["http", "http"],
  ["h2", "h2"],
  ["grpc", "h2"],
  ["tcp", "tcp"],
]);

/** `http:8080` or `api=http:8080`. */
function readPorts(input: Input): RouteePort[] {
  const ports = input.flags("app").map((text): RouteePort => {
    const match = /^(?:([a-z0-9-]+)=)?([a-z0-9]+):(\d{1,5})$/.exec(text);
    const protocol = protocols.get(match?.[2] ?? "");
    if (match === null || protocol === undefined)
      throw usage(input, `--app ${text} is not [NAME=]PROTOCOL:PORT with http, h2, grpc or tcp as the protocol`);
    const port = portOf(input, "app", match[3] ?? "");
    return { name: match[1] ?? `${match[2] ?? protocol}-${port}`, port, protocol };
  });
  const names = ports.map((port) => port.name);
  if (new Set(names).size !== names.length) throw usage(input, "two --app ports have the same name");
  return ports;
}

/** `redis=6379`, `redis=/run/redis.sock`, and `redis:6379=7001` for one of a service's ports. */
function readTo(input: Input, text: string, namespace: string): NamedListener {
  const [, name = "", number, at = ""] = /^([^:=]+)(?::([^:=]*))?=(.+)$/.exec(text) ?? [];
  const service = parseServiceName(name, namespace);
  if (at === "" || isRefusal(service))
    throw usage(input, `--to ${text} is not SERVICE=PORT or SERVICE=/PATH, with SERVICE:PORT for one of its ports`);
  return {
    service,
    ...(number === undefined ? {} : { port: portOf(input, "to", number) }),
    at: at.startsWith("/") ? at : portOf(input, "to", at),
  };
}

function readOrigins(input: Input): string[] {
  const origins = input.flags("allow-origin");
  const bad = origins.find((origin) => origin !== "*" && !/^https?:\/\/[a-z0-9.[\]:-]+$/i.test(origin));
  if (bad !== undefined) throw usage(input, `--allow-origin ${bad} is no origin such as https://shop.example`);
  return [...origins];
}

function readEgress(input: Input): string[] {
  const entries = input.flags("egress");
  for (const entry of entries) {
    const because = whyNotEgress(entry);
    if (because === undefined) continue;
    const meant = hostWithin(entry);
    throw usageError(
      `--egress ${entry} lets nothing out of the mesh: ${because}`,
      meant === undefined
        ? "Name a host outside, such as api.example.com, api.example.com:443 or *.example.com; services of the mesh need no --egress, only a policy"
        : `Write --egress ${meant}`,
    );
  }
  return [...entries];
}

/** The host that a URL, or a host with a path, was probably meant to let out; undefined where that would be refused too. */
function hostWithin(entry: string): string | undefined {
  const [, host] = /^(?:[a-z][a-z0-9+.-]*:\/\/)?([^/?#@]+)(?:[/?#].*)?$/i.exec(entry) ?? [];
  return host !== undefined && host !== entry && whyNotEgress(host) === undefined ? host : undefined;
}

function readPort(input: Input, name: string): number | undefined {
  const text = input.flag(name);
  return text === undefined ? undefined : portOf(input, name, text);
}

function portOf(input: Input, name: string, text: string): number {
  const port = Number(text);
  if (!/^\d{1,5}$/.test(text) || port < 1 || port > 65_535)
    throw usage(input, `--${name}: "${text}" is no port from 1 to 65535`);
  return port;
}

function readWorkers(input: Input): number {
  const text = input.flag("workers") ?? "1";
  const workers = Number(text);
  if (!/^\d{1,3}$/.test(text) || workers < 1 || workers > workersMax)
    throw usage(input, `--workers ${text} is no number from 1 to ${workersMax}`);
  return workers;
}

function readHealthPath(input: Input): string | undefined {
  const path = input.flag("health-path");
  if (path !== undefined && !/^\/[\x21-\x7e]*$/.test(path))
    throw usage(input, `--health-path ${path} does not start with "/"`);
  return path;
}

function oneOf<const T extends string>(input: Input, name: string, known: readonly T[]): T | undefined {
  const text = input.flag(name);
  const found = known.find((candidate) => candidate === text);
  if (text !== undefined && found === undefined) throw usage(input, `--${name} ${text} is none of ${known.join(", ")}`);
  return found;
}

/** What stands on standard input may be the program's: it is not read for a look. */
function tokenAtHand(input: Input): TokenAtHand | undefined {
  if (input.flag("token-file") === "-") return { text: undefined };
  try {
    const text = tokenSource(input)?.();
    return text === undefined ? undefined : { text };
  } catch {
    return undefined; // Whoever needs it is told by then.
  }
}

/** Read when it is needed, and only then: from standard input it can be read once. */
function tokenSource(input: Input): (() => string | undefined) | undefined {
  const path = input.flag("token-file");
  // Easily mistaken, and not repeated: the refusal would carry the secret into a log.
  if (path !== undefined && path.startsWith("eyJ")) {
    throw usageError(
      "--token-file was given the token itself, not the name of its file",
      "Write the token to a file that only this user may read, or set HAUBERK_TOKEN; revoke this one if others saw it",
    );
  }
  if (path !== undefined) {
    return () => {
      const file = path === "-" ? path : resolve(input.cwd, path);
      const token = readSecretFile(file, "the enrollment token", () => readFileSync(0, "utf8"));
      if (token !== "") return token;
      throw new HauberkError(
        "TOKEN_MALFORMED",
        `Cannot use the enrollment token: ${path === "-" ? "standard input" : file} is empty`,
        `Make one with hauberk token create --service ${input.flag("service")} --out PATH`,
      );
    };
  }
  const given = input.environment["HAUBERK_TOKEN"]?.trim() ?? "";
  return given === "" ? undefined : () => given;
}
