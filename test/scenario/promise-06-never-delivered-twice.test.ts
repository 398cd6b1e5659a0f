import type { ServerResponse } from "node:http";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { ask, eventually, Mesh, metricsOf, sumOf, type Answer, type Started } from "../support/mesh.ts";
import { allow, applyText, openRoutee, type Routee, type SeenRequest } from "./routees.ts";

/** One instance of orders: its program runs here, and can hold what it gets. */
interface Instance {
  readonly name: string;
  sidecar: Started;
  routee: Routee;
  /** Answers that are held back. */
  held: ServerResponse[];
  holding: boolean;
}

const instances: Instance[] = [];
let mesh: Mesh;
let web: Started;

beforeAll(async () => {
  mesh = await Mesh.create();
  await mesh.control();
  [web] = await Promise.all([
    mesh.sidecar("web"),
    startInstance("1"),
    startInstance("2"),
    applyText(mesh, allow("web", "orders")),
  ]);
  await eventually("both instances answer", 10_000, async () => {
    await call("GET", "warm-up");
    return instances.every(({ routee }) => routee.requests.length > 0) || undefined;
  });
});

afterEach(async () => {
  for (const instance of instances) if (instance.sidecar.child.signalCode !== null) await revive(instance);
});

afterAll(async () => {
  await mesh.end();
  for (const { routee } of instances) await routee.close();
});

test("a request body is never delivered twice unless the request is safe to replay: POSTs on a killed endpoint are UPSTREAM_LOST", async () => {
  const [victim, other] = victimAndOther();
  victim.holding = true;
  const ids = Array.from({ length: 40 }, (_, index) => `post-${index}`);
  const answers = ids.map(async (id) => ({ id, answer: await call("POST", id) }));
  await eventually("every POST is answered or held by the victim", 5_000, () => {
    return deliveries().size === ids.length || undefined;
  });
  const lost = new Set(bodiesAt(victim));
  await victim.sidecar.kill("SIGKILL");
  // These start while the callers do not all know yet that it is gone: nothing of them was written there.
  const late = Array.from({ length: 20 }, (_, index) => `late-${index}`);
  const all = await Promise.all([...answers, ...late.map(async (id) => ({ id, answer: await call("POST", id) }))]);

  const delivered = deliveries();
  for (const { id, answer } of all) {
    expect(delivered.get(id) ?? 0, `${id} was delivered`).toBeLessThanOrEqual(1);
    const expected = lost.has(id) ? "502 UPSTREAM_LOST" : "200";
    expect(`${id}: ${shortly(answer)}`).toBe(`${id}: ${expected}`);
    if (answer.status === 200) expect(delivered.get(id), `${id} was answered`).toBe(1);
  }
  expect([...lost].filter((id) => id.startsWith("post-")).length).toBeGreaterThanOrEqual(15);
  expect(bodiesAt(other).filter((id) => lost.has(id))).toEqual([]);
  expect(JSON.parse(all.find(({ id }) => lost.has(id))?.answer.body ?? "{}")).toMatchObject({ code: "UPSTREAM_LOST" });
});

test("GETs on a killed endpoint are sent again, and all succeed", async () => {
  const [victim, other] = victimAndOther();
  victim.holding = true;
  const before = await metricsOf(web);
  const ids = Array.from({ length: 40 }, (_, index) => `get-${index}`);
  const answers = ids.map(async (id) => ({ id, answer: await call("GET", id) }));
  await eventually("every GET is answered or held by the victim", 5_000, () => {
    const paths = instances.flatMap(({ routee }) => routee.requests.map(({ path }) => path));
    return paths.filter((path) => path.startsWith("/get-")).length === ids.length || undefined;
  });
  const held = new Set(victim.routee.requests.map(({ path }) => path));
  await victim.sidecar.kill("SIGKILL");
  for (const { id, answer } of await Promise.all(answers)) expect(`${id}: ${answer.status}`).toBe(`${id}: 200`);
  // Those that the victim had were delivered twice, which is what a GET is for: the retries are counted.
  const twice = other.routee.requests.filter(({ path }) => held.has(path) && path.startsWith("/get-"));
  expect(twice.length).toBeGreaterThanOrEqual(15);
  expect(
    sumOf(await metricsOf(web), "hauberk_retries_total") - sumOf(before, "hauberk_retries_total"),
  ).toBeGreaterThanOrEqual(twice.length);
});

test("a program that dies with a POST in its hands gets it once, although its sidecar lives and could ask again", async () => {
  const [victim] = victimAndOther();
  victim.holding = true;
  const ids = Array.from({ length: 12 }, (_, index) => `crash-${index}`);
  const answers = ids.map(async (id) => ({ id, answer: await call("POST", id) }));
  await eventually("every POST is answered or held by the victim", 5_000, () => {
    return [...deliveries().keys()].filter((id) => id.startsWith("crash-")).length === ids.length || undefined;
  });
  const lost = new Set(bodiesAt(victim));
  victim.holding = false;
  for (const response of victim.held.splice(0)) response.socket?.destroy();
  const all = await Promise.all(answers);
  const delivered = deliveries();
  for (const { id, answer } of all) {
    expect(`${id}: ${shortly(answer)}`).toBe(`${id}: ${lost.has(id) ? "502 UPSTREAM_LOST" : "200"}`);
    expect(delivered.get(id), id).toBe(1);
  }
});

async function startInstance(name: string): Promise<void> {
  const instance: Partial<Instance> & Pick<Instance, "name" | "held" | "holding"> = { name, held: [], holding: false };
  const answer = (_seen: SeenRequest, response: ServerResponse): void => {
    if (instance.holding) instance.held.push(response);
    else response.end(name);
  };
  instance.routee = await openRoutee({ answer });
  instance.sidecar = await mesh.sidecar("orders", [
    "--instance",
    instance.name,
    "--app",
    `http:${instance.routee.port}`,
  ]);
  instances.push(instance as Instance);
}

/** The sidecar of a killed instance again, with the identity on its disk; what its program held is let go. */
async function revive(instance: Instance): Promise<void> {
  instance.holding = false;
  for (const response of instance.held.splice(0)) response.end();
  const seen = instance.routee.requests.length;
  instance.sidecar = await mesh.start([
    "proxy",
    "--open-outbound",
    "--service=orders",
    `--instance=${instance.name}`,
    `--app=http:${instance.routee.port}`,
    "--inbound-host=127.0.0.1",
  ]);
  await eventually("the instance answers again", 10_000, async () => {
    await call("GET", "again");
    return instance.routee.requests.length > seen || undefined;
  });
}

function victimAndOther(): readonly [Instance, Instance] {
  return [instances[0] as Instance, instances[1] as Instance];
}

function call(method: string, id: string): Promise<Answer> {
  const port = Number(web.ready["outbound"]);
  return ask({
    port,
    host: "orders",
    method,
    path: method === "GET" ? `/${id}` : "/orders",
    ...(method === "GET" ? {} : { body: id }),
  });
}

/** `502 UPSTREAM_LOST`, or the status alone where the program answered. */
function shortly({ status, headers }: Answer): string {
  const code = headers["x-hauberk-code"];
  return typeof code === "string" ? `${status} ${code}` : String(status);
}

/** The bodies that came to this program, in order. */
function bodiesAt(instance: Instance): string[] {
  return instance.routee.requests.map(({ body }) => body).filter((body) => body !== "");
}

/** How often each body came to any of the programs. */
function deliveries(): Map<string, number> {
  const counts = new Map<string, number>();
  for (const id of instances.flatMap(bodiesAt)) counts.set(id, (counts.get(id) ?? 0) + 1);
  return counts;
}
