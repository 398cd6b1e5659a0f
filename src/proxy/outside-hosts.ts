import { lookup, type LookupAddress } from "node:dns";
import { isIP, type LookupFunction } from "node:net";
import type { Clock } from "../base/clock.ts";
import { refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { Random } from "../base/random.ts";
import type { ClientConnection } from "../transport/exchange.ts";
import { Http1Pool } from "../transport/http1-pool.ts";
import type { http1Options } from "../transport/options.ts";
import { TcpDialer } from "../transport/tcp-client.ts";
import { whyNotOutside } from "./outside-address.ts";
import type { Outside } from "./routes.ts";

export type Resolve = (
  host: string,
  options: { readonly all: true },
  found: (error: NodeJS.ErrnoException | null, addresses: LookupAddress[]) => void,
) => void;

export interface OutsideContext {
  readonly clock: Clock;
  readonly random: Random;
  readonly http1: OptionValues<typeof http1Options>;
  readonly limits: { readonly egressConnectMs: number; readonly egressHostsMax: number };
  /** Why this address and port belong to the mesh or to this machine, or undefined. */
  readonly ours: (address: string, port: number) => string | undefined;
  /** By default the system's. */
  readonly resolve?: Resolve | undefined;
  readonly onFault: (thrown: unknown) => void;
}

/** A host and port outside that may be dialled: what a call needs of it. */
export interface Reachable {
  /** `api.example.com:443` */
  readonly key: string;
  readonly pool: Pick<ClientConnection, "request">;
  readonly dialer: Pick<ClientConnection, "request">;
  /** Requests and tunnels under way or waiting. */
  open: number;
  /** Why its name leads nowhere outside, as of the last look-up. */
  readonly forbidden: string | undefined;
}

/** One host and port outside of the mesh, and the connections to it. */
class OutsideHost implements Reachable {
  readonly key: string;
  readonly pool: Http1Pool;
  readonly dialer: TcpDialer;
  open = 0;
  forbidden: string | undefined = undefined;

  constructor(context: OutsideContext, { host, port }: Outside) {
    this.key = `${host}:${port}`;
    const { clock, random, onFault } = context;
    const options = { ...context.http1, routeeConnectMs: context.limits.egressConnectMs };
    const target = { host: bare(host), port, lookup: this.#lookup(context, port) };
    this.pool = new Http1Pool({ target, clock, random, options, onFault });
    this.dialer = new TcpDialer({ target, clock, options, onFault });
  }

  /**
   * Looks the name up for one dial, and fails it if any of its addresses may not be dialled. The addresses that were judged are the ones
   * that are dialled: nobody looks a second time (DNS rebinding).
   */
  #lookup({ resolve = lookup, ours }: OutsideContext, port: number): LookupFunction {
    return (host, options, found) => {
      resolve(host, { ...options, all: true }, (error, addresses) => {
        this.forbidden = undefined;
        if (error !== null) return found(error, []);
        const [first] = addresses;
        if (first === undefined) return found(new Error("the host has no address"), []);
        for (const { address } of addresses) {
          const because = whyNotOutside(address) ?? ours(address, port);
          if (because === undefined) continue;
          // The address stays here: what a name inside of this network leads to is not for whoever asks.
          this.forbidden = because;
          return found(new Error(`the host leads to ${address}: ${because}`), []);
        }
        if (options.all === true) return found(null, addresses);
        return found(null, first.address, first.family);
      });
    };
  }
}

/** The hosts outside that were called lately: bounded, and the one goes that was idle for longest. */
export class OutsideHosts {
  readonly #context: OutsideContext;
  /** The one that was called last is last. */
  readonly #hosts = new Map<string, OutsideHost>();

  constructor(context: OutsideContext) {
    this.#context = context;
  }

  get size(): number {
    return this.#hosts.size;
  }

  /** NOT_IN_MESH for a literal address that is never dialled, LIMIT_CONNECTIONS where all places are in use. */
  of(outside: Outside): Reachable | Refusal {
    const literal = bare(outside.host);
    const because =
      isIP(literal) === 0 ? undefined : (whyNotOutside(literal) ?? this.#context.ours(literal, outside.port));
    if (because !== undefined) return notOutside(outside.authority, because);
    const key = `${outside.host}:${outside.port}`;
    const known = this.#hosts.get(key);
    if (known === undefined && !this.#makeRoom()) return tooManyHosts;
    const host = known ?? new OutsideHost(this.#context, outside);
    this.#hosts.delete(key);
    this.#hosts.set(key, host);
    return host;
  }

  close(withinMs: number): void {
    for (const host of this.#hosts.values()) end(host, withinMs);
    this.#hosts.clear();
  }

  #makeRoom(): boolean {
    if (this.#hosts.size < this.#context.limits.egressHostsMax) return true;
    for (const [key, host] of this.#hosts) {
      if (host.open > 0) continue;
      this.#hosts.delete(key);
      end(host, 0);
      return true;
    }
    return false;
  }
}

function end(host: OutsideHost, withinMs: number): void {
  host.pool.close(withinMs);
  host.dialer.close(withinMs);
}

/** IPv6 without its brackets. */
function bare(host: string): string {
  return host.startsWith("[") ? host.slice(1, -1) : host;
}

/** What it says is the list's affair no more: no entry opens such an address. */
export function notOutside(authority: string, because: string): Refusal {
  return refuse(
    "NOT_IN_MESH",
    `Cannot call "${authority}" outside of the mesh: its address is not outside: ${because}`,
    "Call a service of the mesh by its name, and what runs on this machine without the proxy: add it to no_proxy",
  );
}

const tooManyHosts = refuse(
  "LIMIT_CONNECTIONS",
  "Cannot call another host outside of the mesh: too many are being called",
  "Call fewer hosts at the same time, or raise egressHostsMax",
);
