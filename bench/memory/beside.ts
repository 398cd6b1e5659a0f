import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createSecureContext } from "node:tls";
import { parseArgs } from "node:util";
import { eventually } from "../../test/support/mesh.ts";
import { startHop, type IdentityFiles } from "../hop/hauberk.ts";
import { output } from "../hop/measure.ts";
import { peersOf, routeeCommand, routeePorts } from "../hop/peers.ts";
import { makePki } from "../hop/pki.ts";
import { Processes } from "../hop/processes.ts";
import { http1ThatAsked, http2To, plainThatAsked } from "./idle.ts";
import { costOf, residentOf, type Cost } from "./resident.ts";

/**
 * What an idle connection costs our sidecars, HAProxy, nginx and Envoy in the same run:
 * node bench/memory/beside.ts [--connections 2000] [--only NAME,…]. Build first: npm run build; peers: test/peers/install.sh,
 * bench/install.sh. Each connection asks once, is answered, and falls silent. Prints a table.
 */
const { values } = parseArgs({
  options: { connections: { type: "string", default: "2000" }, only: { type: "string" } },
});
const count = Number(values.connections);
const wanted = values.only?.split(",");

/** A pair of proxies that is measured. */
interface Pair {
  readonly name: string;
  readonly out: { readonly pid: number; readonly port: number };
  readonly into: { readonly pid: number; readonly port: number };
  readonly identity: IdentityFiles;
  readonly host: string;
  readonly http2: boolean;
  end(): Promise<void>;
}

const folder = mkdtempSync(join(tmpdir(), "hauberk-memory-"));
const processes = new Processes();
try {
  makePki(folder);
  await processes.start(routeeCommand(folder), routeePorts.http);
  console.log(
    `| ${count} idle connections of each kind | mTLS, inbound, KB each | plain, outbound, KB each | without any, MB: inbound, outbound |`,
  );
  console.log("|---|---|---|---|");
  for (const peer of peersOf("http", folder)) {
    if (wanted?.includes(peer.name) !== false) await measure(await startPeer(peer));
  }
  if (wanted?.includes("hauberk") !== false) await measure(await startOurs());
} finally {
  processes.endAll();
  rmSync(folder, { recursive: true, force: true });
}

async function startPeer(peer: ReturnType<typeof peersOf>[number]): Promise<Pair> {
  const into = await processes.start(peer.commands[1] ?? [], peer.tlsPort);
  const out = await processes.start(peer.commands[0] ?? [], peer.port);
  const pki = join(folder, "pki");
  return {
    name: peer.name,
    out: { pid: out.pid ?? 0, port: peer.port },
    into: { pid: into.pid ?? 0, port: peer.tlsPort },
    identity: { cert: join(pki, "a.crt"), key: join(pki, "a.key"), ca: join(pki, "ca.crt") },
    host: "b",
    http2: peer.name.endsWith("-h2"),
    end: async () => {
      await processes.end(out);
      await processes.end(into);
    },
  };
}

async function startOurs(): Promise<Pair> {
  const { mesh, out, into, identity } = await startHop(join(folder, "hauberk"), {
    app: `http:${routeePorts.http}`,
    allows: `to: [{ methods: [GET], paths: ["/*"] }]`,
    environment: {
      // All connections are of one identity.
      HAUBERK_PEER_SHARE_RATIO: "1",
      // What a quiet sidecar gives back would be taken for something that never grew.
      HAUBERK_TRIM_AFTER_MS: "0",
    },
  });
  const port = Number(out.ready["outbound"]);
  const url = `http://127.0.0.1:${port}/`;
  const ask = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: routee", url];
  const calls = async (): Promise<true | undefined> => ((await output("curl", ask)) === "200" ? true : undefined);
  await eventually("a call passes both sidecars", 30_000, calls);
  return {
    name: "hauberk",
    out: { pid: out.pid, port },
    into: { pid: into.pid, port: Number(into.ready["inbound"]) },
    identity,
    host: "routee",
    http2: true,
    end: () => mesh.end(),
  };
}

/** Prints a row of the table as soon as it is known. */
async function measure(pair: Pair): Promise<void> {
  const { name, out, into, identity, host, http2 } = pair;
  try {
    const question = { host, path: "/" };
    const empty = { out: residentOf(out.pid), into: residentOf(into.pid) };
    const secureContext = createSecureContext({ key: readFileSync(identity.key), cert: readFileSync(identity.cert) });
    const to = { port: into.port, secureContext };
    const open = () => (http2 ? http2To(to, question) : http1ThatAsked(to, question));
    const tls = await costOf({ pid: into.pid, count, open });
    const plain = await costOf({ pid: out.pid, count, open: () => plainThatAsked(out.port, question) });
    const protocol = http2 ? "HTTP/2" : "HTTP/1.1";
    console.log(`| ${name} | ${kb(tls)} (${protocol}) | ${kb(plain)} | ${mb(empty.into)}, ${mb(empty.out)} |`);
  } finally {
    await pair.end();
  }
}

function kb({ each }: Cost): string {
  return (each / 1024).toFixed(1);
}

function mb(bytes: number): string {
  return (bytes / 1024 / 1024).toFixed(1);
}
