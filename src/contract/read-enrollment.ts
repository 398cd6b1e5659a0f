import { isRefusal, type Refusal } from "../base/errors.ts";
import { isTrustDomain } from "../base/spiffe-id.ts";
import type {
  ChallengeAnswer,
  ChallengeRequest,
  EnrollRequest,
  IssuedAnswer,
  RecoverRequest,
  RefusalAnswer,
  RenewRequest,
  RootsAnswer,
} from "./enrollment.ts";
import { limits } from "./limits.ts";
import { der, integer, list, moment, object, parseJson, reading, sentence, text, wrong, type Reader } from "./shape.ts";

/** The readers of enrollment, renewal and recovery. They take any text and never throw: a value or MESSAGE_INVALID. */

const bodyBytesMax = 64 * 1024;
const answerBytesMax = 1024 * 1024;

const instance = text(64, /^[0-9A-Za-z._-]+$/, "an instance");
const challenge = text(512, /^[0-9A-Za-z._~+/=-]+$/, "a challenge");
const token = text(limits.tokenMax, /^[0-9A-Za-z._-]+$/, "a token");
const url = text(2_048, /^https:\/\/[0-9A-Za-z[\].:_-]+\/?$/, "https://HOST:PORT");
const urls = list(url, limits.urlsMax);
const roots: Reader<readonly string[]> = (value, at) => {
  const read = list(der, limits.rootsMax)(value, at);
  if (read.length === 0) wrong(at, "a list of at least one root");
  return read;
};

const enrollRequest: Reader<EnrollRequest> = object({ token, csr: der, recoveryKey: der });
const renewRequest: Reader<RenewRequest> = object({ csr: der });
const challengeRequest: Reader<ChallengeRequest> = object({ instance });
const challengeAnswer: Reader<ChallengeAnswer> = object({ challenge });
const recoverRequest: Reader<RecoverRequest> = object({ instance, challenge, csr: der, signature: der });

const issuedAnswer: Reader<IssuedAnswer> = object({
  // An administrator's answer says `admin/NAME` here.
  instance: text(128, /^(?:admin\/)?[0-9A-Za-z._-]+$/, "an instance"),
  chain: (value, at) => {
    const read = list(der, 4)(value, at);
    if (read.length === 0) wrong(at, "a chain with a leaf");
    return read;
  },
  roots,
  bundleSequence: integer(0, Number.MAX_SAFE_INTEGER),
  issuedAtMs: moment,
  notAfterMs: moment,
  controlUrls: urls,
  enrollmentUrls: urls,
});

const rootsAnswer: Reader<RootsAnswer> = object({
  trustDomain: (value, at) => {
    if (typeof value !== "string" || !isTrustDomain(value)) wrong(at, "a trust domain");
    return value;
  },
  roots,
});

const refusalAnswer: Reader<RefusalAnswer> = object({
  code: text(64, /^[A-Z_]+$/, "a code"),
  message: sentence,
  hint: sentence,
});

function of<T>(what: string, bytesMax: number, reader: Reader<T>): (body: string) => T | Refusal {
  return (body) => {
    const parsed = parseJson(what, body, bytesMax);
    return isRefusal(parsed) ? parsed : reading(what, reader, parsed.value);
  };
}

export const readEnrollRequest = of("enrollment", bodyBytesMax, enrollRequest);
export const readRenewRequest = of("renewal", bodyBytesMax, renewRequest);
export const readChallengeRequest = of("request for a challenge", bodyBytesMax, challengeRequest);
export const readChallengeAnswer = of("challenge", bodyBytesMax, challengeAnswer);
export const readRecoverRequest = of("recovery", bodyBytesMax, recoverRequest);
export const readIssuedAnswer = of("control plane's certificate answer", answerBytesMax, issuedAnswer);
export const readRootsAnswer = of("control plane's roots", answerBytesMax, rootsAnswer);
export const readRefusalAnswer = of("control plane's refusal", answerBytesMax, refusalAnswer);

/** The wire form of a refusal: code, sentence and hint, never a cause. */
export function answerOf(refusal: Refusal): RefusalAnswer {
  return { code: refusal.code, message: refusal.message, hint: refusal.hint };
}
