import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ask, eventually, Mesh } from "../support/mesh.ts";
import { allow, applyText, openRoutee, type Routee } from "./routees.ts";

let mesh: Mesh;
let routee: Routee;

beforeAll(async () => {
  mesh = await Mesh.create();
  routee = await openRoutee();
  await mesh.control();
  await mesh.sidecar("orders", ["--app", `http:${routee.port}`]);
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

test("a program that starts lives by the policies of now, not by those of its last run", async () => {
  const seen: number[] = [];
  let token: readonly string[] = ["--token-file", await mesh.token("web")];
  // Off, on, off, on: what the run before knew is wrong each time.
  for (const text of [
    allow("ledger", "orders"),
    allow("web", "orders"),
    allow("ledger", "orders"),
    allow("web", "orders"),
  ]) {
    await applyText(mesh, text);
    const web = await mesh.start(["proxy", "--service", "web", "--open-outbound", ...token]);
    token = [];
    const answer = await ask({ port: Number(web.ready["outbound"]), host: "orders", path: "/" });
    seen.push(answer.status);
    const stored = join(mesh.home, "certs", "web", "1", "snapshot.json");
    await web.kill("SIGTERM");
    // It was written, and holds no word about a name that was unknown.
    await eventually("a snapshot", 2_000, () => (existsSync(stored) ? true : undefined));
    expect(readFileSync(stored, "utf8").includes("service/orders.default")).toBe(answer.status === 200);
  }
  expect(seen).toEqual([404, 200, 404, 200]);
});
