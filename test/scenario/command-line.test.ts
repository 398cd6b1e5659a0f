import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import type { ServicesAnswer } from "../../src/contract/admin.ts";
import { ask, Mesh, says } from "../support/mesh.ts";
import { allow, applyText, freePort, openRoutee, type Routee } from "./routees.ts";

/** What a person sees of a running mesh: lists that can be read, and refusals that say what to do. */
let mesh: Mesh;
let routee: Routee;

beforeAll(async () => {
  mesh = await Mesh.create();
  await mesh.control();
  routee = await openRoutee();
  const app = ["--app", `http:${routee.port}`];
  await mesh.sidecar("orders", [...app, "--instance", "blue", "--allow-exposed", String(routee.port)]);
  await mesh.sidecar("orders", [...app, "--instance", "green"]);
  await applyText(mesh, allow("web", "orders"));
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

test("hauberk services and certs list call instances as their owners do, and whom nobody named by a dash", async () => {
  const { sidecars } = await mesh.json<ServicesAnswer>(["services", ...mesh.controlFlag]);
  expect(new Set(sidecars.map(({ name }) => name))).toEqual(new Set(["blue", "green"]));
  const listed = await mesh.run(["certs", "list", ...mesh.controlFlag]);
  for (const name of ["blue", "green"]) {
    const { instance } = sidecars.find((sidecar) => sidecar.name === name) ?? { instance: "" };
    expect(listed.out).toMatch(new RegExp(`/ns/default/sa/orders +${name} +${instance} `));
  }
  expect(listed.out).toMatch(/\/hauberk\/control +- +- +in .* +-$/m);
  expect(listed.out).toMatch(/\/orders +blue .* +yes$/m);
  expect(listed.out).toMatch(/^SERIAL +IDENTITY +NAME +INSTANCE +ENDS +SEEN\n/);
});

test("a control plane whose addresses were given by flags is known to the other commands of its mesh home", async () => {
  const listed = await mesh.run(["services"]);
  expect([listed.code, listed.err]).toEqual([0, ""]);
});

test("a control plane that cannot write down where it listens says so, serves, and ends when it is told to", async () => {
  const other = await Mesh.create();
  onTestFinished(() => other.end());
  mkdirSync(join(other.home, "certs", "control", "address", "in-the-way"), { recursive: true });
  const control = await other.control();
  await says(control, "they need --control");
  expect((await other.run(["services", ...other.controlFlag])).code).toBe(0);
  expect(await control.kill("SIGTERM")).toBe(0);
});

test("hauberk token list shows the newest token last", async () => {
  const made: string[] = [];
  const url = mesh.controlFlag;
  for (let i = 0; i < 3; i++) {
    const token = await mesh.json<{ id: string }>(["token", "create", "--service", `s${i}`, ...url]);
    made.push(token.id);
  }
  const { tokens } = await mesh.json<{ tokens: { id: string }[] }>(["token", "list", ...url]);
  expect(tokens.slice(-3).map(({ id }) => id)).toEqual(made);
});

test("a time to live that is too long, and a file that is there already, are told before a token is made", async () => {
  const create = ["token", "create", "--service", "orders", ...mesh.controlFlag];
  const before = await mesh.json<{ tokens: object[] }>(["token", "list", ...mesh.controlFlag]);
  const long = await mesh.run([...create, "--ttl", "900d"]);
  expect([long.code, long.err]).toEqual([2, expect.stringContaining("--ttl 900d is longer than 30d")]);
  writeFileSync(join(mesh.home, "taken.token"), "");
  const taken = await mesh.run([...create, "--out", "taken.token"]);
  expect([taken.code, taken.err]).toEqual([2, expect.stringContaining("taken.token exists")]);
  for (const [flag, value] of [
    ["--ttl", "soon"],
    ["--uses", "0"],
  ] as const) {
    const wrong = await mesh.run([...create, flag, value]);
    expect([wrong.code, wrong.err]).toEqual([2, expect.stringContaining(`${flag} ${value} is no `)]);
  }
  const nowhere = await mesh.run([...create, "--out", "nowhere/x.token"]);
  expect([nowhere.code, nowhere.err]).toEqual([2, expect.stringContaining("its folder does not exist")]);
  const after = await mesh.json<{ tokens: object[] }>(["token", "list", ...mesh.controlFlag]);
  expect(after.tokens).toHaveLength(before.tokens.length);
});

test("a token that cannot be written where it was to lie is revoked, and no half of it lies there", async () => {
  const full = `import fs from "node:fs"; import { syncBuiltinESMExports } from "node:module";
    const write = fs.writeFileSync;
    fs.writeFileSync = (file, text, how) => {
      if (typeof file !== "number" || text === "") return write(file, text, how);
      write(file, text.slice(0, 9));
      throw Object.assign(new Error("ENOSPC: no space left"), { code: "ENOSPC" });
    };
    syncBuiltinESMExports();`;
  const create = ["token", "create", "--service", "full", "--out", "full.token", ...mesh.controlFlag];
  const made = await mesh.run(create, {
    environment: { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(full)}` },
  });
  expect([made.code, made.err]).toEqual([2, expect.stringContaining("full.token cannot be written")]);
  expect(existsSync(join(mesh.home, "full.token"))).toBe(false);
  type Row = { grant: string; revokedAtMs: number | null };
  const { tokens } = await mesh.json<{ tokens: Row[] }>(["token", "list", ...mesh.controlFlag]);
  expect(tokens.filter(({ grant }) => grant.endsWith("/full"))).toEqual([
    expect.objectContaining({ revokedAtMs: expect.any(Number) as number }),
  ]);
});

test("hauberk check names a port that was allowed to answer on the network, and does not warn of it", async () => {
  const checked = await mesh.run(["check", "--json", ...mesh.controlFlag]);
  const { findings } = JSON.parse(checked.out) as { findings: { good: boolean; what: string }[] };
  const named = findings.filter(({ what }) => what.includes("--allow-exposed"));
  expect(named).toEqual([expect.objectContaining({ good: true })]);
});

test("hauberk check says of each open door what closes it: hauberk run the outbound port, a Unix socket a --to port", async () => {
  const port = await freePort();
  const args = ["run", "--service", "web", "--instance", "doors", "--token-file", await mesh.token("web")];
  const web = await mesh.start([...args, "--to", `orders=${port}`], { program: ["sleep", "60"] });
  const checked = await mesh.run(["check", "--json", ...mesh.controlFlag]);
  await web.kill("SIGTERM");
  const { findings } = JSON.parse(checked.out) as { findings: { what: string; hint?: string }[] };
  const hintOf = (door: string): string | undefined => findings.find(({ what }) => what.includes(door))?.hint;
  expect(hintOf(`127.0.0.1:${port} (--to orders.default)`)).toMatch(
    /^Let .* a Unix socket .*: --to orders\.default=\/PATH$/,
  );
  expect(hintOf("(outbound)")).toMatch(/^Use hauberk run, whose listener has a secret/);
});

test("a sidecar at --log-level debug tells what it learns, asks and connects to", async () => {
  const web = await mesh.sidecar("web", ["--log-level", "debug"]);
  const answer = await ask({ port: Number(web.ready["outbound"]), host: "orders", path: "/" });
  expect(answer.status).toBe(200);
  for (const line of [
    "a state of the control plane counts",
    "the control plane is asked about a service",
    "a connection to an endpoint stands",
  ])
    await says(web, line);
});

test("a host on the internet is told as what it is", async () => {
  const web = await mesh.start([
    "proxy",
    "--service",
    "web",
    "--instance",
    "2",
    "--token-file",
    await mesh.token("web"),
    "--open-outbound",
  ]);
  const answer = await ask({ port: Number(web.ready["outbound"]), host: "example.com", path: "/" });
  expect([answer.status, answer.headers["x-hauberk-code"]]).toEqual([421, "NOT_IN_MESH"]);
  expect(answer.body).toContain("no_proxy");
});

const own = Object.values(networkInterfaces())
  .flatMap((all) => all ?? [])
  .find(({ family, internal }) => family === "IPv4" && !internal)?.address;

test.skipIf(own === undefined)(
  "--egress reaches the sidecar and its workers (skipped without an address but loopback)",
  async () => {
    const server = createServer((_, response) => response.end("outside"));
    await new Promise<void>((resolve) => server.listen(0, own, resolve));
    const { port } = server.address() as AddressInfo;
    const args = ["proxy", "--service", "web", "--token-file", await mesh.token("web"), "--open-outbound"];
    const listed = ["--egress", `${own}:${port}`, "--workers", "2", "--instance", "3"];
    const web = await mesh.start([...args, ...listed]);
    const outbound = Number(web.ready["outbound"]);
    const answer = await ask({ port: outbound, host: `${own}:${port}`, path: "/" });
    const other = await ask({ port: outbound, host: `${own}:${port + 1}`, path: "/" });
    expect([answer.status, answer.body, other.headers["x-hauberk-code"]]).toEqual([200, "outside", "NOT_IN_MESH"]);
    server.closeAllConnections();
    server.close();
    const refused = await mesh.run([...args, "--instance", "4", "--egress", "orders"]);
    expect([refused.code, refused.err]).toEqual([2, expect.stringContaining("a bare name is a service of the mesh")]);
  },
);
