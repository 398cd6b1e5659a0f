import { createServer, type Server } from "node:net";
import { HauberkError } from "../base/errors.ts";

/**
 * A port that the workers of one sidecar share, and nobody else. The system lets every process of the same user join a shared
 * port, also those of another sidecar, which would then get each other's connections. So a port is tried alone first, and
 * claimed for the sidecar's life by a name in the same network namespace (an abstract Unix socket, gone with the process).
 */
export interface ClaimedPort {
  readonly port: number;
  release(): void;
}

interface Wanted {
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  /** Where the port is taken, any free one will do. */
  readonly orFree?: boolean | undefined;
}

const freeTriesMax = 8;

/** @throws HauberkError PORT_TAKEN, UNAVAILABLE */
export async function claimPort(wanted: Wanted): Promise<ClaimedPort> {
  const first = await tryPort(wanted.host, wanted.port);
  if (first !== undefined) return first;
  if (wanted.orFree === true || wanted.port === 0) {
    for (let tries = 0; tries < freeTriesMax; tries++) {
      const free = await tryPort(wanted.host, 0);
      if (free !== undefined) return free;
    }
  }
  throw new HauberkError(
    "PORT_TAKEN",
    `Cannot listen on ${wanted.host}:${wanted.port}: it is in use`,
    "Choose another port",
  );
}

/** @throws HauberkError UNAVAILABLE where two sockets cannot listen on one port. */
export async function requireSharedPorts(workers: number): Promise<void> {
  const opened: Server[] = [];
  try {
    const one = await listen({ host: "127.0.0.1", port: 0, reusePort: true });
    opened.push(one);
    opened.push(await listen({ host: "127.0.0.1", port: portOf(one), reusePort: true }));
  } catch (thrown) {
    const because = (thrown as NodeJS.ErrnoException).code ?? "unknown";
    throw new HauberkError(
      "UNAVAILABLE",
      `Cannot start ${workers} workers: this system does not let processes share a port (${because}), as Linux does`,
      "Leave --workers out; or start several sidecars, each with an --instance and ports of its own",
      thrown,
    );
  } finally {
    for (const server of opened) server.close();
  }
}

/** Undefined where the port is taken: by another program, or by the workers of another sidecar. */
async function tryPort(host: string, port: number): Promise<ClaimedPort | undefined> {
  const alone = await unlessTaken(listen({ host, port }), `${host}:${port}`);
  if (alone === undefined) return undefined;
  const real = portOf(alone);
  const name = `\0hauberk-port/${host}:${real}`;
  // Claimed while it is held alone: of two sidecars that start at the same time one finds it taken.
  try {
    const claim = await unlessTaken(listen({ path: name }), `${host}:${real}`);
    claim?.unref();
    return claim === undefined ? undefined : { port: real, release: () => void claim.close() };
  } finally {
    await closed(alone);
  }
}

async function unlessTaken(listening: Promise<Server>, where: string): Promise<Server | undefined> {
  try {
    return await listening;
  } catch (thrown) {
    const { code, message } = thrown as NodeJS.ErrnoException;
    if (code === "EADDRINUSE") return undefined;
    throw new HauberkError("UNAVAILABLE", `Cannot listen on ${where}: ${message}`, "Choose an address of this machine");
  }
}

function listen(at: { path: string } | { host: string; port: number; reusePort?: boolean }): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once("error", reject);
    server.listen(at, () => {
      server.off("error", reject);
      server.on("error", () => undefined);
      resolve(server);
    });
  });
}

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()));
}

function portOf(server: Server): number {
  const address = server.address();
  return typeof address === "object" && address !== null ? address.port : 0;
}
