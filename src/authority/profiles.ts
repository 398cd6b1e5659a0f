import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import type { Certificate, KeyUsage } from "../x509/certificate.ts";

/**
 * Profiles: what the CA may sign, as data that people review (ca/profiles/*.json). Lifetimes and DNS names are taken
 * from them; what a template fixes (key usages, path length, constraints) is written there as well, and a profile that
 * says otherwise than what would be signed is refused, so that the data never lies.
 */
export interface CaProfile {
  readonly commonName: string;
  readonly key: "P-256";
  readonly lifetimeMs: number;
  readonly keyUsage: readonly KeyUsage[];
  readonly pathLength: number | undefined;
  /** `{trustDomain}` stands for the trust domain. */
  readonly permittedUris: readonly string[] | undefined;
  readonly permittedDns: readonly string[] | undefined;
}

export interface LeafProfile {
  readonly key: "P-256";
  readonly lifetimeMinMs: number;
  readonly lifetimeMaxMs: number;
  readonly backdateMaxMs: number;
  readonly keyUsage: readonly KeyUsage[];
  readonly extendedKeyUsage: readonly string[];
  /** With `{service}` and `{namespace}`. */
  readonly dnsNames: readonly string[];
}

export interface Profiles {
  readonly root: CaProfile;
  readonly intermediate: CaProfile;
  readonly workload: LeafProfile;
  readonly control: LeafProfile;
  readonly admin: LeafProfile;
}

export const profileNames = ["root", "intermediate", "workload", "control", "admin"] as const;
export type ProfileName = (typeof profileNames)[number];

const leafBase = {
  key: "P-256",
  lifetimeMin: "5m",
  lifetimeMax: "7d",
  backdateMax: "60s",
  keyUsage: ["digitalSignature"],
  extendedKeyUsage: ["serverAuth", "clientAuth"],
};

/** What `hauberk init` writes; the repository's own ca/profiles is equal, by test. */
export const defaultProfiles: Readonly<Record<ProfileName, Readonly<Record<string, unknown>>>> = {
  root: {
    profile: "root",
    why: "The trust anchor of the mesh: it signs intermediates only, and its key is opened for that alone.",
    commonName: "Hauberk root",
    key: "P-256",
    lifetime: "3650d",
    keyUsage: ["keyCertSign", "cRLSign"],
  },
  intermediate: {
    profile: "intermediate",
    why: "Signs leaves of this trust domain and nothing else, whoever holds its key.",
    commonName: "Hauberk issuing",
    key: "P-256",
    lifetime: "365d",
    keyUsage: ["keyCertSign", "cRLSign"],
    pathLength: 0,
    permittedUris: ["{trustDomain}"],
    permittedDns: ["mesh"],
  },
  workload: {
    profile: "workload",
    why: "One instance of a service: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE. Shorter lives need lifetimes.allowSeconds.",
    ...leafBase,
    dnsNames: ["{service}.{namespace}.mesh"],
  },
  control: {
    profile: "control",
    why: "The control plane itself: spiffe://TRUST-DOMAIN/hauberk/control, known by that name and by no host name.",
    ...leafBase,
    dnsNames: [],
  },
  admin: {
    profile: "admin",
    why: "An administrator: spiffe://TRUST-DOMAIN/admin/NAME, refused on the data plane.",
    ...leafBase,
    lifetimeMax: "90d",
    dnsNames: [],
  },
};

const caFields = ["commonName", "key", "lifetime", "keyUsage", "pathLength", "permittedUris", "permittedDns"];
const leafFields = ["key", "lifetimeMin", "lifetimeMax", "backdateMax", "keyUsage", "extendedKeyUsage", "dnsNames"];

/** Reads the five texts; refuses with CONFIG_INVALID at the first that is not exactly a profile. */
export function readProfiles(texts: Readonly<Record<ProfileName, string>>): Profiles | Refusal {
  const read: Partial<Record<ProfileName, unknown>> = {};
  for (const name of profileNames) {
    const fields = name === "root" || name === "intermediate" ? caFields : leafFields;
    const profile = readFields(name, texts[name], fields);
    if (isRefusal(profile)) return profile;
    const typed = fields === caFields ? caProfile(profile) : leafProfile(profile);
    if (typeof typed === "string") return wrong(name, typed);
    read[name] = typed;
  }
  return read as unknown as Profiles;
}

type Fields = Readonly<Record<string, unknown>>;

function readFields(name: ProfileName, text: string, fields: readonly string[]): Fields | Refusal {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return wrong(name, "it is not JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return wrong(name, "it is no JSON object");
  const profile = value as Record<string, unknown>;
  const unknown = Object.keys(profile).find((key) => key !== "profile" && key !== "why" && !fields.includes(key));
  if (unknown !== undefined) return wrong(name, `"${unknown}" is no field of it`);
  if (profile["profile"] !== name) return wrong(name, `its field "profile" is not "${name}"`);
  if (profile["key"] !== "P-256") return wrong(name, `its "key" is not "P-256", the only kind that is made`);
  return profile;
}

/** A sentence about what is wrong, where it is no such profile. */
function caProfile(fields: Fields): CaProfile | string {
  const { commonName, pathLength } = fields;
  if (typeof commonName !== "string" || !/^[ -~]{1,64}$/.test(commonName)) {
    return '"commonName" is not 1 to 64 printable characters';
  }
  const lifetimeMs = duration(fields["lifetime"]);
  if (lifetimeMs === undefined) return '"lifetime" is no duration such as 365d';
  if (pathLength !== undefined && !Number.isSafeInteger(pathLength)) return '"pathLength" is no whole number';
  const keyUsage = texts(fields["keyUsage"]);
  if (keyUsage === undefined) return '"keyUsage" is no list of texts';
  const permittedUris = texts(fields["permittedUris"]);
  const permittedDns = texts(fields["permittedDns"]);
  for (const [name, list] of Object.entries({ permittedUris, permittedDns })) {
    if (list === undefined && fields[name] !== undefined) return `"${name}" is no list of texts`;
  }
  return {
    commonName,
    key: "P-256",
    lifetimeMs,
    keyUsage: keyUsage as readonly KeyUsage[],
    pathLength: pathLength as number | undefined,
    permittedUris,
    permittedDns,
  };
}

function leafProfile(fields: Fields): LeafProfile | string {
  const lifetimeMinMs = duration(fields["lifetimeMin"]);
  const lifetimeMaxMs = duration(fields["lifetimeMax"]);
  const backdateMaxMs = duration(fields["backdateMax"]);
  if (lifetimeMinMs === undefined) return '"lifetimeMin" is no duration such as 5m';
  if (lifetimeMaxMs === undefined) return '"lifetimeMax" is no duration such as 7d';
  if (lifetimeMinMs > lifetimeMaxMs) return '"lifetimeMin" is above "lifetimeMax"';
  if (backdateMaxMs === undefined) return '"backdateMax" is no duration such as 60s';
  const keyUsage = texts(fields["keyUsage"]);
  const extendedKeyUsage = texts(fields["extendedKeyUsage"]);
  const dnsNames = texts(fields["dnsNames"]);
  if (keyUsage === undefined) return '"keyUsage" is no list of texts';
  if (extendedKeyUsage === undefined) return '"extendedKeyUsage" is no list of texts';
  if (dnsNames === undefined) return '"dnsNames" is no list of texts';
  return {
    key: "P-256",
    lifetimeMinMs,
    lifetimeMaxMs,
    backdateMaxMs,
    keyUsage: keyUsage as readonly KeyUsage[],
    extendedKeyUsage,
    dnsNames,
  };
}

const units = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

function duration(value: unknown): number | undefined {
  const match = typeof value === "string" ? /^([1-9][0-9]{0,6})([smhd])$/.exec(value) : null;
  return match === null ? undefined : Number(match[1]) * units[match[2] as keyof typeof units];
}

function texts(value: unknown): readonly string[] | undefined {
  return Array.isArray(value) && value.every((entry) => typeof entry === "string") ? value : undefined;
}

const purposes: Readonly<Record<string, string>> = {
  serverAuth: "1.3.6.1.5.5.7.3.1",
  clientAuth: "1.3.6.1.5.5.7.3.2",
};

/** Refuses with CONFIG_INVALID where the certificate that was made is not what its profile says. */
export function checkAgainst(
  name: ProfileName,
  profile: CaProfile | LeafProfile,
  made: { readonly certificate: Certificate; readonly trustDomain: string },
): true | Refusal {
  const { certificate, trustDomain } = made;
  const differs = (field: string, signed: unknown): Refusal =>
    wrong(name, `its "${field}" is not what this release signs: ${JSON.stringify(signed)}`);
  if (!sameSet(profile.keyUsage, [...(certificate.keyUsage ?? [])])) {
    return differs("keyUsage", [...(certificate.keyUsage ?? [])]);
  }
  if ("extendedKeyUsage" in profile) {
    const wanted = profile.extendedKeyUsage.map((purpose) => purposes[purpose] ?? purpose);
    return sameSet(wanted, certificate.extendedKeyUsage ?? [])
      ? true
      : differs("extendedKeyUsage", certificate.extendedKeyUsage);
  }
  if (profile.pathLength !== certificate.pathLength) return differs("pathLength", certificate.pathLength);
  const uris = profile.permittedUris?.map((uri) => uri.replaceAll("{trustDomain}", trustDomain));
  const constraints = certificate.nameConstraints;
  if (!sameSet(uris, constraints?.permittedUris)) return differs("permittedUris", constraints?.permittedUris);
  if (!sameSet(profile.permittedDns, constraints?.permittedDns)) {
    return differs("permittedDns", constraints?.permittedDns);
  }
  return true;
}

function sameSet(a: readonly string[] | undefined, b: readonly string[] | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return a.length === b.length && a.toSorted().join("\n") === b.toSorted().join("\n");
}

function wrong(name: ProfileName, because: string): Refusal {
  return refuse(
    "CONFIG_INVALID",
    `Cannot use the profile ${name}.json: ${because}`,
    "Compare ca/profiles with what hauberk init writes into a new folder",
  );
}
