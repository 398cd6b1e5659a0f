import { createConnection } from "node:net";
import { networkInterfaces } from "node:os";
import type { Clock } from "../base/clock.ts";
import { refuse, type Refusal } from "../base/errors.ts";

/** This machine's addresses that others could reach: neither loopback nor link-local. */
export function networkAddresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap((entries) => entries ?? [])
    .filter(
      (entry) =>
        !entry.internal && !entry.address.toLowerCase().startsWith("fe80:") && !entry.address.startsWith("169.254."),
    )
    .map((entry) => entry.address);
}

/** Whether something accepts TCP connections there within `withinMs`. */
export function answers(target: { host: string; port: number }, clock: Clock, withinMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(target);
    const end = (answer: boolean): void => {
      cancel();
      socket.destroy();
      resolve(answer);
    };
    const cancel = clock.after(withinMs, () => end(false));
    socket.once("connect", () => end(true));
    socket.once("error", () => end(false));
  });
}

/**
 * A routee that answers on a network address can be called around its sidecar, without mTLS and policy (promise 1).
 * Gives a refusal for the first such port that was not allowed by name.
 */
export async function exposedPort(
  ports: readonly number[],
  allowed: readonly number[],
  probe: { clock: Clock; withinMs: number; addresses: readonly string[] },
): Promise<Refusal | undefined> {
  for (const port of ports) {
    if (allowed.includes(port)) continue;
    for (const host of probe.addresses) {
      if (!(await answers({ host, port }, probe.clock, probe.withinMs))) continue;
      return refuse(
        "APP_PORT_EXPOSED",
        `Cannot offer port ${port}: the program answers on ${host}:${port} too, where anybody can call it without mutual TLS`,
        `Let the program listen on 127.0.0.1 only, or accept it with --allow-exposed ${port}`,
      );
    }
  }
  return undefined;
}
