import { afterAll, beforeAll, expect, test } from "vitest";
import { ask, eventually, Mesh, metricsOf, sumOf, serialOf, type Started } from "../support/mesh.ts";
import { beginLoad } from "./load.ts";
import { allow, applyText, openRoutee, type Routee } from "./routees.ts";

let mesh: Mesh;
let routee: Routee;
const sidecars: Started[] = [];

beforeAll(async () => {
  // A busy machine needs time to renew them: a leaf that has ended costs requests, as it should.
  mesh = await Mesh.create({ config: "lifetimes: { leaf: 10s, allowSeconds: true }" });
  await mesh.control();
  // Slow enough that at every moment some requests are under way: whatever is cut, cuts one of them.
  routee = await openRoutee({ answer: (_seen, response) => void setTimeout(() => response.end("orders"), 20) });
  sidecars.push(
    ...(await Promise.all([mesh.sidecar("web"), mesh.sidecar("orders", ["--app", `http:${routee.port}`])])),
  );
  await applyText(mesh, allow("web", "orders"));
  await eventually("web may call orders", 5_000, async () => {
    const answer = await ask({ port: Number(web().ready["outbound"]), host: "orders", path: "/" });
    return answer.status === 200 ? true : undefined;
  });
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

test("rotating a leaf loses no request: every leaf twice, at 200 requests a second", async () => {
  const before = { requests: routee.requests.length, metrics: await metricsOf(web()) };
  const load = beginLoad(web(), { host: "orders", perSecond: 220 });
  const seen = sidecars.map(() => new Set<string>());
  await eventually("every leaf was replaced twice", 40_000, async () => {
    for (const [index, sidecar] of sidecars.entries()) seen[index]?.add(await serialOf(sidecar));
    return seen.every((serials) => serials.size >= 3) ? true : undefined;
  });
  const result = await load.end();
  expect(result.answers).toEqual({ "200": result.sent });
  expect(result.perSecond).toBeGreaterThanOrEqual(200);
  // Each was delivered once: none was lost and made good by a second one.
  expect(routee.requests.length - before.requests).toBe(result.sent);
  const metrics = await metricsOf(web());
  const counted = (name: string): number => sumOf(metrics, name) - sumOf(before.metrics, name);
  expect(counted("hauberk_retries_total")).toBe(0);
  // What was made with an old leaf has drained, and was not merely left standing.
  expect(counted("hauberk_connections_drained_total")).toBeGreaterThanOrEqual(2);
});

function web(): Started {
  return sidecars[0] as Started;
}
