import { messageOf } from "../base/errors.ts";
import type { StateFolder } from "../identity/state-folder.ts";
import type { Logger } from "../telemetry/logger.ts";

/**
 * On which ports this sidecar listened last. A free port is taken once and then kept across restarts: while the control plane
 * is away nobody could tell callers a new one, nor a program that was told where to call.
 */
export interface RememberedPorts {
  readonly inbound?: number;
  readonly outbound?: number;
}

const fileName = "ports.json";

export async function readPorts(folder: StateFolder): Promise<RememberedPorts> {
  const text = await folder.read(fileName);
  if (text === undefined) return {};
  try {
    const value = JSON.parse(text) as { inbound?: unknown; outbound?: unknown } | null;
    return { ...portOf("inbound", value?.inbound), ...portOf("outbound", value?.outbound) };
  } catch {
    return {}; // Of another release: the default ports are as good.
  }
}

/** Ports that cannot be kept cost the next restart its old address, not this process its traffic. */
export async function keepPorts(folder: StateFolder, ports: RememberedPorts, log: Logger): Promise<void> {
  try {
    await folder.write(fileName, JSON.stringify(ports));
  } catch (thrown) {
    log.error("the ports could not be kept on disk", { because: messageOf(thrown) });
  }
}

function portOf(name: keyof RememberedPorts, value: unknown): RememberedPorts {
  return Number.isInteger(value) && Number(value) > 0 && Number(value) < 65_536 ? { [name]: Number(value) } : {};
}
