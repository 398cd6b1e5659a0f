import { spawn, type ChildProcess } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { startHop, type Hop } from "./hauberk.ts";
import { cpuOf, median, output, wrk, type Load } from "./measure.ts";
import { peers, routeeCommand } from "./peers.ts";
import { makePki } from "./pki.ts";

/**
 * CPU per request and hop, throughput and latency of two sidecars, beside HAProxy and nginx in the same run:
 * node bench/hop/hop.ts [--rounds 5] [--seconds 10] [--only NAME,…]. Build first: npm run build.
 */
interface Side {
  readonly name: string;
  readonly port: number;
  readonly tlsPort: number;
  readonly pids: readonly number[];
  readonly headers: readonly string[];
  readonly hop?: Hop;
}

interface Row {
  readonly cpuUs: number;
  readonly perSecond: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "10" },
    only: { type: "string" },
    connections: { type: "string", default: "1,64" },
  },
});
const folder = mkdtempSync(join(tmpdir(), "hauberk-bench-"));
const children: ChildProcess[] = [];
const hops: Hop[] = [];

try {
  makePki(folder);
  await start(routeeCommand(folder), 9000);
  const sides = await startSides();
  for (const side of sides) console.log(`${side.name.padEnd(14)} ${await suite(side)}`);
  const results: Record<string, unknown> = {};
  for (const connections of values.connections.split(",").map(Number))
    results[connections] = await rounds(sides, connections);
  mkdirSync(new URL("../out/", import.meta.url), { recursive: true });
  writeFileSync(new URL("../out/hop.json", import.meta.url), `${JSON.stringify(results, undefined, 2)}\n`);
} finally {
  for (const hop of hops) await hop.mesh.end();
  for (const child of children) child.kill("SIGTERM"); // SIGKILL would leave nginx workers behind.
  rmSync(folder, { recursive: true, force: true });
}

async function startSides(): Promise<Side[]> {
  const wanted = values.only?.split(",");
  const sides: Side[] = [];
  for (const peer of peers(folder)) {
    if (wanted?.includes(peer.name) === false) continue;
    const into = await start(peer.commands[1] ?? [""], peer.tlsPort);
    const out = await start(peer.commands[0] ?? [""], peer.port);
    sides.push({
      name: peer.name,
      port: peer.port,
      tlsPort: peer.tlsPort,
      pids: [out.pid ?? 0, into.pid ?? 0],
      headers: [],
    });
  }
  for (const jwt of [false, true]) {
    const name = jwt ? "hauberk-jwt" : "hauberk";
    if (wanted?.includes(name) === false) continue;
    const hop = await startHop(join(folder, name), jwt);
    hops.push(hop);
    sides.push({
      name,
      port: Number(hop.out.ready["outbound"]),
      tlsPort: Number(hop.into.ready["inbound"]),
      pids: [hop.out.pid, hop.into.pid],
      headers: hop.headers,
      hop,
    });
  }
  return sides;
}

async function rounds(sides: readonly Side[], connections: number): Promise<Record<string, Row>> {
  const rows = new Map<string, Row[]>(sides.map((side) => [side.name, []]));
  for (const side of sides)
    await wrk(`http://127.0.0.1:${side.port}/`, { connections, seconds: 2, headers: side.headers });
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const side of sides) rows.get(side.name)?.push(await once(side, connections));
  }
  const medians: Record<string, Row> = {};
  console.log(`\n${connections} connections, medians of ${values.rounds} rounds of ${values.seconds} s`);
  console.log("side            CPU µs/req/hop   req/s     p50 µs    p99 µs");
  for (const [name, list] of rows) {
    const row: Row = {
      cpuUs: median(list.map((one) => one.cpuUs)),
      perSecond: median(list.map((one) => one.perSecond)),
      p50Us: median(list.map((one) => one.p50Us)),
      p99Us: median(list.map((one) => one.p99Us)),
    };
    medians[name] = row;
    console.log(
      `${name.padEnd(14)} ${row.cpuUs.toFixed(1).padStart(14)} ${row.perSecond.toFixed(0).padStart(9)} ${row.p50Us.toFixed(0).padStart(9)} ${row.p99Us.toFixed(0).padStart(9)}`,
    );
  }
  for (const [name, row] of Object.entries(medians)) {
    const h1 = medians["haproxy-h1"];
    const h2 = medians["haproxy-h2"];
    if (!name.startsWith("hauberk") || h1 === undefined || h2 === undefined) continue;
    console.log(
      `${name}: CPU ${(row.cpuUs / h1.cpuUs).toFixed(2)} of haproxy-h1, ${(row.cpuUs / h2.cpuUs).toFixed(2)} of haproxy-h2; throughput ${(row.perSecond / h1.perSecond).toFixed(2)} of haproxy-h1`,
    );
  }
  return medians;
}

async function once(side: Side, connections: number): Promise<Row> {
  const before = { cpu: cpuOf(side.pids), counted: await side.hop?.counted() };
  const load: Load = await wrk(`http://127.0.0.1:${side.port}/`, {
    connections,
    seconds: Number(values.seconds),
    headers: side.headers,
  });
  const cpu = cpuOf(side.pids) - before.cpu;
  if (load.bad > 0 || load.requests === 0)
    throw new Error(`${side.name}: void: ${load.bad} bad answers of ${load.requests}`);
  const after = await side.hop?.counted();
  if (before.counted !== undefined && after !== undefined) {
    for (const which of ["out", "into"] as const) {
      // wrk drops what is under way at its end: the sidecars may have counted up to one more per connection.
      const rose = after[which] - before.counted[which];
      if (rose < load.requests || rose > load.requests + connections)
        throw new Error(`${side.name}: void: ${which} counted ${rose} of ${load.requests} requests`);
    }
  }
  return { cpuUs: cpu / (2 * load.requests), perSecond: load.perSecond, p50Us: load.p50Us, p99Us: load.p99Us };
}

async function start([command, ...args]: readonly string[], port: number): Promise<ChildProcess> {
  const child = spawn(command ?? "", args, { stdio: ["ignore", "ignore", "inherit"] });
  children.push(child);
  for (let attempt = 0; attempt < 200; attempt++) {
    if (await connects(port)) return child;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error(`${command} does not listen on ${port}`);
}

function connects(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ host: "127.0.0.1", port });
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

/** Version, cipher and group, as openssl sees the inbound listener. */
async function suite(side: Side): Promise<string> {
  const pki = join(folder, "pki");
  const text = await output("bash", [
    "-c",
    `openssl s_client -connect 127.0.0.1:${side.tlsPort} -tls1_3 -cert ${pki}/a.crt -key ${pki}/a.key -CAfile ${pki}/ca.crt </dev/null 2>&1 || true`,
  ]);
  const cipher = /New, (TLSv1\.3), Cipher is (\S+)/.exec(text);
  const group = /(?:Server Temp Key|Negotiated TLS1.3 group): (.*)/.exec(text)?.[1];
  return `${cipher?.[1] ?? "?"} ${cipher?.[2] ?? "?"} ${group ?? "?"}`;
}
