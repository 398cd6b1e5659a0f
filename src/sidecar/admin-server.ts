import type { Server, ServerResponse } from "node:http";
import { HauberkError, messageOf } from "../base/errors.ts";
import { createServer } from "../transport/node-http.ts";
import { listenPrivately } from "../transport/private-socket.ts";

interface AdminAnswer {
  readonly status?: number;
  readonly type: string;
  readonly body: string;
}

/** What the admin socket answers: each path gives its type and its body. */
export type AdminRoutes = Readonly<Record<string, () => AdminAnswer | Promise<AdminAnswer>>>;

/**
 * The sidecar's admin listener: a Unix socket that only its own user may open (0600), never on the data path's port.
 * GET only; unknown paths are 404.
 */
export async function listenAdmin(path: string, routes: AdminRoutes): Promise<{ close(): Promise<void> }> {
  const server = createServer(
    { requestTimeout: 10_000, headersTimeout: 10_000, maxHeaderSize: 8192 },
    (request, response) => {
      const route = request.url !== undefined && Object.hasOwn(routes, request.url) ? routes[request.url] : undefined;
      if (route === undefined || request.method !== "GET") {
        response.writeHead(route === undefined ? 404 : 405, { "content-type": "application/json" });
        response.end(`${JSON.stringify({ paths: Object.keys(routes) })}\n`);
        return;
      }
      void answer(route, response);
    },
  );
  server.maxConnections = 32;
  await listen(server, path);
  return {
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function answer(route: () => AdminAnswer | Promise<AdminAnswer>, response: ServerResponse): Promise<void> {
  try {
    const { status = 200, type, body } = await route();
    response.writeHead(status, { "content-type": type });
    response.end(body);
  } catch (thrown) {
    // What has begun to be said cannot be taken back.
    if (response.headersSent) return void response.destroy();
    response.writeHead(500, { "content-type": "application/json" });
    response.end(`${JSON.stringify({ because: messageOf(thrown) })}\n`);
  }
}

async function listen(server: Server, path: string): Promise<void> {
  try {
    await listenPrivately(server, path);
  } catch (thrown) {
    const { code, message } = thrown as NodeJS.ErrnoException;
    throw new HauberkError(
      "CONFIG_INVALID",
      `Cannot open the admin socket ${path}: ${code === "EINVAL" ? "the path is longer than a Unix socket's may be" : message}`,
      "Name a shorter path in a folder of your own with --admin-socket",
      thrown,
    );
  }
  server.on("error", () => undefined); // A failed accept ends one connection, never the process.
}
