import { afterAll, beforeAll, expect, test } from "vitest";
import type { ServicesAnswer } from "../../src/contract/admin.ts";
import { ask, eventually, Mesh, metricsOf, sumOf, type Started } from "../support/mesh.ts";
import { beginLoad } from "./load.ts";
import { allow, applyText, openRoutee, type Routee } from "./routees.ts";

// Sidecars come back at random within up to three seconds: later than the grace period, and well within the window.
const graceMs = 200;
const windowMs = 6_000;
const leases = {
  HAUBERK_LEASE_GRACE_MS: String(graceMs),
  HAUBERK_LEASE_RECONNECT_WINDOW_MS: String(windowMs),
  HAUBERK_LEASE_SWEEP_EVERY_MS: "50",
};
const unhurried = { HAUBERK_RECONNECT_MIN_MS: "1000", HAUBERK_RECONNECT_MAX_MS: "3000" };

let mesh: Mesh;
let control: Started;
let web: Started;
let instances: Started[];
let routee: Routee;

beforeAll(async () => {
  mesh = await Mesh.create();
  control = await mesh.control(leases);
  routee = await openRoutee();
  const app = ["--app", `http:${routee.port}`];
  [web, ...instances] = await Promise.all([
    mesh.sidecar("web", [], unhurried),
    mesh.sidecar("orders", [...app, "--instance", "1"], unhurried),
    mesh.sidecar("orders", [...app, "--instance", "2"], unhurried),
  ]);
  await applyText(mesh, allow("web", "orders"));
  await eventually("web calls both instances", 10_000, async () => {
    const answer = await ask({ port: Number(web.ready["outbound"]), host: "orders", path: "/" });
    return answer.status === 200 && (await known()) === 2 ? true : undefined;
  });
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

test("a control plane that was down for three grace periods removes no endpoint when it is back, and no request fails", async () => {
  const retries = async (): Promise<number> => sumOf(await metricsOf(web), "hauberk_retries_total");
  // While the mesh came up there may have been some.
  const retriesBefore = await retries();
  const load = beginLoad(web, { host: "orders", perSecond: 100 });
  const seen: number[] = [];
  const watchFor = async (what: string, ms: number): Promise<void> => {
    const untilMs = performance.now() + ms;
    await eventually(what, ms + 5_000, async () => {
      seen.push(await known());
      return performance.now() > untilMs ? true : undefined;
    });
  };

  await control.kill("SIGKILL");
  await watchFor("many grace periods without a control plane", 10 * graceMs);
  control = await mesh.control(leases);
  const back = await eventually("every sidecar is connected again", 10_000, async () => {
    seen.push(await known());
    const answer = await mesh.json<ServicesAnswer>(["services", ...mesh.controlFlag]);
    return answer.sidecars.length === 3 ? answer : undefined;
  });
  expect(endpointsIn(back)).toHaveLength(2);
  await watchFor("the reconnect window and another grace period", windowMs + graceMs);

  const result = await load.end();
  expect(result.answers).toEqual({ "200": result.sent });
  expect(result.sent).toBeGreaterThan(500);
  expect([...new Set(seen)]).toEqual([2]);
  const services = await mesh.json<ServicesAnswer>(["services", ...mesh.controlFlag]);
  expect(endpointsIn(services).map(({ connected, stale }) => ({ connected, stale }))).toEqual([
    { connected: true, stale: false },
    { connected: true, stale: false },
  ]);
  expect(await retries()).toBe(retriesBefore);
});

test("a lease whose sidecar is gone ends all the same, when the control plane has been up for a while", async () => {
  await instances[1]?.kill("SIGKILL");
  await eventually("the endpoint of the killed one is gone", 2 * (windowMs + graceMs) + 2_000, async () =>
    (await known()) === 1 ? true : undefined,
  );
  expect(endpointsIn(await mesh.json<ServicesAnswer>(["services", ...mesh.controlFlag]))).toHaveLength(1);
});

function endpointsIn(answer: ServicesAnswer): ServicesAnswer["services"][number]["endpoints"] {
  return answer.services.find(({ service }) => service === "orders")?.endpoints ?? [];
}

/** How many endpoints of orders web's own sidecar knows now. */
async function known(): Promise<number> {
  const { body } = await ask({ socketPath: String(web.ready["admin"]), path: "/snapshot" });
  const { services } = JSON.parse(body) as { services: { service: string; endpoints: unknown[] }[] };
  return services.find(({ service }) => service === "orders.default")?.endpoints.length ?? 0;
}
