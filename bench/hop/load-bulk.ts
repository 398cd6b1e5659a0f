import { connect } from "node:net";
import type { Load } from "./measure.ts";

/** Reads as fast as it comes from so many TCP connections. One "request" is a MiB. Argument: JSON. */
const { port, connections, seconds } = JSON.parse(process.argv[2] ?? "{}") as {
  port: number;
  connections: number;
  seconds: number;
};
const shared = Buffer.allocUnsafeSlow(262_144);
let bytes = 0;
let bad = 0;
let ending = false;
const sockets = Array.from({ length: connections }, () => {
  const socket = connect({
    host: "127.0.0.1",
    port,
    onread: {
      buffer: shared,
      callback: (length) => {
        bytes += length;
        return true;
      },
    },
  });
  socket.on("error", () => undefined);
  socket.on("close", () => (bad += ending ? 0 : 1));
  // The routee sends as long as it is asked to.
  socket.write("go");
  return socket;
});
setTimeout(() => {
  ending = true;
  for (const socket of sockets) socket.destroy();
  const requests = bytes / 1_048_576;
  const load: Load = { requests, perSecond: requests / seconds, p50Us: Number.NaN, p99Us: Number.NaN, bad };
  process.stdout.write(JSON.stringify(load));
}, seconds * 1000);
