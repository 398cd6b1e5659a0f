import { createPrivateKey, type KeyObject } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { isRefusal, messageOf, refuse, type Refusal } from "../base/errors.ts";
import { readCertificate, type Certificate } from "../x509/certificate.ts";
import { fromPem } from "../x509/pem.ts";
import { sha256 } from "./state-folder.ts";

/** An identity as it lies in a state folder, read beside the sidecar that holds the folder's lock. */
export interface PeekedIdentity {
  readonly id: string;
  readonly instance: string;
  readonly key: KeyObject;
  readonly chain: readonly Certificate[];
  readonly roots: readonly Certificate[];
  readonly issuedAtMs: number;
  readonly notAfterMs: number;
}

/** A renewal may replace the files between two reads: then the next look finds the new ones. */
const attempts = 3;

/** STATE_DAMAGED where the folder holds no whole identity. */
export function peekIdentity(folder: string): PeekedIdentity | Refusal {
  let because = "";
  for (let attempt = 0; attempt < attempts; attempt++) {
    try {
      return readOnce(folder);
    } catch (thrown) {
      because = messageOf(thrown);
    }
  }
  return refuse(
    "STATE_DAMAGED",
    `Cannot read an identity in ${folder}: ${because}`,
    "Name the state folder of an enrolled sidecar, such as certs/orders/1",
  );
}

function readOnce(folder: string): PeekedIdentity {
  const manifest = JSON.parse(bodyOf(folder, "identity.json")) as Record<string, unknown>;
  const part = (name: "key" | "chain" | "roots"): string => {
    const text = bodyOf(folder, `${name}.${String(manifest["number"])}.pem`);
    if (sha256(text) !== manifest[name]) throw new Error(`its ${name} is not the one that identity.json names`);
    return text;
  };
  return {
    id: String(manifest["id"]),
    instance: String(manifest["instance"]),
    key: createPrivateKey(part("key")),
    chain: certificatesOf(part("chain")),
    roots: certificatesOf(part("roots")),
    issuedAtMs: Number(manifest["issuedAtMs"]),
    notAfterMs: Number(manifest["notAfterMs"]),
  };
}

function bodyOf(folder: string, name: string): string {
  const text = readFileSync(join(folder, name), "utf8");
  const end = text.indexOf("\n") + 1;
  if (text.slice(0, end) !== `# hauberk-state 1 sha256:${sha256(text.slice(end))}\n`)
    throw new Error(`the digest of ${name} does not match`);
  return text.slice(end);
}

function certificatesOf(text: string): Certificate[] {
  const blocks = fromPem(text);
  if (isRefusal(blocks)) throw new Error(blocks.message);
  return blocks.map((block) => {
    const certificate = readCertificate(block.der);
    if (isRefusal(certificate)) throw new Error(certificate.message);
    return certificate;
  });
}
