import { existsSync, readdirSync, readFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { HauberkError, isRefusal, messageOf } from "../../base/errors.ts";
import type { HealthAnswer, ServicesAnswer } from "../../contract/admin.ts";
import type { SidecarStatus } from "../../sidecar/status.ts";
import { readCertificate } from "../../x509/certificate.ts";
import { fromPem } from "../../x509/pem.ts";
import { AdminClient } from "../admin-client.ts";
import { exits, type Input, type Run } from "../command.ts";
import { readConfig } from "../config.ts";
import { findHome, stateHome, type Home } from "../home.ts";
import { release } from "../release.ts";
import { refuseUnknown, settle } from "../settings.ts";
import { systemClock } from "../system.ts";
import { optionTables } from "../tables.ts";
import { duration, paint, show } from "../terminal.ts";

/** One thing that was looked at. */
interface Finding {
  readonly good: boolean;
  readonly what: string;
  readonly hint?: string;
}

/** A leaf is renewed long before this share of its life is left; a CA is a person's work. */
const leafShareMin = 0.25;
const caShareMin = 0.33;
const skewMaxMs = 5_000;

export const run: Run = async (input) => {
  const home = findHome(input.cwd, input.flag("home") ?? input.environment["HAUBERK_HOME"]);
  const findings = [
    ...(home === undefined
      ? []
      : [...authorities(home), ...(await options(input, home)), ...(await controlPlane(input))]),
    ...(await sidecars(input, home)),
  ];
  if (findings.length === 0)
    findings.push({
      good: false,
      what: "there is no mesh home here, and no sidecar of this user",
      hint: "Go to a mesh home, or name it with --home",
    });
  const good = findings.every((finding) => finding.good);
  show(input.terminal, { good, findings }, () => findings.map(line).join("\n"));
  return good ? exits.done : exits.negative;
};

function line({ good, what, hint }: Finding): string {
  const mark = good ? paint("green", "ok     ") : paint("yellow", "warning");
  return `${mark} ${what}${hint === undefined ? "" : `\n        hint: ${hint}`}`;
}

function authorities(home: Home): Finding[] {
  return ["root.crt", "intermediate.crt"].map((name): Finding => {
    const file = join(home.ca, name);
    const blocks = existsSync(file) ? fromPem(readFileSync(file, "utf8")) : [];
    const first = isRefusal(blocks) ? undefined : blocks[0];
    const certificate = first === undefined ? undefined : readCertificate(first.der);
    if (certificate === undefined || isRefusal(certificate))
      return {
        good: false,
        what: `ca/${name} cannot be read`,
        hint: "Put it back from a backup, or run hauberk init in a new folder",
      };
    const life = { issuedAtMs: certificate.notBeforeMs, notAfterMs: certificate.notAfterMs };
    return lifeFinding(`ca/${name}`, life, {
      shareMin: caShareMin,
      hint: "Plan a new CA: init a new mesh home and enroll anew",
    });
  });
}

/** What would keep the control plane from starting the next time; a file that cannot be read is told with the control plane. */
async function options(input: Input, home: Home): Promise<Finding[]> {
  const tables = await optionTables();
  try {
    const file = readConfig(home.configFile).options;
    refuseUnknown(tables, file);
    for (const table of tables) settle(table, { environment: input.environment, file });
    return [];
  } catch (thrown) {
    if (!(thrown instanceof HauberkError)) throw thrown;
    return /^Cannot use (?:hauberk\.yaml|the option)/.test(thrown.message)
      ? [{ good: false, what: thrown.message, hint: thrown.hint }]
      : [];
  }
}

function lifeFinding(
  what: string,
  life: { issuedAtMs: number; notAfterMs: number },
  judge: { shareMin: number; hint: string },
): Finding {
  const leftMs = life.notAfterMs - systemClock.wallMs();
  const share = leftMs / (life.notAfterMs - life.issuedAtMs);
  if (leftMs <= 0) return { good: false, what: `${what} ended ${duration(-leftMs)} ago`, hint: judge.hint };
  const text = `${what} ends in ${duration(leftMs)}, ${Math.round(share * 100)} % of its life left`;
  return share < judge.shareMin ? { good: false, what: text, hint: judge.hint } : { good: true, what: text };
}

async function controlPlane(input: Input): Promise<Finding[]> {
  let client: AdminClient | undefined;
  try {
    client = await AdminClient.open(input);
    const askedMs = systemClock.wallMs();
    const health = await client.call<HealthAnswer>("GET", "/v1/health");
    const tripMs = systemClock.wallMs() - askedMs;
    // The answer was made somewhere between asking and hearing.
    const skewMs = Math.abs(health.wallMs - (askedMs + tripMs / 2));
    const services = await client.call<ServicesAnswer>("GET", "/v1/services");
    return [
      { good: true, what: `the control plane answers in ${tripMs} ms` },
      skewMs > skewMaxMs + tripMs
        ? {
            good: false,
            what: `its clock and this machine's differ by ${duration(skewMs)}`,
            hint: "Synchronize both clocks (NTP): certificates are valid by the clock",
          }
        : { good: true, what: `its clock differs by ${Math.round(skewMs)} ms` },
      versionFinding("the control plane", health.release),
      ...services.sidecars.flatMap((sidecar) => sidecarFindings(sidecar, services)),
    ];
  } catch (thrown) {
    const hint = thrown instanceof HauberkError ? thrown.hint : "Look at its log";
    return [{ good: false, what: messageOf(thrown), hint }];
  } finally {
    await client?.close();
  }
}

function versionFinding(who: string, found: string): Finding {
  return found === release
    ? { good: true, what: `${who} runs release ${found}` }
    : {
        good: false,
        what: `${who} runs release ${found}, and this is ${release}`,
        hint: "Bring all to the same release, the control plane first",
      };
}

function sidecarFindings(sidecar: ServicesAnswer["sidecars"][number], services: ServicesAnswer): Finding[] {
  const name = `${sidecar.id} (${sidecar.instance.slice(0, 8)})`;
  const findings = [versionFinding(name, sidecar.release)];
  if (sidecar.rejected !== null)
    findings.push({
      good: false,
      what: `${name} rejected version ${sidecar.rejected.version.counter}: ${sidecar.rejected.because}`,
      hint: "Look at its log; bring it to the control plane's release",
    });
  if (sidecar.acknowledged?.epoch !== services.version.epoch)
    findings.push({
      good: false,
      what: `${name} has acknowledged no state of this control plane`,
      hint: "Wait a moment, then look at its log",
    });
  return findings;
}

async function sidecars(input: Input, home: Home | undefined): Promise<Finding[]> {
  const folders = [
    ...(home === undefined ? [] : statesBelow(home.certs)),
    ...statesBelow(join(stateHome(input.environment), "sidecars")),
  ];
  const findings: Finding[] = [];
  for (const folder of folders) {
    const status = await statusOf(join(folder, "admin.sock"));
    if (status !== undefined) findings.push(...localFindings(status));
  }
  return findings;
}

/** Folders of the form SERVICE/INSTANCE that hold a socket. */
function statesBelow(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true })
    .filter((service) => service.isDirectory())
    .flatMap((service) =>
      readdirSync(join(folder, service.name)).map((instance) => join(folder, service.name, instance)),
    )
    .filter((path) => existsSync(join(path, "admin.sock")));
}

function localFindings(status: SidecarStatus): Finding[] {
  const name = `the sidecar of ${status.service} (pid ${status.pid})`;
  const life = { issuedAtMs: status.issuedAtMs ?? 0, notAfterMs: status.notAfterMs ?? 0 };
  const findings = [
    status.notAfterMs === null
      ? { good: false, what: `${name} has no valid certificate`, hint: "Read its log; hand it a new token" }
      : lifeFinding(`the certificate of ${name}`, life, {
          shareMin: leafShareMin,
          hint: "It should have been renewed: read its log",
        }),
    connectionFinding(name, status),
  ];
  const { wanted, running } = status.workers ?? { wanted: 1, running: 1 };
  if (wanted > 1)
    findings.push(
      running === wanted
        ? { good: true, what: `${name} runs ${wanted} workers` }
        : {
            good: false,
            what: `${name} runs ${running} of ${wanted} workers`,
            hint: "One that ended is started anew: read its log for the reason",
          },
    );
  if (status.ports.length > 0 && !status.healthy)
    findings.push({
      good: false,
      what: `the program of ${status.service} does not answer on 127.0.0.1:${status.ports.map((port) => port.port).join(", ")}, so nobody is sent to it`,
      hint: "Look whether it runs and listens there; --app names its port",
    });
  for (const door of status.openDoors)
    findings.push({
      good: false,
      what: `${name} lets every local user call as ${status.service}: ${door}`,
      hint: closing(door),
    });
  for (const port of status.exposedPorts)
    findings.push({
      good: true,
      what: `port ${port} of ${status.service} may answer on the network, around its sidecar: --allow-exposed names it`,
    });
  return findings;
}

/** A --to port is open under `hauberk run` too: the programs that need it know no secret. */
function closing(door: string): string {
  const [, service] = /\(--to (.+)\)$/.exec(door) ?? [];
  return service === undefined
    ? "Use hauberk run, whose listener has a secret, or a Unix socket with --to SERVICE=/PATH"
    : `Let the program call a Unix socket instead, which is for its user alone: --to ${service}=/PATH`;
}

function connectionFinding(name: string, { connected, trouble }: SidecarStatus): Finding {
  if (connected) return { good: true, what: `${name} is connected to the control plane` };
  // One that answers is not to be started, and the network is well.
  if (trouble !== undefined && trouble !== null && trouble.code !== "CONTROL_UNREACHABLE")
    return {
      good: false,
      what: `${name} is not served by the control plane: ${trouble.because} (${trouble.code})`,
      hint: trouble.hint,
    };
  return {
    good: false,
    what: `${name} does not reach the control plane`,
    hint: "It serves from its last good snapshot; start the control plane, or check the network",
  };
}

/** undefined where nobody listens any more. */
function statusOf(socketPath: string): Promise<SidecarStatus | undefined> {
  return new Promise((resolve) => {
    const asked = request({ socketPath, path: "/status", agent: false, timeout: 2_000 }, (answer) => {
      let text = "";
      answer.on("data", (chunk: Buffer) => (text += chunk.toString("utf8")));
      answer.once("end", () => {
        try {
          resolve(JSON.parse(text) as SidecarStatus);
        } catch {
          resolve(undefined); // Another program's socket.
        }
      });
      answer.once("close", () => resolve(undefined)); // It ended in the middle, and `end` does not come.
    });
    asked.once("error", () => resolve(undefined));
    asked.once("timeout", () => asked.destroy());
    asked.end();
  });
}
