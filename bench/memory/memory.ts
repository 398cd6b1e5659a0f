import { parseArgs } from "node:util";
import { plainConnections, startSubject, tlsConnections, unreadAnswers, unreadRequests } from "./measure.ts";
import { descriptorsMax, type Cost } from "./resident.ts";

/** `node_modules/.bin/node bench/memory/memory.ts [--connections N] [--tls N] [--bodies N]`: what connections and stuck bodies cost a sidecar. */
const { values } = parseArgs({
  options: { connections: { type: "string" }, tls: { type: "string" }, bodies: { type: "string" } },
});
const room = descriptorsMax() - 1_000;
const connections = Math.min(Number(values.connections ?? 10_000), room);
const tls = Math.min(Number(values.tls ?? 5_000), room);
const bodies = Number(values.bodies ?? 20);

const subject = await startSubject({
  HAUBERK_OUTBOUND_CONNECTIONS_MAX: "100000",
  HAUBERK_TLS_CONNECTIONS_MAX: "100000",
});
try {
  // First, in processes that have done little: whatever grew before would not grow again.
  const { sidecar, bare } = await tlsConnections(subject, tls);
  say("an idle mTLS connection, bare node:tls", bare);
  say("an idle mTLS connection, inbound", sidecar);
  say("an idle plain connection that asked once", await plainConnections(subject, connections));
  const answers = await unreadAnswers(subject, bodies);
  say("a client that does not read 1 GB, outbound", answers.web);
  say("a client that does not read 1 GB, inbound", answers.orders);
  const requests = await unreadRequests(subject, bodies);
  say("a routee that does not read 1 GB, outbound", requests.web);
  say("a routee that does not read 1 GB, inbound", requests.orders);
} finally {
  await subject.end();
}

function say(what: string, { count, each }: Cost): void {
  process.stdout.write(`${what.padEnd(50)} ${(each / 1024).toFixed(1).padStart(10)} KB each, of ${count}\n`);
}
