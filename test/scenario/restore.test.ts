import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ServicesAnswer } from "../../src/contract/admin.ts";
import { ask, eventually, Mesh, type Finished, type Started } from "../support/mesh.ts";
import { allow, applyText, openRoutee, type Routee } from "./routees.ts";

let mesh: Mesh;
let routee: Routee;
let control: Started;
let web: Started;

beforeAll(async () => {
  mesh = await Mesh.create();
  control = await mesh.control();
  routee = await openRoutee();
  await mesh.sidecar("orders", ["--app", `http:${routee.port}`]);
  await applyText(mesh, allow("web", "orders"));
  web = await mesh.sidecar("web");
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

test("a backup that is put back: traffic goes on, every sidecar follows, and no token of before enrolls anybody", async () => {
  const used = await mesh.token("late");
  const unused = await mesh.token("never");
  expect(await call()).toBe(200);
  const before = await services();
  const file = join(mesh.folder, "mesh.backup");
  expect(await mesh.run(["backup", file])).toMatchObject({ code: 0, err: "" });
  expect(readFileSync(file).includes("PRIVATE KEY")).toBe(false);
  // After the backup: in it, this token is unused.
  const late = await mesh.start(["proxy", "--service", "late", "--token-file", used, "--open-outbound"]);
  await late.kill("SIGTERM");

  const running = await mesh.run(["restore", file]);
  expect([running.code, running.err]).toEqual([69, expect.stringContaining("STATE_LOCKED")]);
  expect(running.err).toContain("hint: End hauberk control first");
  await control.kill("SIGTERM");
  expect(await call()).toBe(200);
  const wrong = await mesh.run(["restore", join(mesh.home, "hauberk.yaml")]);
  expect([wrong.code, wrong.err]).toEqual([2, expect.stringContaining("it is no whole database")]);
  const done = await mesh.json<{ tokensRevoked: number; kept: string }>(["restore", file]);
  expect(done.tokensRevoked).toBe(2);
  expect(readFileSync(done.kept).length).toBeGreaterThan(4096);

  control = await mesh.control();
  const after = await eventually("both sidecars run the new epoch", 15_000, async () => {
    const now = await services();
    const follow = now.sidecars.filter(({ acknowledged }) => acknowledged?.epoch === now.version.epoch);
    return follow.length === 2 ? now : undefined;
  });
  expect(after.version.epoch).not.toBe(before.version.epoch);
  expect(await call()).toBe(200);
  for (const [service, token] of [
    ["late", used],
    ["never", unused],
  ] as const) {
    const enrolled = await mesh.run(["proxy", "--service", service, "--instance", "2", "--token-file", token]);
    expect([enrolled.code, enrolled.err]).toEqual([1, expect.stringContaining("TOKEN_REVOKED")]);
  }
});

test("who enrolled after the backup is called no more, until it is started again with a new token", async () => {
  await applyText(mesh, allow("web", "orders") + allow("web", "later") + allow("later", "orders"));
  const file = join(mesh.folder, "before-later.backup");
  expect((await mesh.run(["backup", file])).code).toBe(0);
  const later = await mesh.sidecar("later", ["--app", `http:${routee.port}`]);
  await eventually("it is called", 15_000, async () => (await call("later")) === 200 || undefined);
  const laterCalls = async (): Promise<number> =>
    (await ask({ port: Number(later.ready["outbound"]), host: "orders", path: "/" })).status;
  expect(await laterCalls()).toBe(200);
  await control.kill("SIGTERM");
  const said = await mesh.run(["restore", file]);
  expect(said.out).toContain("Whoever enrolled since the backup is sent no calls (NO_ENDPOINT)");
  expect(said.out).toContain("its own calls, to services that it called before, go on until its certificate ends");
  expect(said.out).toContain("Start it again with a new token, which enrolls it anew");

  control = await mesh.control();
  await eventually("it is called no more", 15_000, async () => (await call("later")) === 503 || undefined);
  expect(await laterCalls()).toBe(200);
  await later.kill("SIGTERM");
  await mesh.sidecar("later", ["--app", `http:${routee.port}`]);
  await eventually("it is called again", 15_000, async () => (await call("later")) === 200 || undefined);
});

test("an administrator who was made after the backup is told how to become one again, not to enroll", async () => {
  const file = join(mesh.folder, "before-alice.backup");
  expect((await mesh.run(["backup", file])).code).toBe(0);
  const asAlice = async (): Promise<Finished> => mesh.run(["services", "--admin", "alice", ...mesh.controlFlag]);
  expect((await mesh.run(["admin", "issue", "alice"])).code).toBe(0);
  expect((await asAlice()).code).toBe(0);
  await control.kill("SIGTERM");
  expect((await mesh.run(["restore", file])).code).toBe(0);
  control = await mesh.control();
  const unknown = await asAlice();
  expect([unknown.code, unknown.err]).toEqual([1, expect.stringContaining("(LEAF_UNKNOWN)")]);
  expect(unknown.err).toContain("\nhint: Run hauberk admin issue alice on the machine with the mesh home\n");
  expect((await mesh.run(["admin", "issue", "alice"])).code).toBe(0);
  expect((await asAlice()).code).toBe(0);
});

test("without a mesh home, a file name, or a store, both say what is missing", async () => {
  for (const command of ["backup", "restore"]) {
    expect(await mesh.run([command])).toMatchObject({
      code: 2,
      err: expect.stringContaining(`hauberk ${command} FILE`),
    });
    const nowhere = await mesh.run([command, "x"], { cwd: "/" });
    expect([nowhere.code, nowhere.err]).toEqual([2, expect.stringContaining("HOME_MISSING")]);
  }
});

async function call(host = "orders"): Promise<number> {
  return (await ask({ port: Number(web.ready["outbound"]), host, path: "/" })).status;
}

function services(): Promise<ServicesAnswer> {
  return mesh.json<ServicesAnswer>(["services", ...mesh.controlFlag]);
}
