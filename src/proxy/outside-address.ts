import { networkInterfaces } from "node:os";
import { contains, isLocal, isLoopback, parseAddress, parseBlock, type Block } from "../base/ip-address.ts";
import { forbiddenAddress } from "./jwks-fetch.ts";

/** IPv6 that carries an IPv4 address, and in which word it begins: whoever translates it on the way dials that. */
const carriers: readonly { readonly block: Block; readonly at: number }[] = [
  { block: blockOf("64:ff9b::/96"), at: 6 }, // NAT64, RFC 6052
  { block: blockOf("64:ff9b:1::/48"), at: 6 }, // NAT64 of one's own, RFC 8215
  { block: blockOf("2002::/16"), at: 1 }, // 6to4, RFC 3056
  { block: blockOf("::ffff:0:0:0/96"), at: 6 }, // RFC 2765
];

/**
 * Why an address is nothing outside of this machine, or undefined. Loopback, link-local, unspecified, multicast and reserved
 * addresses, and the clouds' metadata services, in IPv4's clothes or IPv6's: no list opens them, because a name's owner says
 * what it leads to.
 */
export function whyNotOutside(address: string): string | undefined {
  const words = parseAddress(address);
  if (words === undefined) return "it is no address";
  if (isLoopback(words)) return "it is loopback";
  if (isLocal(words)) return "it is link-local or unspecified";
  const because = forbiddenAddress(textOf(words), false);
  if (because !== undefined) return because;
  for (const { block, at } of carriers) {
    if (!contains(block, words)) continue;
    const inside = whyNotOutside(textOf(words.slice(at, at + 2)));
    if (inside !== undefined) return inside;
  }
  return undefined;
}

/** Whether both mean the same host, however they are written. */
export function sameAddress(one: string, other: string): boolean {
  const words = parseAddress(one);
  const others = parseAddress(other);
  if (words === undefined || words.length !== others?.length) return false;
  return words.every((word, i) => word === others[i]);
}

/** Whether a network interface of this machine has this address now. */
export function isOfThisMachine(address: string): boolean {
  return Object.values(networkInterfaces()).some((all) => all?.some((one) => sameAddress(one.address, address)));
}

/** One spelling, without a zone. */
function textOf(words: readonly number[]): string {
  if (words.length === 2) return words.map((word) => `${word >> 8}.${word & 255}`).join(".");
  return words.map((word) => word.toString(16)).join(":");
}

function blockOf(text: string): Block {
  const block = parseBlock(text);
  if (typeof block === "string") throw new Error(`${text}: ${block}`);
  return block;
}
