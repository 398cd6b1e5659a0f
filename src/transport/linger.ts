import type { Socket } from "node:net";
import type { Clock } from "../base/clock.ts";

/**
 * Both directions of a connection have ended, and the last bytes are still on their way out: they may take their time while
 * some of them leave within each `stallMs`. Whoever takes none is reset, so that it does not take what it has for all there was.
 */
export function limitLinger(socket: Socket, use: { clock: Clock; stallMs: number; reset: () => void }): void {
  if (socket.destroyed) return;
  let left = socket.writableLength;
  let cancel = (): void => undefined;
  const look = (): void => {
    if (socket.writableLength === left) return use.reset();
    left = socket.writableLength;
    cancel = use.clock.after(use.stallMs, look);
  };
  cancel = use.clock.after(use.stallMs, look);
  socket.once("close", () => cancel());
}
