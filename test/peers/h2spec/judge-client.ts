import { once } from "node:events";
import { createServer } from "node:http";
import { connect, type AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { defaultsOf } from "../../../src/base/options.ts";
import { systemClock } from "../../../src/cli/system.ts";
import type { ResponseEvents } from "../../../src/transport/exchange.ts";
import { connectHttp2 } from "../../../src/transport/http2-client.ts";
import { http2Options } from "../../../src/transport/http2-options.ts";
import { run, summaryOf, type Verdict } from "./verdict.ts";

/**
 * The suite's other half, h2specd, against the client that speaks HTTP/2 on the hop: each case is a server that breaks a
 * rule, or does what is odd and allowed, and judges what the client says to it.
 */
const program = fileURLToPath(new URL("../bin/h2specd", import.meta.url));
const casesWanted = 57;
/** A client that has its answer stays this long, so that a case can go on behind it. */
const stayMs = 200;
/** It takes as many ports in a row as it has cases. */
const firstPorts = [21_000, 23_000, 25_000, 27_000];

export async function judgeClient(): Promise<Verdict> {
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      void askOnce(new URL(Buffer.concat(chunks).toString("latin1"))).then((heard) => response.end(`${heard}\n`));
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const ask = `./ask.sh http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  let output = "";
  let code = -1;
  for (const first of firstPorts) {
    ({ output, code } = await run(program, ["--from-port", String(first), "--timeout", "10", "--exec", ask]));
    if (!output.includes("address already in use")) break;
  }
  server.close();
  server.closeAllConnections();
  // At its end it says of its own listeners, many times, that they are closed.
  output = output.replaceAll(/^accept .*use of closed network connection\n/gm, "");
  return { of: "h2specd 2.2.1, the hop's client", output, ...summaryOf({ code, output }, casesWanted) };
}

/** One request; what became of it, for whoever reads along by `--verbose`. */
async function askOnce(url: URL): Promise<string> {
  const socket = connect(Number(url.port), url.hostname);
  let closed: (because: string) => void = () => undefined;
  const ended = new Promise<string>((resolve) => (closed = resolve));
  const context = { clock: systemClock, options: defaultsOf(http2Options), onClosed: closed };
  try {
    const client = await connectHttp2(socket, context);
    const stay = (): void => void systemClock.after(stayMs, () => client.destroy("it has stayed long enough"));
    const head = { method: "GET", scheme: "http", authority: url.host, path: "/", fields: [], bodyLength: 0 };
    const nothing = (): void => undefined;
    const events: ResponseEvents = {
      informed: nothing,
      head: (_head, end) => (end ? stay() : undefined),
      data: nothing,
      end: stay,
      aborted: stay,
      drained: nothing,
    };
    client.request(head, true, events);
    return await ended;
  } catch (thrown) {
    return String(thrown);
  }
}
