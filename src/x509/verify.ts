import { verify, type KeyObject } from "node:crypto";
import { isRefusal, refuse, type FailureCode, type Refusal } from "../base/errors.ts";
import { parseSpiffeId, type SpiffeId } from "../base/spiffe-id.ts";
import { fingerprintOf, tryPublicKeyOf, type Certificate } from "./certificate.ts";
import { forbiddenName } from "./names.ts";

/** A peer whose certificate stood every check. */
export interface VerifiedPeer {
  readonly id: SpiffeId;
  readonly leaf: Certificate;
}

const chainMax = 4;
const serverAuth = "1.3.6.1.5.5.7.3.1";
const clientAuth = "1.3.6.1.5.5.7.3.2";
const anyPurpose = "2.5.29.37.0";

/**
 * RFC 5280 §6 for chains as TLS sends them: leaf first, each signed by the next, the last by a root (or the root
 * itself). At most four certificates. Stricter than the RFC in two points that no mesh needs: a self-issued
 * certificate counts toward the path length, and name constraints bind it too.
 * Refuses with PEER_UNTRUSTED, or PEER_EXPIRED where only the time is wrong.
 */
export function verifyChain(input: {
  readonly chain: readonly Certificate[];
  readonly roots: readonly Certificate[];
  readonly atMs: number;
}): true | Refusal {
  const path = pathOf(input.chain, input.roots);
  const last = path.at(-1);
  if (last === undefined || path.length > chainMax) return untrusted(`its chain has not 1 to ${chainMax} certificates`);
  const anchors = input.roots.filter((root) => root.subject.equals(last.issuer));
  let refusal = untrusted("its chain ends in no root of this trust domain");
  // Two roots share a name while a root rotates: the first that proves the chain is enough.
  for (const anchor of anchors) {
    const proven = verifyPath([...path, anchor], input.atMs);
    if (proven === true) return true;
    refusal = proven;
  }
  return refusal;
}

/**
 * Whether the chain proves a workload of the trust domain, by every rule of X509-SVID §5; with `expect`, that very
 * SPIFFE ID. Refuses with PEER_NOT_A_WORKLOAD, PEER_UNTRUSTED, PEER_EXPIRED or PEER_NOT_THE_SERVICE.
 */
export function verifyWorkload(input: {
  readonly chain: readonly Certificate[];
  readonly roots: readonly Certificate[];
  readonly trustDomain: string;
  readonly atMs: number;
  readonly expect?: string;
}): VerifiedPeer | Refusal {
  const [leaf, ...above] = input.chain;
  if (leaf === undefined) return untrusted("it shows none");
  const id = workloadIdOf(leaf);
  if (isRefusal(id)) return id;
  // A bundle speaks for its own trust domain only: another domain's ID is foreign whoever signed it.
  if (id.trustDomain !== input.trustDomain) {
    return untrusted(`its trust domain is "${id.trustDomain}", wanted "${input.trustDomain}"`);
  }
  for (const authority of above) {
    const wrong = whyNoSigner(authority);
    if (wrong !== undefined) return untrusted(wrong);
  }
  const proven = verifyChain(input);
  if (proven !== true) return proven;
  if (input.expect !== undefined && id.text !== input.expect) {
    return refuse(
      "PEER_NOT_THE_SERVICE",
      `Cannot trust the peer: it is "${id.text}", wanted "${input.expect}"`,
      "Look at who listens on that address: another workload answers there",
    );
  }
  return { id, leaf };
}

const workloadIds = new WeakMap<Certificate, SpiffeId | Refusal>();

/** The SPIFFE ID of a leaf that may authenticate a workload (X509-SVID §2, §4, §5.2); nothing is verified. Read once. */
export function workloadIdOf(leaf: Certificate): SpiffeId | Refusal {
  let id = workloadIds.get(leaf);
  if (id === undefined) workloadIds.set(leaf, (id = readWorkloadId(leaf)));
  return id;
}

function readWorkloadId(leaf: Certificate): SpiffeId | Refusal {
  const [uri, ...more] = leaf.uris;
  if (uri === undefined || more.length > 0) return noWorkload(`it has ${leaf.uris.length} URI names, wanted one`);
  const id = parseSpiffeId(uri);
  if (isRefusal(id)) return noWorkload("its URI name is no SPIFFE ID");
  if (id.path === "") return noWorkload("its SPIFFE ID has no path");
  if (leaf.ca) return noWorkload("it is an authority's");
  const usage = leaf.keyUsage;
  if (usage === undefined || !leaf.keyUsageCritical) return noWorkload("its key usage is absent or not critical");
  if (!usage.has("digitalSignature")) return noWorkload("its key may not sign");
  if (usage.has("keyCertSign") || usage.has("cRLSign")) return noWorkload("its key may sign certificates or lists");
  const purposes = leaf.extendedKeyUsage;
  if (purposes !== undefined && !(purposes.includes(serverAuth) && purposes.includes(clientAuth))) {
    return noWorkload("it is not for both server and client authentication");
  }
  if (leaf.subject.length === 2 && !leaf.sanCritical)
    return noWorkload("it has no subject and its names are not critical");
  return id;
}

/** X509-SVID §3.1, §4: what a signing certificate must be, beyond RFC 5280; a root may come along. */
function whyNoSigner(authority: Certificate): string | undefined {
  if (authority.keyUsage === undefined || !authority.keyUsageCritical) {
    return "the key usage of an issuer is absent or not critical";
  }
  const purposes = authority.extendedKeyUsage;
  const both = purposes === undefined || (purposes.includes(serverAuth) && purposes.includes(clientAuth));
  if (!both && !purposes.includes(anyPurpose)) return "an issuer may not sign for server and client authentication";
  if (authority.uris.length > 1) return "an issuer has several URI names";
  const [uri] = authority.uris;
  const id = uri === undefined ? undefined : parseSpiffeId(uri);
  if (id !== undefined && (isRefusal(id) || id.path !== "")) return "an issuer's URI name is no trust domain's ID";
  return undefined;
}

/** The chain without a root at its end: roots are known, not sent. */
function pathOf(chain: readonly Certificate[], roots: readonly Certificate[]): readonly Certificate[] {
  const last = chain.at(-1);
  const sent = chain.length > 1 && last !== undefined && roots.some((root) => root.der.equals(last.der));
  return sent ? chain.slice(0, -1) : chain;
}

/** `path`: leaf first, the trusted root last. Cheap checks come before signatures. */
function verifyPath(path: readonly Certificate[], atMs: number): true | Refusal {
  for (let index = 1; index < path.length; index++) {
    const wrong = whyNotIssued(path, index);
    if (wrong !== undefined) return untrusted(wrong);
  }
  for (const [index, certificate] of path.entries()) {
    const whose = index === 0 ? "it" : index === path.length - 1 ? "its root" : "its issuer";
    if (atMs < certificate.notBeforeMs) return ended(`${whose} is not valid before ${iso(certificate.notBeforeMs)}`);
    if (atMs > certificate.notAfterMs) return ended(`${whose} ended at ${iso(certificate.notAfterMs)}`);
  }
  // From the root down, so that no key is used before it is trusted.
  for (let index = path.length - 1; index > 0; index--) {
    const issuer = path[index] as Certificate;
    const child = path[index - 1] as Certificate;
    if (!isSigned(child, issuer, index > 1)) return untrusted("a signature in its chain is wrong");
  }
  return true;
}

/** Whether the certificate at `index` may have issued what is below it. */
function whyNotIssued(path: readonly Certificate[], index: number): string | undefined {
  const issuer = path[index] as Certificate;
  const child = path[index - 1] as Certificate;
  if (!child.issuer.equals(issuer.subject)) return "its chain is not in order, each certificate signed by the next";
  const { authorityKeyId } = child;
  if (authorityKeyId !== undefined && issuer.subjectKeyId !== undefined && authorityKeyId !== issuer.subjectKeyId) {
    return "the key identifiers of its chain do not match";
  }
  if (!issuer.ca) return "an issuer in its chain is no authority";
  if (issuer.keyUsage?.has("keyCertSign") !== true) return "an issuer in its chain may not sign certificates";
  if (issuer.pathLength !== undefined && index - 1 > issuer.pathLength)
    return "its chain is longer than an issuer allows";
  if (issuer.nameConstraints === undefined) return undefined;
  for (const below of path.slice(0, index)) {
    const name = forbiddenName(below, issuer.nameConstraints);
    if (name !== undefined) return `an issuer may not sign for "${name}"`;
  }
  return undefined;
}

interface Algorithm {
  readonly hash: string | null;
  fits(key: KeyObject): boolean;
}

const onCurve =
  (curve: string) =>
  (key: KeyObject): boolean =>
    key.asymmetricKeyType === "ec" && key.asymmetricKeyDetails?.namedCurve === curve;

const rsaFits = (key: KeyObject): boolean => {
  const bits = key.asymmetricKeyDetails?.modulusLength ?? 0;
  return key.asymmetricKeyType === "rsa" && bits >= 2048 && bits <= 8192;
};

/** What this mesh signs with, and what foreign roots are seen to sign with; everything else is refused. */
const algorithms: ReadonlyMap<string, Algorithm> = new Map<string, Algorithm>([
  ["1.2.840.10045.4.3.2", { hash: "sha256", fits: onCurve("prime256v1") }],
  ["1.2.840.10045.4.3.3", { hash: "sha384", fits: onCurve("secp384r1") }],
  ["1.3.101.112", { hash: null, fits: (key) => key.asymmetricKeyType === "ed25519" }],
  ["1.2.840.113549.1.1.11", { hash: "sha256", fits: rsaFits }],
]);

// Each handshake brings the same few intermediates: their signatures are proven once. Leaves are not kept,
// since a flood of fresh ones would only push the intermediates out.
const proven = new Set<string>();
const provenMax = 256;

function isSigned(child: Certificate, issuer: Certificate, keep: boolean): boolean {
  const fact = keep ? `${fingerprintOf(child.der)} ${fingerprintOf(issuer.spki)}` : "";
  if (keep && proven.has(fact)) return true;
  const key = tryPublicKeyOf(issuer);
  const algorithm = algorithms.get(child.signatureAlgorithm);
  if (key === undefined || algorithm === undefined || !algorithm.fits(key)) return false;
  if (!verify(algorithm.hash, child.tbs, key, child.signature)) return false;
  if (keep) {
    if (proven.size >= provenMax) proven.delete(proven.values().next().value as string);
    proven.add(fact);
  }
  return true;
}

function iso(atMs: number): string {
  return new Date(atMs).toISOString();
}

const inspect = "Look at the certificate: hauberk certs inspect FILE";

function saying(code: FailureCode, hint: string): (because: string) => Refusal {
  return (because) => refuse(code, `Cannot trust the peer's certificate: ${because}`, hint);
}

const untrusted = saying("PEER_UNTRUSTED", inspect);
const noWorkload = saying("PEER_NOT_A_WORKLOAD", inspect);
const ended = saying("PEER_EXPIRED", "Compare the clocks of both machines, then look at why the peer did not renew");
