import { MessageChannel } from "node:worker_threads";

/**
 * Keeps the process alive until the returned function is called. A clock's timers never do, and while a sidecar waits for its
 * first certificate it may have nothing else open.
 */
export function holdProcess(): () => void {
  const { port1, port2 } = new MessageChannel();
  port1.on("message", () => undefined);
  return () => {
    port1.close();
    port2.close();
  };
}
