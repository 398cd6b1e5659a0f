/** A real control plane in a process of its own, for bench/issue. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Authority } from "../../src/authority/authority.ts";
import { makeCa } from "../../src/authority/init.ts";
import { authorityOptions } from "../../src/authority/options.ts";
import { HauberkError, isRefusal } from "../../src/base/errors.ts";
import { defaultsOf } from "../../src/base/options.ts";
import { systemClock, systemRandom } from "../../src/cli/system.ts";
import { ControlPlane } from "../../src/control/control-plane.ts";
import { controlOptions } from "../../src/control/options.ts";
import { registryOptions } from "../../src/registry/options.ts";
import { storageOptions } from "../../src/storage/options.ts";
import { openSqliteStore } from "../../src/storage/sqlite-store.ts";
import { silent } from "../../src/telemetry/logger.ts";

/** Sent once, when both listeners answer. */
export interface Started {
  readonly mesh: number;
  readonly enrollment: number;
  /** Base64 DER. */
  readonly roots: readonly string[];
}

/** The parent sends how many enrollment tokens it wants, one at a time; this comes back. */
export interface Tokens {
  readonly tokens: readonly string[];
}

const trustDomain = "mesh.bench";
const folder = process.argv[2] ?? "";
const caFolder = join(folder, "ca");
mkdirSync(folder, { recursive: true });
const keys = { rootPassphrase: "the root's passphrase", passphrase: "a passphrase for benchmarks" };
const made = await makeCa({ caFolder, trustDomain, ...keys, clock: systemClock, random: systemRandom });
if (isRefusal(made)) throw HauberkError.from(made);

const base = { clock: systemClock, random: systemRandom };
const file = join(folder, "store", "hauberk.sqlite");
const store = await openSqliteStore({ ...base, file, trustDomain, options: defaultsOf(storageOptions) });
const authority = await Authority.open({
  ...base,
  store,
  caFolder,
  passphrase: keys.passphrase,
  options: defaultsOf(authorityOptions),
});
const host = "127.0.0.1";
const control = await ControlPlane.start({
  ...base,
  store,
  authority,
  log: silent,
  release: "0.0.0-bench",
  options: {
    control: {
      ...defaultsOf(controlOptions),
      addressPerSecond: controlOptions.addressPerSecond.max,
      addressBurstMax: controlOptions.addressBurstMax.max,
      identityPerSecond: controlOptions.identityPerSecond.max,
      identityBurstMax: controlOptions.identityBurstMax.max,
    },
    registry: defaultsOf(registryOptions),
    storage: defaultsOf(storageOptions),
  },
  listen: { mesh: { host, port: 0 }, enrollment: { host, port: 0 } },
});

process.on("message", (count: number) => {
  void makeTokens(count).then((answer) => process.send?.(answer));
});
process.once("disconnect", () => void end());
const { mesh, enrollment } = control.addresses;
const started: Started = { mesh: mesh.port, enrollment: enrollment.port, roots: authority.bundle().roots };
process.send?.(started);

async function makeTokens(count: number): Promise<Tokens> {
  const service = { service: "orders", namespace: "default" };
  const lifetimeMs = 3_600_000;
  const asked = Array.from({ length: count }, () => authority.createToken({ service, lifetimeMs, by: "bench" }));
  const tokens = (await Promise.all(asked)).map((token) => {
    if (isRefusal(token)) throw HauberkError.from(token);
    return token.token;
  });
  return { tokens };
}

async function end(): Promise<void> {
  await control.stop({ graceful: false });
  await store.close();
}
