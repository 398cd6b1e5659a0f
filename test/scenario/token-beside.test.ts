import { cpSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ServicesAnswer } from "../../src/contract/admin.ts";
import { eventually, Mesh, says, type Started } from "../support/mesh.ts";

/** What becomes of an identity on disk and a token that was given beside it. */
let mesh: Mesh;
let second: Mesh;
let control: Started;

beforeAll(async () => {
  [mesh, second] = await Promise.all([Mesh.create(), Mesh.create({ trustDomain: "second.local" })]);
  [control] = await Promise.all([mesh.control(), second.control()]);
});

afterAll(async () => {
  await Promise.all([mesh.end(), second.end()]);
});

const proxy = (service: string, ...more: string[]): string[] => [
  "proxy",
  "--service",
  service,
  "--open-outbound",
  "--inbound-host",
  "127.0.0.1",
  ...more,
];

test("a valid identity of one mesh beside a token of another is told, whether their names differ or not, and goes on", async () => {
  const first = await mesh.sidecar("web");
  await first.kill("SIGTERM");
  const folder = join(mesh.home, "certs", "web", "1");
  const other = await mesh.start(proxy("web", "--token-file", await second.token("web")));
  await says(other, 'the token is of the mesh \\"second.local\\"');
  await says(other, `remove ${folder}`);
  expect(other.ready["ready"]).toBe(true);
  await other.kill("SIGTERM");
  const anew = await Mesh.create({ trustDomain: "mesh.local" });
  try {
    await anew.control();
    const same = await mesh.start(proxy("web", "--token-file", await anew.token("web")));
    await says(same, "the token's pinned root is that of another mesh");
    await same.kill("SIGTERM");
  } finally {
    await anew.end();
  }
});

test("after a restore to a time before it, a sidecar with a new token enrolls anew", async () => {
  const file = join(mesh.folder, "mesh.backup");
  expect((await mesh.run(["backup", file])).code).toBe(0);
  const late = await mesh.sidecar("late");
  await late.kill("SIGTERM");
  await control.kill("SIGTERM");
  expect((await mesh.run(["restore", file])).code).toBe(0);
  control = await mesh.control();

  const unknown = await mesh.start(proxy("late"));
  await eventually("the log says what to do", 15_000, async () =>
    /"code":"RECOVERY_REFUSED".*--token-file PATH/.test(unknown.output()) ? true : undefined,
  );
  const checked = await mesh.run(["check", ...mesh.controlFlag]);
  expect(checked.out).toMatch(
    /the sidecar of late\.default \(pid \d+\) is not served by the control plane: Cannot accept the certificate: .* \(LEAF_UNKNOWN\)\n +hint: Start this sidecar again with a new token/,
  );
  expect(checked.out).not.toContain("does not reach the control plane");
  await unknown.kill("SIGTERM");

  const back = await mesh.start(proxy("late", "--token-file", await mesh.token("late")));
  await eventually("the control plane knows it", 15_000, async () => {
    const { sidecars } = await mesh.json<ServicesAnswer>(["services", ...mesh.controlFlag]);
    return sidecars.some(({ id }) => id.endsWith("/sa/late")) ? true : undefined;
  });
  await back.kill("SIGTERM");
});

test("a damaged identity whose recovery is refused ends hauberk run, and the program is never started", async () => {
  const sound = await mesh.sidecar("hurt");
  const folder = join(mesh.home, "certs", "hurt", "1");
  const copy = join(mesh.folder, "hurt");
  await eventually("the certificate was seen in use", 15_000, async () => {
    const { sidecars } = await mesh.json<ServicesAnswer>(["services", ...mesh.controlFlag]);
    return sidecars.some(({ id }) => id.endsWith("/sa/hurt")) ? true : undefined;
  });
  await sound.kill("SIGTERM");
  cpSync(folder, copy, { recursive: true });
  writeFileSync(join(copy, "identity.json"), "garbage");
  const ended = await mesh.run(["run", "--service", "hurt", "--state", copy, "--", "echo", "started"]);
  expect([ended.code, ended.out]).toEqual([1, ""]);
  expect(ended.err).toContain(`Cannot come back from ${copy}: it holds no usable identity`);
  expect(ended.err).toContain("--token-file PATH");
});
