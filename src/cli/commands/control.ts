import { networkInterfaces } from "node:os";
import { messageOf } from "../../base/errors.ts";
import { controlOptions } from "../../control/options.ts";
import { ControlPlane, type Address } from "../../control/control-plane.ts";
import { registryOptions } from "../../registry/options.ts";
import { storageOptions } from "../../storage/options.ts";
import { Faults } from "../../telemetry/faults.ts";
import { openLog, type LogLevel } from "../../telemetry/log.ts";
import type { Logger } from "../../telemetry/logger.ts";
import { exits, usageError, type Input, type Run } from "../command.ts";
import { splitAddress, type Config } from "../config.ts";
import { endOnCrash, lastLine } from "../crash.ts";
import { rememberControl } from "../control-address.ts";
import { lockControl } from "../control-lock.ts";
import { requireHome, type Home } from "../home.ts";
import { openAuthority } from "../open-authority.ts";
import { release } from "../release.ts";
import { refuseUnknown, settle } from "../settings.ts";
import { onEnd } from "../signals.ts";
import { systemClock, systemClockFor, systemRandom } from "../system.ts";
import { optionTables } from "../tables.ts";
import { show } from "../terminal.ts";

const levels: readonly LogLevel[] = ["debug", "info", "warn", "error"];

export const run: Run = async (input) => {
  const home = requireHome(input.cwd, input.flag("home") ?? input.environment["HAUBERK_HOME"]);
  const level = levels.find((known) => known === (input.flag("log-level") ?? "info"));
  if (level === undefined)
    throw usageError(
      `--log-level ${input.flag("log-level")} is none of ${levels.join(", ")}`,
      "See hauberk control --help",
    );
  const lock = lockControl(home, {
    what: "start the control plane",
    hint: "Use that one, or end it first; hauberk check shows whether it answers",
  });
  const opened = await openAuthority({ input, home });
  refuseUnknown(await optionTables(), opened.config.options);
  const log = openLog({ level, fields: { program: "control" }, clock: systemClock });
  endOnCrash(lastLine(log));
  const clock = systemClockFor((thrown) => faults.task(thrown));
  const faults = new Faults({ log: log.logger, clock });
  const sources = { environment: input.environment, file: opened.config.options };
  const ended = new Promise<NodeJS.Signals>((resolve) => {
    onEnd({
      ask: (signal) => {
        resolve(signal);
        return true;
      },
    });
  });
  try {
    const listen = {
      mesh: address(input, "mesh", opened.config),
      enrollment: address(input, "enrollment", opened.config),
    };
    const plane = await ControlPlane.start({
      store: opened.store,
      authority: opened.authority,
      clock,
      random: systemRandom,
      log: log.logger,
      options: {
        control: settle(controlOptions, sources),
        registry: settle(registryOptions, sources),
        storage: settle(storageOptions, sources),
      },
      listen,
      release,
    });
    const hosts = hostsOf(opened.config, listen.mesh.host);
    const urls = (port: number): string[] =>
      hosts.map((host) => `https://${host.includes(":") ? `[${host}]` : host}:${port}`);
    opened.authority.announce({
      control: urls(plane.addresses.mesh.port),
      enrollment: urls(plane.addresses.enrollment.port),
    });
    remember(home, plane, log.logger);
    ready(input, plane);
    await ended;
    await plane.stop();
    return exits.done;
  } finally {
    await opened.store.close();
    lock.release();
    log.flush();
  }
};

/** For the comfort of other commands: a disk that takes no more must not keep the mesh from its control plane. */
function remember(home: Home, { addresses }: ControlPlane, log: Logger): void {
  try {
    rememberControl(home, addresses.mesh);
  } catch (thrown) {
    log.warn("where this control plane listens cannot be kept for the other commands; they need --control", {
      because: messageOf(thrown),
    });
  }
}

function ready(input: Input, plane: ControlPlane): void {
  const { mesh, enrollment } = plane.addresses;
  // One line: whoever started this reads lines.
  if (input.terminal.json) {
    input.terminal.out(JSON.stringify({ ready: true, mesh: mesh.port, enrollment: enrollment.port, pid: process.pid }));
    return;
  }
  show(input.terminal, {}, () =>
    [
      `The control plane is ready: mesh API on ${mesh.host}:${mesh.port}, enrollment on ${enrollment.host}:${enrollment.port}`,
      "Next, in another terminal: hauberk token create --service orders --out orders.token",
    ].join("\n"),
  );
}

function address(input: Input, name: "mesh" | "enrollment", config: Config): Address {
  const text = input.flag(name) ?? config[name];
  const { host, port } = splitAddress(text);
  if (!/^.+:\d{1,5}$/.test(text) || port > 65_535)
    throw usageError(`--${name} ${text} is no HOST:PORT`, "Write 0.0.0.0:7443, or [::]:7443");
  return { host, port };
}

/** What tokens and answers name: what was configured, else every address at which this machine can be reached. */
function hostsOf(config: Config, bound: string): readonly string[] {
  if (config.advertise.length > 0) return config.advertise;
  if (bound !== "0.0.0.0" && bound !== "::") return [bound];
  const others = Object.values(networkInterfaces())
    .flatMap((entries) => entries ?? [])
    .filter((entry) => !entry.internal && entry.family === "IPv4" && !entry.address.startsWith("169.254."))
    .map((entry) => entry.address);
  return ["127.0.0.1", ...others].slice(0, 8);
}
