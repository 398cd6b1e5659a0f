/** Bodies of enrollment, renewal and recovery: JSON over TLS (DESIGN, section 5). DER travels as base64. */

/** `POST /v1/enroll` on the enrollment listener. */
export interface EnrollRequest {
  readonly token: string;
  readonly csr: string;
  /** SPKI of the recovery key, P-256. */
  readonly recoveryKey: string;
}

/** `POST /v1/renew` on the mesh API; the caller is known by its certificate. */
export interface RenewRequest {
  readonly csr: string;
}

/** `POST /v1/recover/challenge` on the enrollment listener. */
export interface ChallengeRequest {
  readonly instance: string;
}

export interface ChallengeAnswer {
  readonly challenge: string;
}

/** `POST /v1/recover/challenge` answers `{ challenge }`; `POST /v1/recover` follows, both on the enrollment listener. */
export interface RecoverRequest {
  readonly instance: string;
  readonly challenge: string;
  readonly csr: string;
  /** ECDSA P-256 with SHA-256, DER, by the recovery key over `recoveryStatement(challenge, csr)`. */
  readonly signature: string;
}

/** The answer to all three. */
export interface IssuedAnswer {
  readonly instance: string;
  /** Leaf first, then the intermediate. */
  readonly chain: readonly string[];
  readonly roots: readonly string[];
  readonly bundleSequence: number;
  /** Life counts from here. */
  readonly issuedAtMs: number;
  readonly notAfterMs: number;
  /** Where the mesh API answers, `https://host:7443`. */
  readonly controlUrls: readonly string[];
  readonly enrollmentUrls: readonly string[];
}

/** `GET /v1/roots` on the enrollment listener, fetched over unverified TLS and then filtered by the token's digests. */
export interface RootsAnswer {
  readonly trustDomain: string;
  readonly roots: readonly string[];
}

/** Every refusal on the wire. */
export interface RefusalAnswer {
  readonly code: string;
  readonly message: string;
  readonly hint: string;
}

/** What a recovery key signs: a purpose of its own, the challenge, and the request it is good for. */
export function recoveryStatement(challenge: string, csr: string): Buffer {
  return Buffer.from(`hauberk recovery v1\n${challenge}\n${csr}\n`, "utf8");
}

/** What an enrollment token says about itself; signed ES256 by the authority's token key. */
export interface TokenClaims {
  /** The row. */
  readonly jti: string;
  /** `https://host:7444` */
  readonly urls: readonly string[];
  /** SHA-256 of each root's DER, lower-case hexadecimal. */
  readonly roots: readonly string[];
  readonly trustDomain: string;
  /** The granted SPIFFE ID, for messages only: what counts is the row. */
  readonly sub: string;
  /** Seconds since 1970. */
  readonly exp: number;
}
