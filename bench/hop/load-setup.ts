import { readFileSync } from "node:fs";
import { connect } from "node:tls";
import { percentiles, type Load } from "./measure.ts";

/** Whole mutual TLS 1.3 handshakes with an inbound listener, so many at a time, each closed again. Argument: JSON. */
const { port, cert, key, ca, connections, seconds } = JSON.parse(process.argv[2] ?? "{}") as {
  port: number;
  cert: string;
  key: string;
  ca: string;
  connections: number;
  seconds: number;
};
const terms = { cert: readFileSync(cert), key: readFileSync(key), ca: readFileSync(ca) };
const durations: number[] = [];
let bad = 0;
const endsAt = performance.now() + seconds * 1000;

function once(): Promise<void> {
  const startedAt = performance.now();
  return new Promise((resolve) => {
    const socket = connect({
      host: "127.0.0.1",
      port,
      ...terms,
      minVersion: "TLSv1.3",
      ALPNProtocols: ["http/1.1"],
      // Names in mesh certificates are SPIFFE IDs; the chain is verified.
      checkServerIdentity: () => undefined,
    });
    let done = false;
    // In TLS 1.3 the server has judged our certificate only when it answers: here with 400, because there is no Host.
    socket.once("secureConnect", () => socket.end("GET / HTTP/1.1\r\n\r\n"));
    socket.on("data", () => (done = true));
    socket.once("error", () => undefined);
    socket.once("close", () => {
      if (done) durations.push((performance.now() - startedAt) * 1000);
      else bad++;
      resolve();
    });
  });
}

async function worker(): Promise<void> {
  while (performance.now() < endsAt) await once();
}
await Promise.all(Array.from({ length: connections }, worker));
const load: Load = {
  requests: durations.length,
  perSecond: durations.length / seconds,
  ...percentiles(durations),
  bad,
};
process.stdout.write(JSON.stringify(load));
