import { DerError, type DerReader, DerReader as Reader, contextTag, tags } from "./der-reader.ts";
import { readGeneralNames, readNameConstraints, type NameConstraints } from "./names.ts";

/** The bits of RFC 5280 §4.2.1.3, by the names that the standard gives them. */
export type KeyUsage =
  | "digitalSignature"
  | "nonRepudiation"
  | "keyEncipherment"
  | "dataEncipherment"
  | "keyAgreement"
  | "keyCertSign"
  | "cRLSign"
  | "encipherOnly"
  | "decipherOnly";

/** What the extensions of a certificate say (RFC 5280 §4.2), with what holds where they say nothing. */
export interface Extensions {
  readonly uris: readonly string[];
  readonly dnsNames: readonly string[];
  readonly sanCritical: boolean;
  readonly ca: boolean;
  readonly pathLength: number | undefined;
  readonly keyUsage: ReadonlySet<KeyUsage> | undefined;
  readonly keyUsageCritical: boolean;
  /** OIDs in dotted form. */
  readonly extendedKeyUsage: readonly string[] | undefined;
  readonly nameConstraints: NameConstraints | undefined;
  /** Lower-case hexadecimal digits. */
  readonly subjectKeyId: string | undefined;
  readonly authorityKeyId: string | undefined;
}

type Building = { -readonly [K in keyof Extensions]: Extensions[K] };

export const noExtensions: Extensions = Object.freeze({
  uris: [],
  dnsNames: [],
  sanCritical: false,
  ca: false,
  pathLength: undefined,
  keyUsage: undefined,
  keyUsageCritical: false,
  extendedKeyUsage: undefined,
  nameConstraints: undefined,
  subjectKeyId: undefined,
  authorityKeyId: undefined,
});

export const extensionOids = {
  subjectKeyId: "2.5.29.14",
  keyUsage: "2.5.29.15",
  subjectAltName: "2.5.29.17",
  basicConstraints: "2.5.29.19",
  nameConstraints: "2.5.29.30",
  authorityKeyId: "2.5.29.35",
  extendedKeyUsage: "2.5.29.37",
} as const;

export const keyUsageBits: readonly KeyUsage[] = [
  "digitalSignature",
  "nonRepudiation",
  "keyEncipherment",
  "dataEncipherment",
  "keyAgreement",
  "keyCertSign",
  "cRLSign",
  "encipherOnly",
  "decipherOnly",
];

/** One reader per extension that is understood; any other one, if critical, refuses the certificate. */
const readers: Readonly<Record<string, (value: DerReader, into: Building, critical: boolean) => void>> = {
  [extensionOids.subjectKeyId]: (value, into) => {
    into.subjectKeyId = keyId(value.content(tags.octetString));
  },
  [extensionOids.keyUsage]: (value, into, critical) => {
    into.keyUsage = readKeyUsage(value);
    into.keyUsageCritical = critical;
  },
  [extensionOids.subjectAltName]: (value, into, critical) => {
    const names = readGeneralNames(value.enter(tags.sequence));
    into.uris = names.uris;
    into.dnsNames = names.dnsNames;
    into.sanCritical = critical;
  },
  [extensionOids.basicConstraints]: (value, into) => readBasicConstraints(value.enter(tags.sequence), into),
  [extensionOids.nameConstraints]: (value, into) => {
    into.nameConstraints = readNameConstraints(value.enter(tags.sequence));
  },
  [extensionOids.authorityKeyId]: (value, into) => {
    const fields = value.enter(tags.sequence);
    if (fields.tag === contextTag(0, false)) into.authorityKeyId = keyId(fields.content(contextTag(0, false)));
    while (!fields.done) fields.skip();
  },
  [extensionOids.extendedKeyUsage]: (value, into) => {
    const purposes = value.enter(tags.sequence);
    const oids: string[] = [];
    while (!purposes.done) oids.push(purposes.oid());
    if (oids.length === 0) throw new DerError("its extended key usage is empty");
    into.extendedKeyUsage = oids;
  },
};

/** Reads the content of `Extensions`. Throws DerError. */
export function readExtensions(list: DerReader): Extensions {
  if (list.done) throw new DerError("its list of extensions is empty");
  const into: Building = { ...noExtensions };
  const seen = new Set<string>();
  while (!list.done) {
    const extension = list.enter(tags.sequence);
    const oid = extension.oid();
    if (seen.has(oid)) throw new DerError(`extension ${oid} is there twice`);
    seen.add(oid);
    const critical = extension.tag === tags.boolean && readCritical(extension);
    const value = new Reader(extension.content(tags.octetString));
    extension.finish("an extension");
    const read = Object.hasOwn(readers, oid) ? readers[oid] : undefined;
    if (read === undefined) {
      if (critical) throw new DerError(`extension ${oid} is critical and not known here`);
      continue;
    }
    read(value, into, critical);
    value.finish(`extension ${oid}`);
  }
  if (into.pathLength !== undefined && !into.ca) throw new DerError("it has a path length and is no authority");
  return into;
}

function readCritical(extension: DerReader): boolean {
  if (!extension.boolean()) throw new DerError("a default is written out");
  return true;
}

function readKeyUsage(value: DerReader): ReadonlySet<KeyUsage> {
  const usages = new Set<KeyUsage>();
  for (const bit of value.namedBits()) {
    const usage = keyUsageBits[bit];
    if (usage === undefined) throw new DerError("its key usage has a bit without a meaning");
    usages.add(usage);
  }
  if (usages.size === 0) throw new DerError("its key usage is empty");
  return usages;
}

function readBasicConstraints(fields: DerReader, into: Building): void {
  if (fields.tag === tags.boolean) {
    if (!fields.boolean()) throw new DerError("a default is written out");
    into.ca = true;
  }
  if (fields.tag === tags.integer) into.pathLength = fields.smallInteger();
  fields.finish("the basic constraints");
}

function keyId(octets: Buffer): string {
  if (octets.length === 0 || octets.length > 64) throw new DerError("a key identifier has not 1 to 64 octets");
  return octets.toString("hex");
}
