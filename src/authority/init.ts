import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { KeyObject } from "node:crypto";
import type { Clock } from "../base/clock.ts";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import type { Random } from "../base/random.ts";
import { isTrustDomain } from "../base/spiffe-id.ts";
import { makeIntermediate, makeRoot } from "../x509/ca-certificate.ts";
import { fingerprintOf, type Certificate } from "../x509/certificate.ts";
import { sealKey } from "../x509/encrypted-key.ts";
import { generateKey } from "../x509/keys.ts";
import { serialFrom } from "../x509/leaf.ts";
import { toPem } from "../x509/pem.ts";
import { caFiles, firstTaken, profileFile, writeNewFiles, type CaFile } from "./ca-files.ts";
import {
  checkAgainst,
  defaultProfiles,
  profileNames,
  readProfiles,
  type ProfileName,
  type Profiles,
} from "./profiles.ts";

/** Making a CA: root and issuing intermediate, their keys sealed. The only file of this room that loads @peculiar/x509. */
export interface NewCa {
  /** `ca` of a mesh home; profiles that are there already are used as they are. */
  readonly caFolder: string;
  readonly trustDomain: string;
  /** The root's own: `hauberk control` never asks for it. */
  readonly rootPassphrase: string;
  /** Seals the intermediate's key and the token key. */
  readonly passphrase: string;
  readonly clock: Clock;
  readonly random: Random;
}

export interface MadeCa {
  /** SHA-256 of the root's DER, lower-case hexadecimal: what tokens pin. */
  readonly rootFingerprint: string;
  readonly rootNotAfterMs: number;
  readonly intermediateNotAfterMs: number;
  /** What was written, relative to the CA's folder. */
  readonly files: readonly string[];
}

/** Refuses with HOME_EXISTS, CONFIG_INVALID (a profile, the trust domain) or PASSPHRASE_MISSING; nothing is written then. */
export async function makeCa(wish: NewCa): Promise<MadeCa | Refusal> {
  if (!isTrustDomain(wish.trustDomain)) {
    return refuse(
      "CONFIG_INVALID",
      `Cannot make a CA: "${wish.trustDomain}" is no trust domain of 1 to 255 of a-z, 0-9, ".", "_", "-"`,
      "Choose a name such as mesh.example",
    );
  }
  if (wish.passphrase === "" || wish.rootPassphrase === "") {
    return refuse("PASSPHRASE_MISSING", "Cannot make a CA: a passphrase is empty", "Give both passphrases");
  }
  const taken = firstTaken(wish.caFolder, Object.values(caFiles));
  if (taken !== undefined) return taken;
  const texts = profileTexts(wish.caFolder);
  const profiles = readProfiles(texts.all);
  if (isRefusal(profiles)) return profiles;
  const made = await makeCertificates(wish, profiles);
  if (isRefusal(made)) return made;
  const files = [...texts.missing, ...sealed(wish, made)];
  const written = writeNewFiles(wish.caFolder, files, wish.random);
  if (isRefusal(written)) return written;
  return {
    rootFingerprint: fingerprintOf(made.root.der),
    rootNotAfterMs: made.root.notAfterMs,
    intermediateNotAfterMs: made.intermediate.notAfterMs,
    files: files.map(({ path }) => path),
  };
}

function profileTexts(caFolder: string): { all: Record<ProfileName, string>; missing: CaFile[] } {
  const all: Partial<Record<ProfileName, string>> = {};
  const missing: CaFile[] = [];
  for (const name of profileNames) {
    const path = profileFile(name);
    if (existsSync(join(caFolder, path))) {
      all[name] = readFileSync(join(caFolder, path), "utf8");
    } else {
      all[name] = profileText(name);
      missing.push({ path, text: profileText(name) });
    }
  }
  return { all: all as Record<ProfileName, string>, missing };
}

/** A default profile as it is written. */
export function profileText(name: ProfileName): string {
  return `${JSON.stringify(defaultProfiles[name], undefined, 2)}\n`;
}

interface Certificates {
  readonly root: Certificate;
  readonly rootKey: KeyObject;
  readonly intermediate: Certificate;
  readonly intermediateKey: KeyObject;
}

async function makeCertificates(wish: NewCa, profiles: Profiles): Promise<Certificates | Refusal> {
  const { trustDomain, random } = wish;
  const atMs = wish.clock.wallMs();
  const rootKey = generateKey();
  const intermediateKey = generateKey();
  const common = (profile: Profiles["root"], key: KeyObject) => ({
    trustDomain,
    commonName: profile.commonName,
    // Backdated like a leaf, so that a machine whose clock is behind trusts it as well.
    notBeforeMs: atMs - 60_000,
    notAfterMs: atMs + profile.lifetimeMs,
    serial: serialFrom(random.bytes(16)),
    key,
  });
  if (profiles.intermediate.lifetimeMs > profiles.root.lifetimeMs) {
    return refuse(
      "CONFIG_INVALID",
      "Cannot make a CA: by its profile the intermediate outlives the root",
      "Shorten lifetime in ca/profiles/intermediate.json",
    );
  }
  const root = await makeRoot(common(profiles.root, rootKey));
  const rootIsGood = checkAgainst("root", profiles.root, { certificate: root, trustDomain });
  if (isRefusal(rootIsGood)) return rootIsGood;
  const issuer = { key: rootKey, certificate: root };
  const intermediate = await makeIntermediate(common(profiles.intermediate, intermediateKey), issuer);
  const isGood = checkAgainst("intermediate", profiles.intermediate, { certificate: intermediate, trustDomain });
  if (isRefusal(isGood)) return isGood;
  return { root, rootKey, intermediate, intermediateKey };
}

function sealed(wish: NewCa, made: Certificates): CaFile[] {
  return [
    { path: caFiles.rootKey, text: sealKey(made.rootKey, wish.rootPassphrase) },
    { path: caFiles.rootCertificate, text: toPem("CERTIFICATE", made.root.der) },
    { path: caFiles.intermediateKey, text: sealKey(made.intermediateKey, wish.passphrase) },
    { path: caFiles.intermediateCertificate, text: toPem("CERTIFICATE", made.intermediate.der) },
    { path: caFiles.tokenKey, text: sealKey(generateKey(), wish.passphrase) },
  ];
}
