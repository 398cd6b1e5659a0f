import { readFileSync } from "node:fs";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { connect as connectTls, createSecureContext, TLSSocket } from "node:tls";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

/**
 * A client certificate for programs that have none: accepts TLS (or plain TCP), opens mutual TLS to an inbound listener,
 * and copies bytes both ways. It reads nothing of what it copies. An end of one side is an end of the other, in that
 * direction alone, and what breaks one breaks the other, so that whoever tests the listener sees when it hung up, and how.
 */
export interface BridgeTerms {
  readonly listen: { readonly host: string; readonly port: number };
  readonly to: { readonly host: string; readonly port: number };
  /** Shown to the listener, and to who connects here too: they are told not to look. */
  readonly identity: { readonly key: string; readonly cert: string; readonly ca: string };
  readonly alpn: readonly string[];
  /** Takes plain TCP. */
  readonly plain?: boolean;
}

export interface Bridge {
  readonly port: number;
  close(): Promise<void>;
}

export async function openBridge(terms: BridgeTerms): Promise<Bridge> {
  const { key, cert } = terms.identity;
  const sockets = new Set<Socket>();
  const context = createSecureContext({ key, cert });
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (raw) => {
    raw.on("error", () => undefined);
    const near =
      terms.plain === true
        ? raw
        : new TLSSocket(raw, { isServer: true, secureContext: context, ALPNProtocols: [...terms.alpn] });
    const far = dial(terms);
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(from);
      from.once("close", () => sockets.delete(from));
      copy(from, to);
    }
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(terms.listen.port, terms.listen.host, resolve);
  });
  return { port: (server.address() as AddressInfo).port, close: () => close(server, sockets) };
}

function dial(terms: BridgeTerms): Socket {
  const options = {
    ...terms.to,
    ...terms.identity,
    ALPNProtocols: [...terms.alpn],
    allowHalfOpen: true,
    // The chain is verified; a workload's certificate holds a SPIFFE ID, and no host name to compare.
    checkServerIdentity: () => undefined,
  };
  return connectTls(options).setNoDelay(true);
}

/** In one direction, until its end; what breaks this end breaks the other one too. */
function copy(from: Socket, to: Socket): void {
  from.pipe(to);
  from.once("error", () => breakOff(to));
  from.once("close", () => {
    if (!from.readableEnded) breakOff(to);
  });
}

/** Over TLS an end without close_notify says it: to reset what lies under a TLSSocket is not safe in Node. */
function breakOff(socket: Socket): void {
  if (socket instanceof TLSSocket) socket.destroy();
  else socket.resetAndDestroy();
}

function close(server: Server, sockets: ReadonlySet<Socket>): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    for (const socket of sockets) socket.destroy();
  });
}

function addressOf(text: string): { host: string; port: number } {
  const at = text.lastIndexOf(":");
  return { host: text.slice(0, at), port: Number(text.slice(at + 1)) };
}

/** By hand: `node test/peers/tls-bridge.ts --listen 127.0.0.2:8080 --to 127.0.0.1:15443 --identity web.pem --ca ca/root.crt`. */
async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      listen: { type: "string" },
      to: { type: "string" },
      identity: { type: "string" },
      ca: { type: "string" },
      plain: { type: "boolean", default: false },
    },
  });
  const { listen, to, identity, ca, plain } = values;
  if (listen === undefined || to === undefined || identity === undefined || ca === undefined)
    throw new Error("Cannot start: --listen, --to, --identity and --ca were wanted");
  const pem = readFileSync(identity, "utf8");
  const keyAt = pem.indexOf("-----BEGIN PRIVATE KEY-----");
  const bridge = await openBridge({
    listen: addressOf(listen),
    to: addressOf(to),
    identity: { cert: pem.slice(0, keyAt), key: pem.slice(keyAt), ca: readFileSync(ca, "utf8") },
    alpn: ["h2"],
    plain,
  });
  process.stdout.write(`${JSON.stringify({ ready: true, port: bridge.port })}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
