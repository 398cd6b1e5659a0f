import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { flows, type FlowPlan, type Side } from "./flows.ts";
import { startHop, type Hop } from "./hauberk.ts";
import { cpuOf, median, output } from "./measure.ts";
import { peersOf, routeeCommand, routeePorts, type Flow } from "./peers.ts";
import { makePki } from "./pki.ts";
import { Processes } from "./processes.ts";

/**
 * CPU per request and hop, throughput and latency of two sidecars, beside HAProxy, nginx and Envoy in the same run:
 * node bench/hop/hop.ts [--flows http,big,…] [--rounds 5] [--seconds 10] [--connections 1,64] [--only NAME,…] [--workers N] [--rate N].
 * Build first: npm run build; peers: test/peers/install.sh, bench/install.sh.
 */
interface Row {
  readonly cpuUs: number;
  readonly perSecond: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

const { values } = parseArgs({
  options: {
    flows: { type: "string", default: "http" },
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "10" },
    only: { type: "string" },
    connections: { type: "string" },
    workers: { type: "string" },
    rate: { type: "string" },
  },
});
const rate = values.rate === undefined ? {} : { rate: Number(values.rate) };
const folder = mkdtempSync(join(tmpdir(), "hauberk-bench-"));
const processes = new Processes();
const hops = new Set<Hop>();
const results: Record<string, unknown> = {};

try {
  makePki(folder);
  await processes.start(routeeCommand(folder), routeePorts.http);
  for (const flow of values.flows.split(",") as Flow[]) await measure(flow, flows[flow]);
  mkdirSync(new URL("../out/", import.meta.url), { recursive: true });
  writeFileSync(new URL("../out/hop.json", import.meta.url), `${JSON.stringify(results, undefined, 2)}\n`);
} finally {
  for (const hop of hops) await hop.mesh.end();
  processes.endAll();
  rmSync(folder, { recursive: true, force: true });
}

async function measure(flow: Flow, plan: FlowPlan): Promise<void> {
  const routee =
    plan.routee === undefined
      ? undefined
      : await processes.start(
          [process.execPath, fileURLToPath(new URL(plan.routee.file, import.meta.url))],
          plan.routee.port,
        );
  const sides = await startSides(flow, plan);
  console.log(`\n${flow}: ${plan.what}`);
  for (const side of sides) console.log(`${side.name.padEnd(14)} ${await suite(side)}`);
  for (const connections of (values.connections ?? plan.connections).split(",").map(Number))
    results[`${flow} ${connections}`] = await rounds(plan, sides, connections);
  for (const side of sides) await end(side);
  if (routee !== undefined) await processes.end(routee);
}

async function startSides(flow: Flow, plan: FlowPlan): Promise<Side[]> {
  const wanted = values.only?.split(",");
  const sides: Side[] = [];
  for (const peer of peersOf(flow, folder)) {
    if (wanted?.includes(peer.name) === false) continue;
    const into = await processes.start(peer.commands[1] ?? [""], peer.tlsPort);
    const out = await processes.start(peer.commands[0] ?? [""], peer.port);
    const { name, port, tlsPort } = peer;
    const pki = join(folder, "pki");
    const identity = { cert: join(pki, "a.crt"), key: join(pki, "a.key"), ca: join(pki, "ca.crt") };
    sides.push({
      name,
      port,
      tlsPort,
      pids: [out.pid ?? 0, into.pid ?? 0],
      headers: [],
      identity,
      children: [out, into],
    });
  }
  for (const name of plan.ours) {
    if (wanted?.includes(name) === false) continue;
    const workers = values.workers === undefined ? {} : { workers: Number(values.workers) };
    const hop = await startHop(join(folder, `${flow}-${name}`), {
      ...plan.shape,
      ...workers,
      jwt: name.endsWith("-jwt"),
    });
    hops.add(hop);
    sides.push({
      name,
      port: plan.shape.to ?? Number(hop.out.ready["outbound"]),
      tlsPort: Number(hop.into.ready["inbound"]),
      pids: [hop.out.pid, hop.into.pid],
      headers: hop.headers,
      identity: hop.identity,
      hop,
      children: [],
    });
  }
  return sides;
}

async function end(side: Side): Promise<void> {
  if (side.hop !== undefined) {
    await side.hop.mesh.end();
    hops.delete(side.hop);
  }
  for (const child of side.children) await processes.end(child);
}

async function rounds(plan: FlowPlan, sides: readonly Side[], connections: number): Promise<Record<string, Row>> {
  const rows = new Map<string, Row[]>(sides.map((side) => [side.name, []]));
  for (const side of sides) await plan.load(side, { connections, seconds: 2, folder, ...rate });
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const side of sides) rows.get(side.name)?.push(await once(plan, side, connections));
  }
  const medians: Record<string, Row> = {};
  console.log(`\n${connections} connections, medians of ${values.rounds} rounds of ${values.seconds} s`);
  console.log(`side            CPU µs/${plan.unit}/hop   ${plan.unit}/s     p50 µs    p99 µs`);
  for (const [name, list] of rows) {
    const row: Row = {
      cpuUs: median(list.map((one) => one.cpuUs)),
      perSecond: median(list.map((one) => one.perSecond)),
      p50Us: median(list.map((one) => one.p50Us)),
      p99Us: median(list.map((one) => one.p99Us)),
    };
    medians[name] = row;
    console.log(
      `${name.padEnd(14)} ${row.cpuUs.toFixed(1).padStart(14)} ${row.perSecond.toFixed(0).padStart(9)} ${shown(row.p50Us).padStart(9)} ${shown(row.p99Us).padStart(9)}`,
    );
  }
  for (const ours of plan.ours) {
    const mine = medians[ours];
    for (const [name, row] of Object.entries(medians)) {
      if (mine === undefined || plan.ours.includes(name)) continue;
      const ratio = (of: keyof Row): string => shown(mine[of] / row[of], 2);
      console.log(
        `${ours}, of ${name}: CPU ${ratio("cpuUs")}, throughput ${ratio("perSecond")}, p50 ${ratio("p50Us")}, p99 ${ratio("p99Us")}`,
      );
    }
  }
  return medians;
}

/** Bulk has no latency. */
function shown(value: number, digits = 0): string {
  return Number.isNaN(value) ? "-" : value.toFixed(digits);
}

async function once(plan: FlowPlan, side: Side, connections: number): Promise<Row> {
  const before = { cpu: cpuOf(side.pids), counted: await side.hop?.counted() };
  const load = await plan.load(side, { connections, seconds: Number(values.seconds), folder, ...rate });
  const cpu = cpuOf(side.pids) - before.cpu;
  if (load.bad > 0 || load.requests === 0)
    throw new Error(`${side.name}: void: ${load.bad} bad answers of ${load.requests}`);
  const after = await side.hop?.counted();
  if (before.counted !== undefined && after !== undefined && plan.counted) {
    for (const which of ["out", "into"] as const) {
      // What is under way when the load ends may be counted too: one per connection, or stream.
      const rose = after[which] - before.counted[which];
      if (rose < load.requests || rose > load.requests + connections * plan.streams)
        throw new Error(`${side.name}: void: ${which} counted ${rose} of ${load.requests} requests`);
    }
  }
  return { cpuUs: cpu / (plan.hops * load.requests), perSecond: load.perSecond, p50Us: load.p50Us, p99Us: load.p99Us };
}

/** Version, cipher and group, as openssl sees the inbound listener. */
async function suite(side: Side): Promise<string> {
  const { cert, key, ca } = side.identity;
  const text = await output("bash", [
    "-c",
    `openssl s_client -connect 127.0.0.1:${side.tlsPort} -tls1_3 -cert ${cert} -key ${key} -CAfile ${ca} </dev/null 2>&1 || true`,
  ]);
  const cipher = /New, (TLSv1\.3), Cipher is (\S+)/.exec(text);
  const group = /(?:Server Temp Key|Negotiated TLS1.3 group): (.*)/.exec(text)?.[1];
  return `${cipher?.[1] ?? "?"} ${cipher?.[2] ?? "?"} ${group ?? "?"}`;
}
