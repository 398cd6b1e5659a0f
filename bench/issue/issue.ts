/**
 * What issuing costs: signing a leaf in this process; renewals and enrollments end to end, as CPU of a real control
 * plane in a process of its own, over warm keep-alive connections, each with its audit line on the disk.
 * Run: node_modules/.bin/node bench/issue/issue.ts [--rounds 7] [--each 2000] [--at-once 16] [--only renew|enroll] [--profile FOLDER]
 */
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { makeTestPki } from "../../test/support/pki.ts";
import { generateKey, spkiOf } from "../../src/x509/keys.ts";
import { serialFrom, signLeaf } from "../../src/x509/leaf.ts";
import type { Started, Tokens } from "./control.ts";
import { Caller, enrollBody, load, pemOf, renewBody, tlsOf, type Round } from "./load.ts";

const goals = { signedPerSecond: 5_000, renewalUs: 650, enrollmentUs: 900 };
const sidecars = 64;

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "7" },
    each: { type: "string", default: "2000" },
    "at-once": { type: "string", default: "16" },
    only: { type: "string" },
    profile: { type: "string" },
  },
});
const rounds = Number(values.rounds);
const each = Number(values.each);
const atOnce = Number(values["at-once"]);

const signed = await signing();
const folder = mkdtempSync(join(tmpdir(), "hauberk-issue-"));
const execArgv = values.profile === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${values.profile}`];
const child = fork(join(import.meta.dirname, "control.ts"), [folder], { execArgv });
try {
  const [started] = (await once(child, "message")) as [Started];
  const enrollers = Array.from({ length: atOnce }, () => new Caller(started.enrollment, { ca: pemOf(started.roots) }));
  const renewers = await enrollAll(enrollers, started);
  const pid = child.pid ?? 0;
  const renewals = await series("renew", async () => {
    const bodies = Array.from({ length: each }, renewBody);
    return load(pid, { path: "/v1/renew", bodies, callers: renewers }, atOnce);
  });
  const enrollments = await series("enroll", async () => {
    const bodies = (await tokensFrom(child, each)).map((token) => enrollBody(token));
    return load(pid, { path: "/v1/enroll", bodies, callers: enrollers }, atOnce);
  });
  for (const caller of [...renewers, ...enrollers]) caller.close();
  print(renewals, enrollments);
} finally {
  const ended = once(child, "exit");
  if (child.connected) child.disconnect();
  await ended;
  rmSync(folder, { recursive: true, force: true });
}

/** Leaves per second of CPU of one core. */
async function signing(): Promise<number[]> {
  const atMs = Date.now();
  const { issuer } = await makeTestPki({ wallMs: atMs });
  const spkis = Array.from({ length: 64 }, () => spkiOf(generateKey()));
  const leaf = { id: "spiffe://mesh.local/ns/default/sa/orders", dnsNames: ["orders.default.mesh"] };
  const life = { notBeforeMs: atMs, notAfterMs: atMs + 3_600_000 };
  const results: number[] = [];
  for (let round = 0; round <= rounds; round++) {
    const before = process.cpuUsage();
    for (let n = 0; n < each; n++) {
      const octets = Buffer.alloc(16);
      octets.writeUInt32BE(n, 12);
      signLeaf(issuer, { ...leaf, ...life, spki: spkis[n % spkis.length] as Buffer, serial: serialFrom(octets) });
    }
    const { user, system } = process.cpuUsage(before);
    if (round > 0) results.push((each * 1e6) / (user + system));
  }
  return results;
}

/** One enrolled identity for each sidecar, with its connection made and identified. */
async function enrollAll(callers: readonly Caller[], started: Started): Promise<Caller[]> {
  const tokens = await tokensFrom(child, sidecars);
  return Promise.all(
    tokens.map(async (token, index) => {
      const key = generateKey();
      const answer = await (callers[index % callers.length] as Caller).post("/v1/enroll", enrollBody(token, key));
      const renewer = new Caller(started.mesh, tlsOf(key, answer));
      await renewer.post("/v1/renew", renewBody());
      return renewer;
    }),
  );
}

async function tokensFrom(control: ChildProcess, count: number): Promise<readonly string[]> {
  const answered = once(control, "message");
  control.send(count);
  const [{ tokens }] = (await answered) as [Tokens];
  return tokens;
}

/** The first round warms up and does not count. Nothing where `--only` asks for the other one. */
async function series(name: "renew" | "enroll", round: () => Promise<Round>): Promise<Round[]> {
  if (values.only !== undefined && values.only !== name) return [];
  const results: Round[] = [];
  for (let n = 0; n <= rounds; n++) results.push(await round());
  return results.slice(1);
}

function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

function spread(numbers: readonly number[]): string {
  return `${Math.round(Math.min(...numbers))} to ${Math.round(Math.max(...numbers))}`;
}

function print(renewals: readonly Round[], enrollments: readonly Round[]): void {
  const line = (name: string, numbers: readonly number[], goal: string) => ({
    measured: name,
    median: Math.round(median(numbers)),
    spread: spread(numbers),
    goal,
  });
  const cpu = (results: readonly Round[]): number[] => results.map((result) => result.cpuUsEach);
  const rate = (results: readonly Round[]): number[] => results.map((result) => result.perSecond);
  console.log(`${rounds} rounds of ${each}, ${atOnce} at once, ${sidecars} sidecars; Node ${process.version}`);
  const lines = [
    line("leaves signed per second and core", signed, `>= ${goals.signedPerSecond}`),
    line("CPU of a renewal, us", cpu(renewals), `<= ${goals.renewalUs}`),
    line("CPU of an enrollment, us", cpu(enrollments), `<= ${goals.enrollmentUs}`),
    line("renewals per second of wall time", rate(renewals), ""),
    line("enrollments per second of wall time", rate(enrollments), ""),
  ];
  console.table(lines.filter(({ median }) => !Number.isNaN(median)));
}
