import { isLoopback as isLoopbackAddress, parseAddress } from "../base/ip-address.ts";

/** Which machine a stream comes from: enough to know who can reach a loopback address (DESIGN, section 4). */

/** The control plane's own machine. */
const here = "here";

/** `remote` and `local` are the two ends of a stream's connection, as the socket tells them. */
export function machineOf(ends: { remote: string; local: string }): string {
  const remote = plain(ends.remote);
  // A connection between two addresses of one machine names one of them twice.
  return isLoopback(remote) || remote === plain(ends.local) ? here : remote;
}

/** Whether only programs of the same machine can reach `address`, in whatever spelling. */
export function isLoopback(address: string): boolean {
  const name = address.toLowerCase();
  if (name === "localhost" || name.endsWith(".localhost")) return true;
  const words = parseAddress(address);
  return words !== undefined && isLoopbackAddress(words);
}

/** IPv4 in IPv6 becomes IPv4, a zone goes. */
function plain(address: string): string {
  const text = address.toLowerCase().replace(/%.*$/, "");
  return /^::ffff:\d+\.\d+\.\d+\.\d+$/.test(text) ? text.slice("::ffff:".length) : text;
}
