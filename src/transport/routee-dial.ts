import { connect, type LookupFunction, type Socket } from "node:net";
import type { Clock } from "../base/clock.ts";
import { LentReads } from "./lent-reads.ts";

/** Where a routee listens: a port of this machine, or a Unix socket. */
export type RouteeTarget =
  | {
      readonly host: string;
      readonly port: number;
      /** Finds the addresses of a host name, and is where they are judged; by default the system's. */
      readonly lookup?: LookupFunction;
    }
  | { readonly path: string };

/** Who hears what came of a dial: one of both, once. */
export interface RouteeDialEvents {
  /** Whoever gets the socket listens to it before this returns. */
  connected(socket: Socket, reads: LentReads): void;
  failed(because: string): void;
}

export interface RouteeDialTerms {
  readonly clock: Clock;
  readonly connectMs: number;
  /** Whoever was told threw: the socket is closed, and this is for the log. */
  readonly onFault?: ((thrown: unknown) => void) | undefined;
}

/** Connects to a routee with lent reads; destroying what it returns fails the dial. */
export function dialRoutee(target: RouteeTarget, terms: RouteeDialTerms, events: RouteeDialEvents): Socket {
  const reads = new LentReads();
  const { onread } = reads;
  const socket =
    "path" in target ? connect({ path: target.path, onread }) : connect({ ...target, noDelay: true, onread });
  let because = `the routee did not accept within ${terms.connectMs} ms`;
  const cancel = terms.clock.after(terms.connectMs, () => socket.destroy());
  const onError = (error: Error): void => {
    because = error.message;
  };
  const onClose = (): void => {
    cancel();
    guarded(() => events.failed(because));
  };
  const guarded = (task: () => void): void => {
    try {
      task();
    } catch (thrown) {
      terms.onFault?.(thrown);
      socket.destroy();
    }
  };
  socket.once("error", onError);
  socket.once("close", onClose);
  socket.once("connect", () => {
    cancel();
    socket.off("close", onClose);
    guarded(() => {
      events.connected(socket, reads);
      socket.off("error", onError); // The connection has its own by now.
    });
  });
  return socket;
}
