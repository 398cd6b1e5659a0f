import { createServer } from "node:net";
import { routeePorts } from "./peers.ts";

/** The routee of the TCP flow: sends as fast as it is read, once it was asked. */
const chunk = Buffer.alloc(262_144, "x");
createServer({ noDelay: true }, (socket) => {
  const pump = (): void => {
    while (!socket.destroyed && socket.write(chunk));
  };
  socket.on("error", () => undefined);
  socket.on("drain", pump);
  socket.once("data", pump);
}).listen(routeePorts.tcp, "127.0.0.1");
