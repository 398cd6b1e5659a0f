import { WebSocketServer } from "ws";
import { routeePorts } from "./peers.ts";

/** The routee of the WebSocket flow: says back what it hears. */
const server = new WebSocketServer({ host: "127.0.0.1", port: routeePorts.ws, perMessageDeflate: false });
server.on("connection", (socket) => {
  socket.on("error", () => undefined);
  socket.on("message", (data, binary) => socket.send(data, { binary }));
});
