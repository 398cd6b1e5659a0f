import { createServer, type IncomingMessage } from "node:http";
import { env } from "node:process";

/** A small REST API on loopback: each route gets the path's parts and the body, and gives a status and a value. */
export interface Reply {
  readonly status?: number;
  readonly value: unknown;
}

export type Route = (request: IncomingMessage, match: RegExpExecArray, body: string) => Promise<Reply> | Reply;

export function serve(routes: readonly (readonly [method: string, path: RegExp, route: Route])[]): void {
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      void answer(request, Buffer.concat(chunks).toString("utf8")).then(({ status = 200, value }) => {
        response.writeHead(status, { "content-type": "application/json" });
        response.end(`${JSON.stringify(value)}\n`);
      });
    });
  });

  async function answer(request: IncomingMessage, body: string): Promise<Reply> {
    for (const [method, path, route] of routes) {
      const match = path.exec(request.url ?? "");
      if (match === null || request.method !== method) continue;
      try {
        return await route(request, match, body);
      } catch (thrown) {
        return { status: 500, value: { error: String(thrown) } };
      }
    }
    return { status: 404, value: { error: "no such path" } };
  }

  server.keepAliveTimeout = 60_000;
  server.once("error", (thrown) => {
    console.error(`error: ${thrown.message}`);
    process.exitCode = 1;
  });
  server.listen(Number(env["PORT"]), "127.0.0.1");
  process.once("SIGTERM", () => {
    server.close();
    server.closeAllConnections();
  });
}
