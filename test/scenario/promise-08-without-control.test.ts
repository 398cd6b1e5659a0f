import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ServicesAnswer } from "../../src/contract/admin.ts";
import { ask, eventually, Mesh, metricsOf, says, sumOf, type Answer, type Started } from "../support/mesh.ts";
import { allow, applyText, freePort, openRoutee, type Routee } from "./routees.ts";

let mesh: Mesh;
let control: Started;
let web: Started;
let orders: Started;
let routee: Routee;
let late: Routee;
let ordersFlags: readonly string[];
/** What a service manager would start again and again: no token stands in it. */
const again = (service: string, flags: readonly string[] = []): Promise<Started> =>
  mesh.start(["proxy", "--service", service, "--open-outbound", "--inbound-host", "127.0.0.1", ...flags], {
    environment: { HAUBERK_ASK_MS: "300" },
  });

beforeAll(async () => {
  mesh = await Mesh.create();
  control = await mesh.control();
  routee = await openRoutee({ name: "orders" });
  late = await openRoutee({ name: "late" });
  // Not the default port: the sidecars of other meshes try that one first, also while this one starts anew.
  ordersFlags = ["--app", `http:${routee.port}`, "--inbound-port", String(await freePort())];
  [web, orders] = await Promise.all([
    mesh.sidecar("web"),
    mesh.sidecar("orders", ordersFlags),
    applyText(mesh, allow("web", "orders")),
  ]);
  await eventually("web may call orders", 5_000, async () => ((await call()).body === "orders" ? true : undefined));
  await eventually("both snapshots are on disk", 5_000, () =>
    ["web", "orders"].every((service) => snapshotOf(service).includes("web-calls-orders")) ? true : undefined,
  );
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
  await late.close();
});

test("a sidecar that lost its control plane goes on serving from its last good snapshot", async () => {
  await control.kill("SIGKILL");
  await eventually("both sidecars saw it", 5_000, async () => {
    const metrics = await Promise.all([metricsOf(web), metricsOf(orders)]);
    return metrics.every((seen) => sumOf(seen, "hauberk_control_connected") === 0) ? true : undefined;
  });
  expect(await call()).toMatchObject({ status: 200, body: "orders" });
});

test("also across its own restart: the callee's, at the address that callers know", async () => {
  const { inbound } = orders.ready;
  await orders.kill("SIGKILL");
  orders = await again("orders", ordersFlags);
  expect(orders.ready["inbound"]).toBe(inbound);
  await served();
});

test("also across its own restart: the caller's", async () => {
  await web.kill("SIGKILL");
  web = await again("web");
  await served();
});

test("also when both restarted, and what no policy allowed stays refused", async () => {
  await Promise.all([web.kill("SIGKILL"), orders.kill("SIGKILL")]);
  [web, orders] = await Promise.all([again("web"), again("orders", ordersFlags)]);
  await served();
  const back = await ask({ port: Number(orders.ready["outbound"]), host: "web", path: "/" });
  expect(back.status).not.toBe(200);
});

test("a damaged snapshot is set aside and logged, and nothing is served from it", async () => {
  await web.kill("SIGKILL");
  const file = join(stateOf("web"), "snapshot.json");
  const damaged = readFileSync(file, "utf8").replace("web-calls-orders", "web-calls-0rders");
  writeFileSync(file, damaged);
  web = await again("web");
  const aside = readdirSync(stateOf("web")).filter((name) => name.startsWith("snapshot.json.damaged-"));
  expect(aside).toHaveLength(1);
  expect(readFileSync(join(stateOf("web"), aside[0] ?? ""), "utf8")).toBe(damaged);
  await says(web, "a state file is damaged and was set aside");
  const answer = await call();
  expect([answer.status, answer.headers["x-hauberk-code"]]).toEqual([503, "CONTROL_UNREACHABLE"]);
});

test("when the control plane is back, everything catches up without a restart", async () => {
  const pids = [web.pid, orders.pid];
  control = await mesh.control();
  await eventually("web calls orders again", 15_000, async () => ((await call()).status === 200 ? true : undefined));
  // A policy that is applied now reaches them, and so does a service that came meanwhile.
  const shop = await mesh.sidecar("shop", ["--app", `http:${late.port}`]);
  await applyText(mesh, allow("web", "shop"));
  await eventually("web calls shop", 5_000, async () => ((await call("shop")).body === "late" ? true : undefined));
  await eventually("web calls orders no more", 5_000, async () => ((await call()).status === 404 ? true : undefined));
  const services = await eventually("all of them run the newest version", 5_000, async () => {
    const answer = await mesh.json<ServicesAnswer>(["services", ...mesh.controlFlag]);
    const current = answer.sidecars.every(({ acknowledged }) => acknowledged?.epoch === answer.version.epoch);
    return answer.sidecars.length === 3 && current ? answer : undefined;
  });
  expect(services.sidecars.map(({ rejected }) => rejected)).toEqual([null, null, null]);
  expect([web.pid, orders.pid]).toEqual(pids);
  expect([web, orders, shop].map(({ child }) => child.exitCode)).toEqual([null, null, null]);
});

async function served(): Promise<void> {
  await eventually("web calls orders without a control plane", 10_000, async () =>
    (await call()).body === "orders" ? true : undefined,
  );
  expect(sumOf(await metricsOf(web), "hauberk_control_connected")).toBe(0);
}

function call(host = "orders"): Promise<Answer> {
  return ask({ port: Number(web.ready["outbound"]), host, path: "/" });
}

function stateOf(service: string): string {
  return join(mesh.home, "certs", service, "1");
}

function snapshotOf(service: string): string {
  return readdirSync(stateOf(service)).includes("snapshot.json")
    ? readFileSync(join(stateOf(service), "snapshot.json"), "utf8")
    : "";
}
