import {
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { HauberkError, isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { randomId, type Random } from "../base/random.ts";
import { syncPath } from "../storage/sync-path.ts";
import { readCertificate, type Certificate } from "../x509/certificate.ts";
import { openKey } from "../x509/encrypted-key.ts";
import { spkiOf } from "../x509/keys.ts";
import type { Issuer } from "../x509/leaf.ts";
import { fromPem } from "../x509/pem.ts";
import { verifyChain } from "../x509/verify.ts";
import type { KeyObject } from "node:crypto";
import { profileNames, readProfiles, type ProfileName, type Profiles } from "./profiles.ts";

/** Names below `ca` of a mesh home. Git ignores all but the profiles. */
export const caFiles = {
  rootCertificate: "root.crt",
  rootKey: "root.key",
  intermediateCertificate: "intermediate.crt",
  intermediateKey: "intermediate.key",
  tokenKey: "token.key",
} as const;

export function profileFile(name: ProfileName): string {
  return join("profiles", `${name}.json`);
}

/** What the authority signs with, opened. The root's key is not among it. */
export interface OpenedCa {
  readonly issuer: Issuer;
  readonly roots: readonly Certificate[];
  readonly tokenKey: KeyObject;
  readonly profiles: Profiles;
}

/** Opens the CA's folder. Throws HOME_MISSING, PASSPHRASE_WRONG, STATE_DAMAGED or CONFIG_INVALID. */
export function openCa(caFolder: string, passphrase: string, trustDomain: string): OpenedCa {
  const profiles = ours(readProfileFiles(caFolder));
  const roots = certificatesIn(caFolder, caFiles.rootCertificate);
  const [certificate] = certificatesIn(caFolder, caFiles.intermediateCertificate) as [Certificate];
  const key = ours(openKey(text(caFolder, caFiles.intermediateKey), passphrase));
  const tokenKey = ours(openKey(text(caFolder, caFiles.tokenKey), passphrase));
  if (!spkiOf(key).equals(certificate.spki))
    throw damaged(caFiles.intermediateKey, "it is not the key of the certificate");
  if (!roots.every((root) => root.ca && root.uris.includes(`spiffe://${trustDomain}`))) {
    throw new HauberkError(
      "CONFIG_INVALID",
      `Cannot open the CA: ${caFiles.rootCertificate} is not of the trust domain ${trustDomain}`,
      "Set trustDomain in hauberk.yaml to what hauberk init was given",
    );
  }
  // In the middle of its own life: an intermediate that has ended still opens, so that what helps can be done.
  const chain = verifyChain({ chain: [certificate], roots, atMs: certificate.notBeforeMs });
  if (isRefusal(chain)) throw damaged(caFiles.intermediateCertificate, chain.message);
  return { issuer: { key, certificate }, roots, tokenKey, profiles };
}

function readProfileFiles(caFolder: string): Profiles | Refusal {
  const texts: Partial<Record<ProfileName, string>> = {};
  for (const name of profileNames) texts[name] = text(caFolder, profileFile(name));
  return readProfiles(texts as Record<ProfileName, string>);
}

function certificatesIn(caFolder: string, file: string): readonly Certificate[] {
  const blocks = fromPem(text(caFolder, file));
  if (isRefusal(blocks)) throw damaged(file, blocks.message);
  return blocks.map(({ der }) => {
    const certificate = readCertificate(der);
    if (isRefusal(certificate)) throw damaged(file, certificate.message);
    return certificate;
  });
}

function text(caFolder: string, file: string): string {
  try {
    return readFileSync(join(caFolder, file), "utf8");
  } catch (thrown) {
    throw new HauberkError(
      "HOME_MISSING",
      `Cannot open the CA: ${join(caFolder, file)} cannot be read`,
      "Run hauberk init, or name the mesh home with --home",
      thrown,
    );
  }
}

function damaged(file: string, because: string): HauberkError {
  return new HauberkError(
    "STATE_DAMAGED",
    `Cannot open the CA: ${file} is not usable: ${because}`,
    "Restore the folder ca from a backup",
  );
}

function ours<T extends object>(value: T | Refusal): T {
  if (isRefusal(value)) throw HauberkError.from(value);
  return value;
}

/** A file of the CA, its path relative to the folder. */
export interface CaFile {
  readonly path: string;
  readonly text: string;
}

/** Writes files that are not there yet, each whole or not at all, 0600 in folders of 0700. Refuses with HOME_EXISTS before the first is written. */
export function writeNewFiles(folder: string, files: readonly CaFile[], random: Random): true | Refusal {
  const taken = firstTaken(
    folder,
    files.map(({ path }) => path),
  );
  if (taken !== undefined) return taken;
  for (const { path, text } of files) {
    const target = join(folder, path);
    mkdirSync(dirname(target), { recursive: true, mode: 0o700 });
    const draft = `${target}.${randomId(random)}`;
    writeDurably(draft, text);
    try {
      moveNew(draft, target);
    } catch (thrown) {
      rmSync(draft, { force: true });
      if ((thrown as { code?: string }).code === "EEXIST") return exists(target);
      throw thrown;
    }
    syncPath(dirname(target));
  }
  return true;
}

/** HOME_EXISTS for the first of these files that is there. */
export function firstTaken(folder: string, paths: readonly string[]): Refusal | undefined {
  const path = paths.find((path) => existsSync(join(folder, path)));
  return path === undefined ? undefined : exists(join(folder, path));
}

function writeDurably(path: string, text: string): void {
  const file = openSync(path, "wx", 0o600);
  try {
    writeSync(file, text);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** A link refuses to replace, a rename does not; some file systems know no links. */
function moveNew(draft: string, target: string): void {
  try {
    linkSync(draft, target);
  } catch (thrown) {
    const code = (thrown as { code?: string }).code ?? "";
    if (!["EPERM", "ENOTSUP", "ENOSYS", "EOPNOTSUPP"].includes(code)) throw thrown;
    renameSync(draft, target);
    return;
  }
  rmSync(draft);
}

function exists(path: string): Refusal {
  return refuse(
    "HOME_EXISTS",
    `Cannot make a CA: ${path} is there already, and keys are never overwritten`,
    "Name another folder, or move the old CA away",
  );
}
