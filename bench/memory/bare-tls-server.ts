import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { createServer } from "node:tls";

/** What an idle mTLS connection costs Node itself: a server with a sidecar's TLS options that greets and keeps nothing. */
const settings = Buffer.alloc(64, "x");
const acknowledgement = Buffer.alloc(9, "x");
const { key, cert, ca } = JSON.parse(await text(process.stdin)) as { key: string; cert: string; ca: string };
const server = createServer(
  {
    key,
    cert,
    ca,
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: "TLSv1.3",
    ALPNProtocols: ["h2"],
    noDelay: true,
  },
  (socket) => {
    socket.on("error", () => undefined);
    socket.once("data", () => socket.write(acknowledgement));
    socket.on("data", () => undefined);
    socket.write(settings);
  },
);
server.listen(0, "127.0.0.1", () => process.stdout.write(`${(server.address() as AddressInfo).port}\n`));
