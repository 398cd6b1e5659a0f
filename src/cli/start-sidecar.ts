import { readFileSync } from "node:fs";
import { HauberkError } from "../base/errors.ts";
import { serviceKey } from "../base/spiffe-id.ts";
import { identityOptions } from "../identity/options.ts";
import { proxyOptions } from "../proxy/options.ts";
import { resilienceOptions } from "../resilience/options.ts";
import { sidecarOptions } from "../sidecar/options.ts";
import { Sidecar } from "../sidecar/sidecar.ts";
import type { WorkersWanted } from "../sidecar/workers.ts";
import { Faults } from "../telemetry/faults.ts";
import { openLog, type Log } from "../telemetry/log.ts";
import { Metrics } from "../telemetry/metrics.ts";
import { http2Options } from "../transport/http2-options.ts";
import { http1Options, tlsOptions } from "../transport/options.ts";
import type { Input } from "./command.ts";
import { endOnCrash, lastLine } from "./crash.ts";
import { findHome } from "./home.ts";
import { release } from "./release.ts";
import { refuseUnknown, settle, type SettingSources } from "./settings.ts";
import type { SidecarInput } from "./sidecar-input.ts";
import { scavengeAlone, systemClock, systemClockFor, systemMemory, systemRandom } from "./system.ts";

/** What `run` and `proxy` have in common: one sidecar in this process, with its log. */
export interface StartedSidecar {
  readonly sidecar: Sidecar;
  readonly log: Log;
}

/** How `run` and `proxy` want it, beside what was said on the command line. */
export interface SidecarStart {
  /** Guards the outbound listener; undefined leaves it open to every local user. */
  readonly secret: string | undefined;
  /** Aborted just before a signal ends the process before this has resolved. */
  readonly givenUp: AbortSignal;
}

export async function startSidecar(input: Input, wanted: SidecarInput, start: SidecarStart): Promise<StartedSidecar> {
  scavengeAlone();
  const sources = await settingSources(input);
  const log = openLog({
    level: wanted.logLevel,
    fields: { program: "sidecar", service: serviceKey(wanted.service) },
    clock: systemClock,
  });
  endOnCrash(lastLine(log));
  const metrics = new Metrics();
  const clock = systemClockFor((thrown) => faults.task(thrown));
  const faults = new Faults({ log: log.logger, clock, metrics });
  try {
    const sidecar = await Sidecar.start({
      service: wanted.service,
      name: wanted.instance,
      stateFolder: wanted.stateFolder,
      tokenSource: () => Promise.resolve(wanted.token?.()),
      tokenAtHand: wanted.tokenAtHand,
      ports: wanted.ports,
      healthPath: wanted.healthPath,
      advertise: wanted.advertise,
      inbound: wanted.inbound,
      outboundPort: wanted.outboundPort,
      secret: start.secret,
      to: wanted.to,
      allowOrigins: wanted.allowOrigins,
      egress: wanted.egress,
      adminSocket: wanted.adminSocket,
      allowExposed: wanted.allowExposed,
      accessLine: wanted.accessLog ? log.raw : undefined,
      workers: wanted.workers === 1 ? undefined : await severalWorkers(input, wanted),
      release,
      pid: process.pid,
      clock,
      metrics,
      faults,
      givenUp: start.givenUp,
      random: systemRandom,
      memory: systemMemory,
      log: log.logger,
      options: {
        sidecar: settle(sidecarOptions, sources),
        identity: settle(identityOptions, sources),
        proxy: { ...settle(proxyOptions, sources), balancer: wanted.balancer },
        resilience: settle(resilienceOptions, sources),
        http1: settle(http1Options, sources),
        http2: settle(http2Options, sources),
        tls: settle(tlsOptions, sources),
      },
    });
    return { sidecar, log };
  } catch (thrown) {
    log.flush();
    throw thrown instanceof HauberkError && thrown.code === "TOKEN_NEEDED" ? tokenNeeded(wanted) : thrown;
  }
}

async function severalWorkers(input: Input, { workers, logLevel }: SidecarInput): Promise<WorkersWanted> {
  const { spawnWorker } = await import("./spawn-worker.ts");
  return { count: workers, logLevel, spawn: () => spawnWorker(input.environment) };
}

/** Says where it looked: whoever enrolled from another folder finds out here. */
function tokenNeeded({ service, stateFolder }: SidecarInput): HauberkError {
  const name = service.namespace === "default" ? service.service : `${service.service}.${service.namespace}`;
  return new HauberkError(
    "TOKEN_NEEDED",
    `Cannot enroll ${name}: no usable identity is in ${stateFolder}, and no enrollment token was given`,
    `Make one in the mesh home: hauberk token create --service ${name} --out ${name}.token, and hand it over with --token-file; or, where it is enrolled already, name its folder with --home or --state`,
  );
}

/** A sidecar needs nothing of hauberk.yaml but its options: YAML is loaded only where the file may have some. */
export async function settingSources(input: Input): Promise<SettingSources> {
  const home = findHome(input.cwd, input.flag("home") ?? input.environment["HAUBERK_HOME"]);
  if (home === undefined || !mayHaveOptions(readFileSync(home.configFile, "utf8")))
    return { environment: input.environment, file: {} };
  const [{ readConfig }, { optionTables }] = await Promise.all([import("./config.ts"), import("./tables.ts")]);
  const file = readConfig(home.configFile).options;
  refuseUnknown(await optionTables(), file);
  return { environment: input.environment, file };
}

/**
 * Whether it is worth reading as YAML. The key may stand in quotes, in braces, behind a `?`, or be written with escapes: only the
 * parser knows where it is. Comments name it without having it.
 */
function mayHaveOptions(text: string): boolean {
  return text.split("\n").some((line) => !/^\s*#/.test(line) && (line.includes("options") || line.includes("\\")));
}

/** The line that says that a sidecar is ready, for whoever started it. */
export function readyLine(sidecar: Sidecar): string {
  const { service, id } = sidecar.status();
  return JSON.stringify({
    ready: true,
    service,
    id,
    instance: sidecar.instance,
    inbound: sidecar.inboundPort ?? null,
    outbound: sidecar.outboundPort,
    admin: sidecar.adminSocket,
    pid: process.pid,
  });
}
