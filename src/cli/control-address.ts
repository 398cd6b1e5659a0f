import { readFileSync } from "node:fs";
import { join } from "node:path";
import { splitAddress, type Config } from "./config.ts";
import type { Home } from "./home.ts";
import { writeWhole } from "./write-whole.ts";

/**
 * Where this mesh home's control plane answers the other commands. `hauberk control` writes it down when it listens, because
 * `--mesh`, or port 0, may have said otherwise than hauberk.yaml.
 */
export function rememberControl(home: Home, mesh: { readonly host: string; readonly port: number }): void {
  writeWhole(fileOf(home), `${urlOf(mesh)}\n`);
}

/** What was written down last, else what hauberk.yaml says. */
export function controlUrl(home: Home, config: Config): string {
  try {
    const url = readFileSync(fileOf(home), "utf8").trim();
    if (/^https:\/\/[0-9A-Za-z[\].:_-]+$/.test(url) && URL.canParse(url)) return url;
  } catch {
    // It has not run here, or runs on another machine.
  }
  return urlOf(splitAddress(config.mesh));
}

function fileOf(home: Home): string {
  return join(home.certs, "control", "address");
}

function urlOf({ host, port }: { readonly host: string; readonly port: number }): string {
  const reached = host === "0.0.0.0" || host === "::" ? "127.0.0.1" : host;
  return `https://${reached.includes(":") ? `[${reached}]` : reached}:${port}`;
}
