import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually, Mesh, type Started } from "../support/mesh.ts";
import { served, webCallsOrders, type Routee } from "./routees.ts";

/** The control plane's own certificate ends as soon as the workloads' do. */
const shortLives = { HAUBERK_CONTROL_LIFETIME_MS: "5000" };

let mesh: Mesh;
let control: Started;
let web: Started;
let orders: Started;
let routee: Routee;

beforeAll(async () => {
  mesh = await Mesh.create({ config: "lifetimes: { leaf: 5s, allowSeconds: true }" });
  ({ control, web, orders, routee } = await webCallsOrders(mesh, shortLives));
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

test("everything that was off until all leaves had expired is back without a human", async () => {
  const before = [web.ready["instance"], orders.ready["instance"]];
  await everythingOffUntilExpired();
  control = await mesh.control(shortLives);
  [web, orders] = await startAgain();
  await served(web);
  // The same instances, each with its lineage: they came back, they did not enroll anew.
  expect([web.ready["instance"], orders.ready["instance"]]).toEqual(before);
});

test("sidecars that are started first wait for the control plane, and are back when it is", async () => {
  const before = [web.ready["instance"], orders.ready["instance"]];
  await everythingOffUntilExpired();
  const starting = startAgain();
  control = await mesh.control(shortLives);
  [web, orders] = await starting;
  await served(web);
  expect([web.ready["instance"], orders.ready["instance"]]).toEqual(before);
});

async function everythingOffUntilExpired(): Promise<void> {
  await Promise.all([web, orders, control].map((process) => process.kill("SIGKILL")));
  await Promise.all(
    ["web", "orders"].map((service) =>
      eventually(`the leaf of ${service} has ended`, 15_000, async () => {
        const inspected = await mesh.run(["certs", "inspect", join(mesh.home, "certs", service, "1"), "--json"]);
        return inspected.code === 1 && inspected.out.includes("PEER_EXPIRED") ? true : undefined;
      }),
    ),
  );
}

/** As a service manager does: the same flags each time, and no token. */
function startAgain(): Promise<[Started, Started]> {
  const flags = ["--open-outbound", "--inbound-host", "127.0.0.1"];
  return Promise.all([
    mesh.start(["proxy", "--service", "web", ...flags]),
    mesh.start(["proxy", "--service", "orders", "--app", `http:${routee.port}`, ...flags]),
  ]);
}
