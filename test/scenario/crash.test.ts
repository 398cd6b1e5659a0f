import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ask, eventually, Mesh, metricsOf, says, type Started } from "../support/mesh.ts";
import { allow, applyText, openRoutee, type Routee } from "./routees.ts";

/** What nobody caught ends its process, in order and with a word; whoever started it goes on, or starts it anew. */
let mesh: Mesh;
let control: Started;
let routee: Routee;
let orders: Started;

/** Loaded into every process: SIGUSR2 throws where nobody catches, SIGPWR rejects where nobody listens, SIGIO throws in the next timer. */
const bugs = `
process.on("SIGUSR2", () => { throw new Error("a thrown bug"); });
process.on("SIGPWR", () => { void Promise.reject(new Error("a rejected bug")); });
let throws = false;
process.on("SIGIO", () => { throws = true; });
const bug = () => { throws = false; throw new Error("a bug in a timer"); };
const { setTimeout } = globalThis;
globalThis.setTimeout = (run, ms, task) => setTimeout(run, ms, task && (() => throws ? bug() : task()));
`;

beforeAll(async () => {
  mesh = await Mesh.create();
  const file = join(mesh.folder, "bugs.mjs");
  writeFileSync(file, bugs);
  mesh.environment["NODE_OPTIONS"] = `--import ${pathToFileURL(file).href}`;
  control = await mesh.control();
  routee = await openRoutee({ name: "orders" });
  orders = await mesh.sidecar("orders", ["--app", `http:${routee.port}`]);
  await applyText(mesh, allow("web", "orders"));
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

/** The last words of a process, as a log has them. What it wrote may arrive after its end was seen. */
function lastWords(of: Started): Promise<Record<string, unknown>[]> {
  return eventually("last words", 10_000, () => {
    const lines = linesWith(of, "nobody caught");
    return lines.length > 0 ? lines : undefined;
  });
}

function linesWith(of: Started, words: string): Record<string, unknown>[] {
  return of
    .output()
    .split("\n")
    .filter((line) => line.includes(words))
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

async function reaches(web: Started): Promise<void> {
  await eventually("web calls orders", 15_000, async () => {
    const answer = await ask({ port: Number(web.ready["outbound"]), host: "orders", path: "/" }).catch(() => undefined);
    return answer?.body === "orders" ? true : undefined;
  });
}

test("a worker that something ends from within says why, ends with 70, and is replaced; its sidecar lives", async () => {
  const web = await mesh.sidecar("web", ["--workers", "2"]);
  await reaches(web);
  const [victim] = await workersOf(web);
  process.kill(victim as number, "SIGUSR2");
  const now = await eventually("another worker", 15_000, async () => {
    const pids = await workersOf(web);
    return pids.length === 2 && !pids.includes(victim as number) ? pids : undefined;
  });
  expect(now).toHaveLength(2);
  const said = await lastWords(web);
  expect(said).toMatchObject([
    { level: "error", code: "BUG", because: "a thrown bug", origin: "uncaughtException", worker: expect.any(Number) },
  ]);
  expect(String(said[0]?.["stack"])).toContain("bugs.mjs");
  await says(web, '"how":"code 70"');
  expect((await metricsOf(web)).get("hauberk_worker_restarts_total")).toBe(1);
  await reaches(web);
  await web.kill("SIGTERM");
});

test("a bug in a timer's task ends nothing: it is one line of the log and one of the metrics, and the timers go on", async () => {
  const web = await mesh.sidecar("web");
  const faults = async (): Promise<number | undefined> =>
    (await metricsOf(web)).get('hauberk_faults_total{cost="task"}');
  expect(await faults()).toBe(0);
  for (const count of [1, 2]) {
    process.kill(web.pid, "SIGIO");
    await eventually("the bug", 15_000, async () => ((await faults()) === count ? true : undefined));
  }
  await eventually("its line", 10_000, () => linesWith(web, "a bug in a timer").length > 0 || undefined);
  expect(linesWith(web, "a bug in a timer")).toMatchObject([{ level: "error", code: "BUG" }]);
  await reaches(web);
  expect(await web.kill("SIGTERM")).toBe(0);
});

test("a sidecar that something ends from within says why, ends with 70, and tells its program to end", async () => {
  const program =
    "process.on('SIGTERM', () => { console.log('told to end'); process.exit(0) }); setInterval(() => {}, 1000); console.log('runs')";
  const token = await mesh.token("web");
  const web = await mesh.start(["run", "--service", "web", "--token-file", token], {
    program: [process.execPath, "-e", program],
  });
  await eventually("the program", 10_000, () => (web.output().includes("runs") ? true : undefined));
  expect(await web.kill("SIGPWR")).toBe(70);
  expect(await lastWords(web)).toMatchObject([
    { level: "error", code: "BUG", because: "a rejected bug", origin: "unhandledRejection" },
  ]);
  await eventually("the program's end", 10_000, () => (web.output().includes("told to end") ? true : undefined));
});

test("a control plane that something ends from within says why, ends with 70, and its next start goes on", async () => {
  expect(await control.kill("SIGUSR2")).toBe(70);
  expect(await lastWords(control)).toMatchObject([{ code: "BUG", because: "a thrown bug" }]);
  control = await mesh.control();
  const web = await mesh.sidecar("web");
  await reaches(web);
  expect(await web.kill("SIGTERM")).toBe(0);
  expect(orders.child.exitCode).toBeNull();
});

async function workersOf(sidecar: Started): Promise<number[]> {
  const { body } = await ask({ socketPath: String(sidecar.ready["admin"]), path: "/snapshot" });
  const { workers } = JSON.parse(body) as { workers: { pid: number }[] };
  return workers.map(({ pid }) => pid);
}
