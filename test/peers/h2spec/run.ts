import { once } from "node:events";
import { existsSync } from "node:fs";
import { createServer } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { allow, applyText, exportIdentity, freePort } from "../../scenario/routees.ts";
import { Mesh, eventually } from "../../support/mesh.ts";
import { openBridge } from "../tls-bridge.ts";
import { judgeClient } from "./judge-client.ts";
import { report, run, summaryOf, type Verdict } from "./verdict.ts";

/**
 * The public HTTP/2 conformance suite against both listeners of a real mesh (`npm run conformance`): the outbound one as
 * h2c with prior knowledge, the inbound one over mutual TLS, by way of a bridge that adds the certificate that h2spec lacks.
 * What it asks for is allowed by policy and answered by a routee, with more than a client's whole window, behind both
 * sidecars in the outbound run. Then the suite's other half, which judges clients. Ends with 1 unless every case passes.
 */
const command = fileURLToPath(new URL("../bin/h2spec", import.meta.url));
const commandNamed = fileURLToPath(new URL("../bin/h2spec-named", import.meta.url));

/** Of 2.2.1 with --strict: fewer would mean that something else was run. */
const casesWanted = 146;
/** More than a whole window of a client that has said nothing of it. */
const answerBytes = 65_536 + 4_096;
/** Far fewer than the requests of the cases that are no error: less means that the routee was not what answered. */
const requestsMin = 10;

interface Target {
  readonly listener: string;
  readonly program: string;
  readonly args: readonly string[];
  readonly url: string;
  readonly authority: string;
}

async function main(): Promise<number> {
  if (!existsSync(command) || !existsSync(commandNamed)) {
    process.stderr.write("Cannot run h2spec: it is not built; run test/peers/h2spec/install.sh\n");
    return 1;
  }
  const routee = await openRoutee();
  const mesh = await Mesh.create();
  try {
    const toPort = await freePort();
    await mesh.control();
    const [, orders] = await Promise.all([
      mesh.sidecar("web", ["--to", `orders=${toPort}`]),
      mesh.sidecar("orders", ["--app", `http:${routee.port}`]),
      applyText(mesh, allow("web", "orders")),
    ]);
    // The authority that h2spec writes has to name a declared port: the bridge listens at the same number, one address on.
    const bridge = await openBridge({
      listen: { host: "127.0.0.2", port: routee.port },
      to: { host: "127.0.0.1", port: Number(orders.ready["inbound"]) },
      identity: await exportIdentity(mesh, "web"),
      alpn: ["h2"],
    });
    const targets: Target[] = [
      {
        listener: "outbound (h2c)",
        program: command,
        args: ["--strict", "--timeout", "10", "--host", "127.0.0.1", "--port", String(toPort)],
        url: `http://127.0.0.1:${toPort}`,
        authority: `127.0.0.1:${toPort}`,
      },
      {
        listener: "inbound (mutual TLS)",
        program: commandNamed,
        args: ["-timeout", "10", "-host", "orders", "-address", "127.0.0.2", "-port", String(bridge.port)],
        url: `https://127.0.0.2:${bridge.port}`,
        authority: `orders:${bridge.port}`,
      },
    ];
    // By hand one of them alone: `npm run conformance -- inbound`.
    const wanted = process.argv[2] ?? "";
    const verdicts: Verdict[] = [];
    for (const target of targets.filter(({ listener }) => listener.startsWith(wanted)))
      verdicts.push(await judge(target, routee));
    if ("client".startsWith(wanted)) verdicts.push(await judgeClient());
    await bridge.close();
    for (const verdict of verdicts) report(verdict);
    return verdicts.every(({ fine }) => fine) ? 0 : 1;
  } finally {
    await mesh.end();
    routee.close();
  }
}

interface CountingRoutee {
  readonly port: number;
  readonly requests: () => number;
  close(): void;
}

async function openRoutee(): Promise<CountingRoutee> {
  const body = Buffer.alloc(answerBytes, "all of it. ");
  let requests = 0;
  const server = createServer((request, response) => {
    requests++;
    request.on("error", () => undefined);
    request.resume();
    response.end(body);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    requests: () => requests,
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}

async function judge(target: Target, routee: CountingRoutee): Promise<Verdict> {
  const { listener, program, args } = target;
  await eventually(`the routee answers through the ${listener} listener`, 20_000, async () =>
    (await answerLength(target)) === answerBytes ? true : undefined,
  );
  const before = routee.requests();
  const done = await run(program, args);
  const requests = routee.requests() - before;
  const { summary, fine } = summaryOf(done, casesWanted);
  return {
    of: `h2spec 2.2.1 --strict, ${listener}`,
    summary: `${summary} (${requests} requests reached the routee)`,
    output: done.output,
    fine: fine && requests >= requestsMin,
  };
}

/** How long the body is that a client without faults is answered with; undefined while there is none. */
function answerLength(target: Target): Promise<number | undefined> {
  return new Promise((resolve) => {
    // Whoever answers is known by the port: the bridge shows a workload's certificate, which names no host.
    const session = connectHttp2(target.url, { checkServerIdentity: () => undefined, rejectUnauthorized: false });
    session.on("error", () => resolve(undefined));
    session.on("close", () => resolve(undefined));
    const stream = session.request({ ":path": "/", ":authority": target.authority });
    let length = 0;
    stream.on("error", () => undefined);
    stream.on("data", (chunk: Buffer) => (length += chunk.length));
    stream.once("end", () => {
      resolve(length);
      session.close();
    });
  });
}

process.exitCode = await main();
