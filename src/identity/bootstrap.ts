import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { serviceId, type ServiceName } from "../base/spiffe-id.ts";
import type { EnrollRequest, TokenClaims } from "../contract/enrollment.ts";
import { readIssuedAnswer } from "../contract/read-enrollment.ts";
import type { Certificate } from "../x509/certificate.ts";
import { writeCsr } from "../x509/csr.ts";
import { generateKey, spkiOf } from "../x509/keys.ts";
import { askControl } from "./control-client.ts";
import type { ControlContext } from "./control-connection.ts";
import { verifyIssued, type Issued } from "./issued.ts";
import { fetchPinnedRoots } from "./pinned-roots.ts";
import { sha256, type StateFolder } from "./state-folder.ts";
import {
  readEnrolling,
  removeEnrolling,
  writeEnrolling,
  writeRecovery,
  type Enrolling,
  type Recovery,
} from "./stored-identity.ts";
import { readToken } from "./token.ts";

export interface Enrolled {
  readonly issued: Issued;
  readonly recovery: Recovery;
}

export interface Enrollment {
  readonly folder: StateFolder;
  readonly expect: ServiceName | undefined;
  readonly context: ControlContext;
  /** Told of each address that did not help, as soon as that is known: the next one may take its time. */
  readonly missed?: (refusal: Refusal) => void;
}

/**
 * Turns an enrollment token into an identity (DESIGN, section 5, sentences 1 to 3). The token leaves this machine only after
 * the other end has proven to be the control plane under a root that the token itself names.
 */
export async function enroll(tokenText: string, use: Enrollment): Promise<Enrolled | Refusal> {
  const claims = readToken(tokenText);
  if (isRefusal(claims)) return claims;
  const other = otherThanWanted(claims, use.expect);
  if (other !== undefined) return other;
  const roots = await pinnedRoots(claims, use);
  if (isRefusal(roots)) return roots;
  const keys = await keysFor(tokenText, use.folder);
  const body: EnrollRequest = {
    token: tokenText,
    csr: writeCsr(keys.key).toString("base64"),
    recoveryKey: spkiOf(keys.recoveryKey).toString("base64"),
  };
  const { trustDomain, urls } = claims;
  const question = { method: "POST", path: "/v1/enroll", body, read: readIssuedAnswer } as const;
  const answer = await askControl({ urls, roots, trustDomain }, question, use.context);
  // A token that was refused brings nothing with these keys, now or later.
  if (isRefusal(answer) && answer.code.startsWith("TOKEN_")) await forgetEnrolling(use.folder);
  if (isRefusal(answer)) return answer;
  const issued = verifyIssued(answer, {
    key: keys.key,
    expect: claims.sub,
    trustDomain,
    anchors: roots,
    atMs: use.context.clock.wallMs(),
  });
  if (isRefusal(issued)) return issued;
  const recovery = recoveryOf(issued, keys);
  await writeRecovery(use.folder, recovery);
  return { issued, recovery };
}

/** To be called when the identity is on disk: the keys of the enrollment are not needed again. */
export function forgetEnrolling(folder: StateFolder): Promise<void> {
  return removeEnrolling(folder);
}

function otherThanWanted(claims: TokenClaims, expect: ServiceName | undefined): Refusal | undefined {
  if (expect === undefined || claims.sub === serviceId(claims.trustDomain, expect)) return undefined;
  return refuse(
    "USAGE",
    `Cannot enroll ${expect.service}.${expect.namespace} with this token: it grants "${claims.sub}"`,
    `Ask for one of its own: hauberk token create --service ${expect.service}`,
  );
}

/** The keys are on disk before the token leaves, so that an answer that is lost, or a kill -9, does not burn the token. */
async function keysFor(tokenText: string, folder: StateFolder): Promise<Enrolling> {
  const tokenDigest = sha256(tokenText);
  const begun = await readEnrolling(folder);
  if (begun?.tokenDigest === tokenDigest) return begun;
  const enrolling = { tokenDigest, key: generateKey(), recoveryKey: generateKey() };
  await writeEnrolling(folder, enrolling);
  return enrolling;
}

async function pinnedRoots(
  claims: TokenClaims,
  { context, missed }: Enrollment,
): Promise<readonly Certificate[] | Refusal> {
  const pins = new Set(claims.roots);
  const refusals: Refusal[] = [];
  for (const url of claims.urls) {
    const roots = await fetchPinnedRoots(url, pins, context);
    if (!isRefusal(roots)) return roots;
    refusals.push(roots);
    missed?.(roots);
  }
  const [first, ...more] = refusals as [Refusal, ...Refusal[]];
  // A wrong root says more than an address at which nobody answered.
  const worst = refusals.find(({ code }) => code !== "CONTROL_UNREACHABLE");
  if (worst !== undefined || more.length === 0) return worst ?? first;
  const each = refusals.map(({ message }) => message.replace(/^Cannot fetch the roots from /, ""));
  return refuse(
    "CONTROL_UNREACHABLE",
    `Cannot reach the control plane at any address of the token: ${each.join("; ")}`,
    first.hint,
  );
}

function recoveryOf(issued: Issued, keys: Enrolling): Recovery {
  return {
    instance: issued.instance,
    id: issued.id.text,
    trustDomain: issued.id.trustDomain,
    key: keys.recoveryKey,
    enrollmentUrls: issued.enrollmentUrls,
    roots: issued.roots,
    tokenDigest: keys.tokenDigest,
  };
}
