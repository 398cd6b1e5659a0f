import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createSecureContext } from "node:tls";
import { parseArgs } from "node:util";
import { startHop, type IdentityFiles } from "../hop/hauberk.ts";
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

interface Row {
  readonly name: string;
  readonly protocol: string;
  readonly tls: Cost;
  readonly plain: Cost;
  /** Of both proxies, before the first connection. */
  readonly empty: { readonly out: number; readonly into: number };
}

const folder = mkdtempSync(join(tmpdir(), "hauberk-memory-"));
const processes = new Processes();
try {
  makePki(folder);
  await processes.start(routeeCommand(folder), routeePorts.http);
  const rows: Row[] = [];
  for (const peer of peersOf("http", folder)) {
    if (wanted?.includes(peer.name) === false) continue;
    rows.push(await measured(peer.name, () => startPeer(peer)));
  }
  if (wanted?.includes("hauberk") !== false) rows.push(await measured("hauberk", startOurs));
  print(rows);
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
  return {
    name: "hauberk",
    out: { pid: out.pid, port: Number(out.ready["outbound"]) },
    into: { pid: into.pid, port: Number(into.ready["inbound"]) },
    identity,
    host: "routee",
    http2: true,
    end: () => mesh.end(),
  };
}

async function measured(name: string, start: () => Promise<Pair>): Promise<Row> {
  process.stderr.write(`${name} …\n`);
  return measure(await start());
}

async function measure(pair: Pair): Promise<Row> {
  const { name, out, into, identity, host, http2 } = pair;
  try {
    const question = { host, path: "/" };
    const empty = { out: residentOf(out.pid), into: residentOf(into.pid) };
    const secureContext = createSecureContext({ key: readFileSync(identity.key), cert: readFileSync(identity.cert) });
    const to = { port: into.port, secureContext };
    const open = () => (http2 ? http2To(to, question) : http1ThatAsked(to, question));
    const tls = await costOf({ pid: into.pid, count, open });
    const plain = await costOf({ pid: out.pid, count, open: () => plainThatAsked(out.port, question) });
    return { name, protocol: http2 ? "HTTP/2" : "HTTP/1.1", tls, plain, empty };
  } finally {
    await pair.end();
  }
}

function print(rows: readonly Row[]): void {
  const kb = ({ each }: Cost): string => (each / 1024).toFixed(1);
  const mb = (bytes: number): string => (bytes / 1024 / 1024).toFixed(1);
  console.log(
    `| ${count} idle connections of each kind | mTLS, inbound, KB each | plain, outbound, KB each | without any, MB |`,
  );
  console.log("|---|---|---|---|");
  for (const { name, protocol, tls, plain, empty } of rows)
    console.log(`| ${name} | ${kb(tls)} (${protocol}) | ${kb(plain)} | ${mb(empty.into)}, ${mb(empty.out)} |`);
}
