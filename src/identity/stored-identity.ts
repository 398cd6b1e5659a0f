import { createPrivateKey, type KeyObject } from "node:crypto";
import { isRefusal, messageOf, refuse, type Refusal } from "../base/errors.ts";
import { parseSpiffeId } from "../base/spiffe-id.ts";
import { limits } from "../contract/limits.ts";
import { der, integer, list, moment, object, parseJson, reading, text, type Reader } from "../contract/shape.ts";
import type { Certificate } from "../x509/certificate.ts";
import { readCertificate } from "../x509/certificate.ts";
import { spkiOf } from "../x509/keys.ts";
import { fromPem, toPem } from "../x509/pem.ts";
import { readAll, type Issued } from "./issued.ts";
import { sha256, type StateFolder } from "./state-folder.ts";

/**
 * How an identity lies in a state folder: key, chain and roots as PEM under a number of their own, and one small file that
 * names the number and the digest of each. Renaming that file into place is the moment at which a renewal counts on disk.
 */
const manifestName = "identity.json";
const recoveryName = "recovery.json";
const enrollingName = "enrolling.json";
const parts = ["key", "chain", "roots"] as const;

/** An identity as it is kept: with the number drawn for its renewal, which holds across restarts. */
export interface Stored {
  readonly issued: Issued;
  readonly draw: number;
}

/** What brings an instance back after its certificate ended, whatever became of the rest of the folder. */
export interface Recovery {
  readonly instance: string;
  readonly id: string;
  readonly trustDomain: string;
  readonly key: KeyObject;
  readonly enrollmentUrls: readonly string[];
  readonly roots: readonly Certificate[];
  /** SHA-256 of the token that it was enrolled with, by which the same one is known again; the token itself is not kept. */
  readonly tokenDigest?: string;
}

/** The keys of an enrollment that has not been answered: the same token with the same key gets the same certificate again. */
export interface Enrolling {
  /** SHA-256 of the token's text; the token itself is not kept. */
  readonly tokenDigest: string;
  readonly key: KeyObject;
  readonly recoveryKey: KeyObject;
}

interface Manifest {
  readonly number: number;
  readonly instance: string;
  readonly id: string;
  readonly bundleSequence: number;
  readonly issuedAtMs: number;
  readonly notAfterMs: number;
  readonly drawMillionths: number;
  readonly controlUrls: readonly string[];
  readonly enrollmentUrls: readonly string[];
  readonly key: string;
  readonly chain: string;
  readonly roots: string;
}

const fileBytesMax = 1024 * 1024;
const digest = text(64, /^[0-9a-f]{64}$/, "a SHA-256");
const urls = list(text(2_048), limits.urlsMax);
const instance = text(64);
const id = text(2_048);
const pem = text(4_096);

const manifestOf: Reader<Manifest> = object({
  number: integer(1, Number.MAX_SAFE_INTEGER),
  instance,
  id,
  bundleSequence: integer(0, Number.MAX_SAFE_INTEGER),
  issuedAtMs: moment,
  notAfterMs: moment,
  drawMillionths: integer(0, 999_999),
  controlUrls: urls,
  enrollmentUrls: urls,
  key: digest,
  chain: digest,
  roots: digest,
});

const recoveryOf = object(
  {
    instance,
    id,
    trustDomain: text(255),
    key: pem,
    enrollmentUrls: urls,
    roots: list(der, limits.rootsMax),
  },
  { tokenDigest: digest },
);

const enrollingOf = object({ tokenDigest: digest, key: pem, recoveryKey: pem });

/** Keeps an identity; when this returns it survives a power cut, and what was there before is gone. */
export async function writeIdentity(folder: StateFolder, stored: Stored): Promise<void> {
  const { issued, draw } = stored;
  const number = highestNumber(await folder.names()) + 1;
  const texts = {
    key: issued.key.export({ type: "pkcs8", format: "pem" }),
    chain: pemOf(issued.chain),
    roots: pemOf(issued.roots),
  };
  for (const part of parts) await folder.write(`${part}.${number}.pem`, texts[part]);
  const manifest: Manifest = {
    number,
    instance: issued.instance,
    id: issued.id.text,
    bundleSequence: issued.bundleSequence,
    issuedAtMs: issued.issuedAtMs,
    notAfterMs: issued.notAfterMs,
    drawMillionths: Math.floor(draw * 1_000_000),
    controlUrls: issued.controlUrls,
    enrollmentUrls: issued.enrollmentUrls,
    key: sha256(texts.key),
    chain: sha256(texts.chain),
    roots: sha256(texts.roots),
  };
  await folder.write(manifestName, JSON.stringify(manifest));
  await removeOthers(folder, number);
}

/** The identity on disk; undefined where there is none, or one that cannot be used: it is set aside and logged. */
export async function readIdentity(folder: StateFolder): Promise<Stored | undefined> {
  const body = await folder.read(manifestName);
  if (body === undefined) return undefined;
  const manifest = readJson("identity file", body, manifestOf);
  const stored = isRefusal(manifest) ? manifest : await assemble(folder, manifest);
  return isRefusal(stored) ? folder.setAside(manifestName, stored.message) : stored;
}

async function assemble(folder: StateFolder, manifest: Manifest): Promise<Stored | Refusal> {
  const texts: Record<string, string> = {};
  for (const part of parts) {
    const body = await folder.read(`${part}.${manifest.number}.pem`);
    if (body === undefined || sha256(body) !== manifest[part]) return damaged(`its ${part} is missing or another one`);
    texts[part] = body;
  }
  const chain = certificatesOf(texts["chain"] ?? "");
  if (isRefusal(chain)) return chain;
  const roots = certificatesOf(texts["roots"] ?? "");
  if (isRefusal(roots)) return roots;
  const key = keyOf(texts["key"] ?? "");
  if (isRefusal(key)) return key;
  const parsed = parseSpiffeId(manifest.id);
  if (isRefusal(parsed)) return parsed;
  const leaf = chain[0];
  if (leaf === undefined || !leaf.spki.equals(spkiOf(key))) return damaged("its key is not its certificate's");
  const { instance, bundleSequence, issuedAtMs, notAfterMs, controlUrls, enrollmentUrls } = manifest;
  const rest = { instance, bundleSequence, issuedAtMs, notAfterMs, controlUrls, enrollmentUrls };
  return { issued: { ...rest, id: parsed, key, chain, roots }, draw: manifest.drawMillionths / 1_000_000 };
}

export async function writeRecovery(folder: StateFolder, recovery: Recovery): Promise<void> {
  const body = {
    ...recovery,
    key: recovery.key.export({ type: "pkcs8", format: "pem" }),
    roots: recovery.roots.map((root) => root.der.toString("base64")),
  };
  await folder.write(recoveryName, JSON.stringify(body));
}

export async function readRecovery(folder: StateFolder): Promise<Recovery | undefined> {
  const body = await folder.read(recoveryName);
  if (body === undefined) return undefined;
  const read = readJson("recovery file", body, recoveryOf);
  if (isRefusal(read)) return folder.setAside(recoveryName, read.message);
  const key = keyOf(read.key);
  const roots = readAll(read.roots);
  if (isRefusal(key)) return folder.setAside(recoveryName, key.message);
  if (isRefusal(roots)) return folder.setAside(recoveryName, roots.message);
  return { ...read, key, roots };
}

export async function writeEnrolling(folder: StateFolder, enrolling: Enrolling): Promise<void> {
  const body = {
    tokenDigest: enrolling.tokenDigest,
    key: enrolling.key.export({ type: "pkcs8", format: "pem" }),
    recoveryKey: enrolling.recoveryKey.export({ type: "pkcs8", format: "pem" }),
  };
  await folder.write(enrollingName, JSON.stringify(body));
}

export async function readEnrolling(folder: StateFolder): Promise<Enrolling | undefined> {
  const body = await folder.read(enrollingName);
  if (body === undefined) return undefined;
  const read = readJson("enrollment file", body, enrollingOf);
  if (isRefusal(read)) return folder.setAside(enrollingName, read.message);
  const key = keyOf(read.key);
  const recoveryKey = keyOf(read.recoveryKey);
  if (isRefusal(key)) return folder.setAside(enrollingName, key.message);
  if (isRefusal(recoveryKey)) return folder.setAside(enrollingName, recoveryKey.message);
  return { tokenDigest: read.tokenDigest, key, recoveryKey };
}

export function removeEnrolling(folder: StateFolder): Promise<void> {
  return folder.remove(enrollingName);
}

function readJson<T>(what: string, body: string, reader: Reader<T>): T | Refusal {
  const parsed = parseJson(what, body, fileBytesMax);
  return isRefusal(parsed) ? parsed : reading(what, reader, parsed.value);
}

function keyOf(text: string): KeyObject | Refusal {
  try {
    return createPrivateKey(text);
  } catch (thrown) {
    return damaged(`its key cannot be read: ${messageOf(thrown)}`);
  }
}

function certificatesOf(text: string): Certificate[] | Refusal {
  const blocks = fromPem(text);
  if (isRefusal(blocks)) return blocks;
  const read: Certificate[] = [];
  for (const { label, der } of blocks) {
    if (label !== "CERTIFICATE") return damaged(`it holds a ${label} among its certificates`);
    const certificate = readCertificate(der);
    if (isRefusal(certificate)) return certificate;
    read.push(certificate);
  }
  return read;
}

function pemOf(certificates: readonly Certificate[]): string {
  return certificates.map((certificate) => toPem("CERTIFICATE", certificate.der)).join("");
}

function damaged(because: string): Refusal {
  return refuse(
    "STATE_DAMAGED",
    `Cannot use the identity on disk: ${because}`,
    "Enroll again with a new token: hauberk token create --service NAME",
  );
}

const numbered = /^(?:key|chain|roots)\.(\d+)\.pem$/;

function highestNumber(names: readonly string[]): number {
  return names.reduce((highest, name) => Math.max(highest, Number(numbered.exec(name)?.[1] ?? 0)), 0);
}

async function removeOthers(folder: StateFolder, number: number): Promise<void> {
  for (const name of await folder.names()) {
    const found = numbered.exec(name)?.[1];
    if (found !== undefined && Number(found) !== number) await folder.remove(name);
  }
}
