import { WebSocket } from "ws";
import { percentiles, type Load } from "./measure.ts";

/** Sends a small message on each of so many WebSockets, and the next one when it has come back. Argument: JSON. */
const { port, host, connections, seconds } = JSON.parse(process.argv[2] ?? "{}") as {
  port: number;
  host: string;
  connections: number;
  seconds: number;
};
const message = "hello world, this is a small body\n";
const durations: number[] = [];
let bad = 0;
let ending = false;
const sockets = await Promise.all(
  Array.from(
    { length: connections },
    () =>
      new Promise<WebSocket>((resolve, reject) => {
        const socket = new WebSocket(`ws://127.0.0.1:${port}/`, { headers: { Host: host }, perMessageDeflate: false });
        socket.once("open", () => resolve(socket));
        socket.once("error", reject);
      }),
  ),
);
const endsAt = performance.now() + seconds * 1000;
for (const socket of sockets) {
  let sentAt = performance.now();
  socket.on("error", () => undefined);
  socket.on("close", () => (bad += ending ? 0 : 1));
  socket.on("message", () => {
    const now = performance.now();
    durations.push((now - sentAt) * 1000);
    if (now >= endsAt) return;
    sentAt = now;
    socket.send(message);
  });
  socket.send(message);
}
setTimeout(
  () => {
    ending = true;
    for (const socket of sockets) socket.terminate();
    const load: Load = {
      requests: durations.length,
      perSecond: durations.length / seconds,
      ...percentiles(durations),
      bad,
    };
    process.stdout.write(JSON.stringify(load));
  },
  seconds * 1000 + 50,
);
