import { lookup, type LookupAddress } from "node:dns";
import type { LookupFunction } from "node:net";
import { isLocal, isLoopback, parseAddress } from "../base/ip-address.ts";

type Resolve = (
  host: string,
  options: { readonly all: true },
  found: (error: NodeJS.ErrnoException | null, addresses: LookupAddress[]) => void,
) => void;

/**
 * Looks an endpoint's host name up, and refuses it if any of its addresses means this machine or its own link: whoever
 * registers the name also says what it leads to, and must not choose a port of the dialler's machine by it. `localhost`
 * says openly what it is, and the registry offers it to the same machine only.
 */
export function endpointLookup(resolve: Resolve = lookup): LookupFunction {
  return (host, options, found) => {
    resolve(host, { ...options, all: true }, (error, addresses) => {
      if (error !== null) return found(error, []);
      const [first] = addresses;
      if (first === undefined) return found(new Error("the host has no address"), []);
      const wrong = addresses.find(({ address }) => !mayDial(host, address));
      if (wrong !== undefined) return found(new Error(`the host leads to ${wrong.address}, which is here`), []);
      if (options.all === true) return found(null, addresses);
      return found(null, first.address, first.family);
    });
  };
}

function mayDial(host: string, address: string): boolean {
  const words = parseAddress(address);
  if (words === undefined) return false;
  if (!isLocal(words)) return true;
  return isLoopback(words) && /^(?:.*\.)?localhost$/i.test(host);
}
