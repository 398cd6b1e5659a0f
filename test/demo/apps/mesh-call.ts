import { Agent, request } from "node:http";
import { env } from "node:process";

/** A plain HTTP call as any program makes it: the proxy of its environment is the sidecar. */
export interface MeshCall {
  readonly url: string;
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

export interface MeshAnswer {
  readonly status: number;
  readonly code: string | undefined;
  readonly body: string;
}

const agent = new Agent({ keepAlive: true, maxSockets: 16, proxyEnv: env });

export function call(wanted: MeshCall): Promise<MeshAnswer> {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      wanted.url,
      { method: wanted.method ?? "GET", headers: { ...wanted.headers }, agent },
      (incoming) => {
        const chunks: Buffer[] = [];
        incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
        incoming.once("error", reject);
        incoming.once("end", () => {
          const code = incoming.headers["x-hauberk-code"];
          resolve({
            status: incoming.statusCode ?? 0,
            code: typeof code === "string" ? code : undefined,
            body: Buffer.concat(chunks).toString("utf8"),
          });
        });
      },
    );
    outgoing.once("error", reject);
    outgoing.end(wanted.body);
  });
}
