import { generateKeyPairSync } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { Authority } from "../authority/authority.ts";
import { authorityOptions } from "../authority/options.ts";
import { HauberkError, isRefusal } from "../base/errors.ts";
import { makeFolder } from "../identity/make-folder.ts";
import { storageOptions } from "../storage/options.ts";
import { openSqliteStore } from "../storage/sqlite-store.ts";
import type { Store } from "../storage/store.ts";
import { fingerprintOf } from "../x509/certificate.ts";
import { writeCsr } from "../x509/csr.ts";
import { fromPem } from "../x509/pem.ts";
import { writeAdmin } from "./admin-client.ts";
import type { Input } from "./command.ts";
import { readConfig, type Config } from "./config.ts";
import { readSecretFile, stateHome, type Home } from "./home.ts";
import { settle } from "./settings.ts";
import { systemClock, systemRandom } from "./system.ts";

/** Opening the store and the authority of a mesh home, for `control`, `init` and `admin issue`. */
export interface Opening {
  readonly input: Input;
  readonly home: Home;
  /** Of the issuing key; read from where `init` put it by default. */
  readonly passphrase?: string;
}

export interface Opened {
  readonly config: Config;
  readonly store: Store;
  readonly authority: Authority;
}

export async function openAuthority(opening: Opening): Promise<Opened> {
  const { input, home } = opening;
  const config = readConfig(home.configFile);
  const { text: passphrase, path } =
    opening.passphrase === undefined ? findPassphrase(input, home) : { text: opening.passphrase };
  const sources = { environment: input.environment, file: config.options };
  const file = resolve(home.folder, config.store);
  makeFolder(dirname(file), { mode: 0o700, what: "make the folder of the store," });
  const store = await openSqliteStore({
    file,
    trustDomain: config.trustDomain,
    clock: systemClock,
    random: systemRandom,
    options: settle(storageOptions, sources),
  });
  try {
    const authority = await Authority.open({
      store,
      caFolder: home.ca,
      passphrase,
      clock: systemClock,
      random: systemRandom,
      options: {
        ...settle(authorityOptions, sources),
        ...(config.leafLifetimeMs === undefined ? {} : { leafLifetimeMs: config.leafLifetimeMs }),
        ...(config.tokenLifetimeMs === undefined ? {} : { tokenLifetimeMs: config.tokenLifetimeMs }),
        ...(config.allowSeconds ? { allowSeconds: true } : {}),
      },
    });
    return { config, store, authority };
  } catch (thrown) {
    await store.close();
    if (path === undefined || !(thrown instanceof HauberkError) || thrown.code !== "PASSPHRASE_WRONG") throw thrown;
    throw new HauberkError(
      thrown.code,
      `Cannot open the keys in ${home.ca}: the passphrase in ${path} is not theirs`,
      "Name the file of the issuing passphrase, which hauberk init said, with --passphrase-file",
      thrown,
    );
  }
}

export async function withAuthority<T>(opening: Opening, work: (authority: Authority) => Promise<T>): Promise<T> {
  const { store, authority } = await openAuthority(opening);
  try {
    return await work(authority);
  } finally {
    await store.close();
  }
}

/** An administrator's SVID, in the files that the other commands use; gives the file's name. */
export async function issueAdmin(authority: Authority, home: Home, name: string): Promise<string> {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const issued = await authority.issueAdmin({
    name,
    csr: writeCsr(privateKey).toString("base64"),
    by: "passphrase",
    replace: true,
  });
  if (isRefusal(issued)) throw HauberkError.from(issued);
  return writeAdmin(join(home.certs, "admin"), name, { key: privateKey, chain: issued.chain, roots: issued.roots });
}

export function passphrasesFolder(state: string): string {
  return join(state, "passphrases");
}

/** Named after the root it belongs to: several mesh homes of one user do not meet. */
export function passphraseFile(state: string, rootFingerprint: string, name: string): string {
  return join(passphrasesFolder(state), rootFingerprint.slice(0, 16), name);
}

function findPassphrase(input: Input, home: Home): { readonly text: string; readonly path?: string } {
  const named = input.flag("passphrase-file") ?? input.environment["HAUBERK_PASSPHRASE_FILE"];
  const path =
    named === undefined
      ? passphraseFile(stateHome(input.environment), rootFingerprint(home), "issuing.passphrase")
      : resolve(input.cwd, named);
  if (!existsSync(path)) {
    throw new HauberkError(
      "PASSPHRASE_MISSING",
      `Cannot open the issuing key: its passphrase is not in ${path}`,
      "Name its file with --passphrase-file, or set XDG_STATE_HOME as it was when hauberk init ran",
    );
  }
  return { text: readSecretFile(path, "the passphrase", () => ""), path };
}

function rootFingerprint(home: Home): string {
  const file = join(home.ca, "root.crt");
  if (!existsSync(file)) {
    throw new HauberkError(
      "HOME_MISSING",
      `Cannot use ${home.folder}: it has no CA, ca/root.crt is missing`,
      // Init would refuse a folder in which keys lie.
      existsSync(join(home.ca, "root.key")) || existsSync(join(home.ca, "intermediate.crt"))
        ? "Other files of the CA are there: put ca/root.crt back from a backup"
        : "Run hauberk init there",
    );
  }
  const blocks = fromPem(readFileSync(file, "utf8"));
  const first = isRefusal(blocks) ? undefined : blocks[0];
  if (first === undefined)
    throw new HauberkError(
      "STATE_DAMAGED",
      `Cannot read ${file}: it holds no certificate`,
      "Put back the file from a backup",
    );
  return fingerprintOf(first.der);
}
