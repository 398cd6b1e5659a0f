import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { FakeControl } from "../../test/support/fake-control.ts";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { makeTestPki, type TestPki } from "../../test/support/pki.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { HauberkError } from "../base/errors.ts";
import { defaultsOf } from "../base/options.ts";
import { silent, type LogFields } from "../telemetry/logger.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { fingerprintOf } from "../x509/certificate.ts";
import { identityOptions } from "./options.ts";
import { StateFolder } from "./state-folder.ts";
import { WorkloadIdentity } from "./workload-identity.ts";

const base = mkdtempSync(join(tmpdir(), "hauberk-beside-"));
const options = { ...defaultsOf(identityOptions), enrollWaitMs: 0 };
const ends: (() => Promise<void>)[] = [];
let pki: TestPki;
let other: TestPki;
let count = 0;

beforeAll(async () => {
  pki = await makeTestPki({ wallMs: Date.now() });
  other = await makeTestPki({ wallMs: Date.now() });
});
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});
afterAll(() => rmSync(base, { recursive: true }));

interface Line {
  readonly level: string;
  readonly message: string;
  readonly fields: LogFields | undefined;
}

/** An enrolled folder, and how it is opened again beside a token. */
async function enrolled() {
  const clock = new ManualClock(Date.now());
  const control = await FakeControl.start({ pki, clock });
  ends.push(() => control.end());
  const path = join(base, `s${count++}`);
  const logged: Line[] = [];
  const at = (level: string) => (message: string, fields?: LogFields) => void logged.push({ level, message, fields });
  const log = { ...silent, info: at("info"), warn: at("warn"), error: at("error") };
  const open = async (token: string | undefined): Promise<WorkloadIdentity> => {
    const folder = await StateFolder.open(path, { clock, log });
    ends.push(() => folder.close());
    const identity = await WorkloadIdentity.open({
      stateFolder: folder,
      tokenSource: () => Promise.resolve(token),
      tokenAtHand: () => (token === undefined ? undefined : { text: token }),
      clock,
      random: new SeededRandom(count),
      log,
      options,
    });
    ends.push(() => identity.stop());
    return identity;
  };
  const again = async (token: string | undefined): Promise<WorkloadIdentity> => {
    for (const end of ends.splice(1).toReversed()) await end();
    logged.length = 0;
    return open(token);
  };
  const token = control.token();
  const first = await open(token);
  const warned = (): Line[] => logged.filter(({ message }) => message.startsWith("the enrollment token is not used"));
  return { clock, control, token, path, logged, first, again, warned };
}

const serialOf = (identity: WorkloadIdentity): string | undefined => identity.current.read()?.chain[0]?.serial;

test("a token beside an identity of its own mesh is not used, which is said once with what to do", async () => {
  const { control, path, first, again, warned } = await enrolled();
  const identity = await again(control.token({ jti: "t2" }));
  expect(serialOf(identity)).toBe(serialOf(first));
  expect(warned()).toEqual([
    {
      level: "warn",
      message: "the enrollment token is not used as long as the control plane knows the identity on disk",
      fields: {
        id: control.id,
        trustDomain: "mesh.local",
        folder: path,
        because: "an identity on disk comes before a token",
        hint: expect.stringContaining(`remove ${path} or name another with --instance or --state`),
      },
    },
  ]);
});

test("the same unit file with the token that enrolled it is no warning, and without one nothing is said", async () => {
  const { clock, token, again, warned } = await enrolled();
  await again(`${token}\n`);
  expect(warned().map(({ level }) => level)).toEqual(["info"]);
  clock.advance(24 * 3_600_000 * 0.8);
  const renewed = await again(token);
  renewed.start();
  await renewed.renewNow(); // What is kept follows the certificate, and keeps this.
  await again(token);
  expect(warned().map(({ level }) => level)).toEqual(["info"]);
  await again(undefined);
  expect(warned()).toEqual([]);
});

test("a token of another trust domain ends a start whose own certificate has ended, expired or not; before, it is only told", async () => {
  const { clock, control, path, again, warned } = await enrolled();
  const token = control.token({ trustDomain: "shop2", sub: "spiffe://shop2/ns/default/sa/orders" });
  const refusal = {
    code: "USAGE",
    message: `Cannot run "${control.id}" from ${path} with this enrollment token: the token is of the mesh "shop2", and the folder holds an identity of "mesh.local"`,
    hint: expect.stringContaining(`remove ${path}`),
  };
  expect((await again(token)).current.read()).toBeDefined();
  expect(warned()).toMatchObject([{ level: "warn", fields: { because: refusal.message, hint: refusal.hint } }]);
  clock.advance(25 * 3_600_000);
  await expect(again(token)).rejects.toMatchObject(refusal);
  const young = control.token({ trustDomain: "shop2", sub: "spiffe://shop2/ns/default/sa/orders", jti: "t3" });
  await expect(again(young)).rejects.toMatchObject(refusal);
});

test("a token whose pinned root is another mesh's of the same name ends such a start, too, and once expired is only told", async () => {
  const { clock, control, again, warned } = await enrolled();
  const token = control.token({ roots: [fingerprintOf(other.root.der)] });
  expect((await again(token)).current.read()).toBeDefined();
  expect(warned().map(({ level }) => level)).toEqual(["warn"]);
  clock.advance(700_000);
  expect((await again(token)).current.read()).toBeDefined();
  expect(warned().map(({ level }) => level)).toEqual(["warn"]);
  clock.advance(25 * 3_600_000);
  const young = control.token({ roots: [fingerprintOf(other.root.der)], jti: "t3" });
  await expect(again(young)).rejects.toMatchObject({
    code: "USAGE",
    message: expect.stringContaining(`the token's pinned root is that of another mesh "mesh.local" than the folder's`),
  });
});

test("what is no token, and one of another service, are told and change nothing", async () => {
  const { control, again, warned } = await enrolled();
  await again("nonsense");
  expect(warned()[0]?.fields?.["because"]).toMatch(/^Cannot read the enrollment token: /);
  await again(control.token({ sub: "spiffe://mesh.local/ns/default/sa/web" }));
  expect(warned()[0]?.fields?.["because"]).toBe('the token grants "spiffe://mesh.local/ns/default/sa/web"');
});

/** A control plane that was put back to a time before the certificate, and the watch that finds out. */
async function forgotten() {
  const set = await enrolled();
  const { control } = set;
  control.watch = (_request, response) =>
    response.writeHead(403).end('{"code":"LEAF_UNKNOWN","message":"Cannot: unknown","hint":"Enroll"}');
  control.refusals.set("/v1/renew", "LEAF_UNKNOWN");
  const watch = async (identity: WorkloadIdentity): Promise<void> => {
    const current = identity.current.read() as TlsIdentity;
    const events = { down: () => undefined, closed: () => undefined };
    await expect(identity.openWatch(current, events)).rejects.toBeInstanceOf(HauberkError);
    await identity.renewNow(); // Joins what the watch began.
  };
  return { ...set, watch };
}

test("a certificate that the control plane does not know is replaced by the recovery key when the watch says so", async () => {
  const { control, again } = await forgotten();
  const identity = await again(undefined);
  identity.start();
  const before = serialOf(identity);
  control.asked.length = 0;
  const current = identity.current.read() as TlsIdentity;
  const replaced = new Promise((resolve) => identity.current.subscribe(resolve));
  const events = { down: () => undefined, closed: () => undefined };
  await expect(identity.openWatch(current, events)).rejects.toMatchObject({ code: "LEAF_UNKNOWN" });
  await replaced;
  expect(serialOf(identity)).not.toBe(before);
  expect(control.paths()).toEqual(["/v1/watch", "/v1/renew", "/v1/recover/challenge", "/v1/recover"]);
  // It is not taken either: no pause would lie between one and the next.
  await expect(identity.openWatch(identity.current.read() as TlsIdentity, events)).rejects.toBeDefined();
  expect(control.paths().slice(4)).toEqual(["/v1/watch"]);
});

test("where the recovery key is refused too, a token at hand enrolls the sidecar anew", async () => {
  const { control, again, watch } = await forgotten();
  control.refusals.set("/v1/recover/challenge", "RECOVERY_REFUSED");
  const identity = await again(control.token({ jti: "t2" }));
  identity.start();
  const before = serialOf(identity);
  await watch(identity);
  expect(control.paths().at(-1)).toBe("/v1/enroll");
  expect(serialOf(identity)).not.toBe(before);
  expect(identity.current.read()?.id.text).toBe(control.id);
});

test("without a token the certificate stays in use, and the log says what to do", async () => {
  const { control, path, again, watch, logged } = await forgotten();
  control.refusals.set("/v1/recover/challenge", "RECOVERY_REFUSED");
  const identity = await again(undefined);
  identity.start();
  const before = serialOf(identity);
  await watch(identity);
  expect(serialOf(identity)).toBe(before);
  const said = logged.filter(({ level }) => level === "error");
  expect(said.map(({ fields }) => fields?.["code"])).toContain("RECOVERY_REFUSED");
  expect(said[0]?.fields?.["hint"]).toContain("--token-file PATH; or give it another --instance, or remove " + path);
});

test("a token of another service does not make another service of a running one", async () => {
  const { control, again, watch, logged } = await forgotten();
  control.refusals.set("/v1/recover/challenge", "RECOVERY_REFUSED");
  const identity = await again(control.token({ sub: "spiffe://mesh.local/ns/default/sa/web" }));
  identity.start();
  await watch(identity);
  expect(control.paths().filter((asked) => asked === "/v1/enroll")).toHaveLength(1); // The first one.
  expect(logged.map(({ fields }) => fields?.["because"])).toContainEqual(
    expect.stringContaining('it grants "spiffe://mesh.local/ns/default/sa/web"'),
  );
});

test("a damaged identity whose recovery is refused ends the start with the way back", async () => {
  const { control, path, again } = await enrolled();
  control.refusals.set("/v1/recover/challenge", "RECOVERY_REFUSED");
  writeFileSync(join(path, "identity.json"), "garbage");
  await expect(again(undefined)).rejects.toMatchObject({
    code: "RECOVERY_REFUSED",
    message: `Cannot come back from ${path}: it holds no usable identity, and told so`,
    hint: expect.stringContaining("--token-file PATH"),
  });
});

test("a damaged identity waits for a control plane that is away, and ends when that refuses the recovery", async () => {
  const { clock, control, path, again } = await enrolled();
  writeFileSync(join(path, "identity.json"), "garbage");
  await control.end();
  const identity = await again(undefined);
  identity.start();
  const ready = identity.ready();
  const ended = expect(ready).rejects.toMatchObject({ code: "RECOVERY_REFUSED" });
  await control.listen();
  control.refusals.set("/v1/recover/challenge", "RECOVERY_REFUSED");
  clock.advance(Math.max(0, Math.ceil(identity.nextTryAtMs - clock.wallMs())));
  await identity.renewNow();
  await ended;
});
