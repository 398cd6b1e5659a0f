import { lstatSync, rmSync } from "node:fs";
import { createConnection, type Server } from "node:net";

/**
 * Listens on a Unix socket that only this user may open, from its first moment on: a mode that is set afterwards leaves the
 * others a moment to connect in. A socket that a process left behind is taken away, one that somebody listens on is not, and
 * neither is a file. Rejects as `listen` fails: EADDRINUSE where the path is taken.
 */
export async function listenPrivately(server: Server, path: string): Promise<void> {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() === true) {
    if (await isLive(path)) throw Object.assign(new Error("another program listens there"), { code: "EADDRINUSE" });
    rmSync(path, { force: true });
  }
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    // The socket's file is made before `listen` returns, so nothing else is made with this mask.
    const before = process.umask(0o177);
    try {
      server.listen(path, () => {
        server.off("error", reject);
        resolve();
      });
    } finally {
      process.umask(before);
    }
  });
}

/** Only the kernel's refusal says that nobody listens: a full queue, or a socket of another user, belongs to somebody. */
function isLive(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", ({ code }: NodeJS.ErrnoException) => resolve(code !== "ECONNREFUSED" && code !== "ENOENT"));
  });
}
