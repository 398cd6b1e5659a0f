import { sign } from "node:crypto";
import { isRefusal, type Refusal } from "../base/errors.ts";
import { recoveryStatement, type RecoverRequest } from "../contract/enrollment.ts";
import { readChallengeAnswer, readIssuedAnswer } from "../contract/read-enrollment.ts";
import { writeCsr } from "../x509/csr.ts";
import { generateKey } from "../x509/keys.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { askControl } from "./control-client.ts";
import type { ControlContext } from "./control-connection.ts";
import { verifyIssued, type Issued } from "./issued.ts";
import type { Recovery } from "./stored-identity.ts";

/** Renews over mTLS, with a fresh key each time; the answer is verified. */
export async function renew(held: Issued, identity: TlsIdentity, context: ControlContext): Promise<Issued | Refusal> {
  const key = generateKey();
  const { trustDomain } = held.id;
  const body = { csr: writeCsr(key).toString("base64") };
  const answer = await askControl(
    { urls: held.controlUrls, roots: identity.roots, trustDomain, identity },
    { method: "POST", path: "/v1/renew", body, read: readIssuedAnswer },
    context,
  );
  if (isRefusal(answer)) return answer;
  return verifyIssued(answer, {
    key,
    expect: held.id.text,
    trustDomain,
    anchors: undefined,
    atMs: context.clock.wallMs(),
  });
}

/** Comes back without a leaf: the recovery key signs a challenge together with the request that it is good for. */
export async function recover(recovery: Recovery, context: ControlContext): Promise<Issued | Refusal> {
  const { instance, trustDomain, roots, enrollmentUrls } = recovery;
  const access = { urls: enrollmentUrls, roots, trustDomain };
  const question = await askControl(
    access,
    { method: "POST", path: "/v1/recover/challenge", body: { instance }, read: readChallengeAnswer },
    context,
  );
  if (isRefusal(question)) return question;
  const key = generateKey();
  const csr = writeCsr(key).toString("base64");
  const { challenge } = question;
  const signature = sign("sha256", recoveryStatement(challenge, csr), recovery.key).toString("base64");
  const body: RecoverRequest = { instance, challenge, csr, signature };
  const answer = await askControl(
    access,
    { method: "POST", path: "/v1/recover", body, read: readIssuedAnswer },
    context,
  );
  if (isRefusal(answer)) return answer;
  return verifyIssued(answer, {
    key,
    expect: recovery.id,
    trustDomain,
    anchors: undefined,
    atMs: context.clock.wallMs(),
  });
}
