import { readFileSync } from "node:fs";
import { connect as connectTcp, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { connect as connectTls, createSecureContext, TLSSocket } from "node:tls";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

/**
 * A client certificate for programs that have none: accepts TLS (or plain TCP), opens mutual TLS to an inbound listener,
 * and copies bytes both ways. It reads nothing of what it copies. An end of one side is an end of the other, in that
 * direction alone, and a reset a reset, so that whoever tests the listener sees when it hung up, and how.
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

/** A connection's TCP socket, and what bytes are read from and written to: itself, or TLS over it. */
interface End {
  readonly raw: Socket;
  readonly spoken: Socket;
}

export async function openBridge(terms: BridgeTerms): Promise<Bridge> {
  const { key, cert } = terms.identity;
  const sockets = new Set<Socket>();
  const context = createSecureContext({ key, cert });
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (raw) => {
    const spoken =
      terms.plain === true
        ? raw
        : new TLSSocket(raw, { isServer: true, secureContext: context, ALPNProtocols: [...terms.alpn] });
    const near = { raw, spoken };
    const far = dial(terms);
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(from.raw);
      from.raw.once("close", () => sockets.delete(from.raw));
      copy(from, to);
    }
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(terms.listen.port, terms.listen.host, resolve);
  });
  return { port: (server.address() as AddressInfo).port, close: () => close(server, sockets) };
}

function dial(terms: BridgeTerms): End {
  const raw = connectTcp({ ...terms.to, allowHalfOpen: true, noDelay: true });
  const spoken = connectTls({
    socket: raw,
    ...terms.identity,
    ALPNProtocols: [...terms.alpn],
    // The chain is verified; a workload's certificate holds a SPIFFE ID, and no host name to compare.
    checkServerIdentity: () => undefined,
  });
  return { raw, spoken };
}

/** In one direction, until its end; what breaks this end breaks the other one alike. */
function copy(from: End, to: End): void {
  from.spoken.pipe(to.spoken);
  const broken = (): void => {
    to.raw.resetAndDestroy();
    to.spoken.destroy();
  };
  from.spoken.once("error", broken);
  if (from.raw !== from.spoken) from.raw.once("error", broken);
  from.spoken.once("close", () => {
    if (!from.spoken.readableEnded) to.spoken.destroy();
  });
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
