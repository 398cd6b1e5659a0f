/**
 * The closed table of every code that Hauberk says, and the one error class.
 * Expected refusals are returned as `Refusal` values; `HauberkError` is thrown for what a caller cannot plan.
 */
export const failures = {
  // What a data-plane answer carries (DESIGN, section 6).
  SERVICE_UNKNOWN: { status: 404, grpc: 12, retryable: false },
  JWT_MISSING: { status: 401, grpc: 16, retryable: false },
  JWT_INVALID: { status: 401, grpc: 16, retryable: false },
  DENIED: { status: 403, grpc: 7, retryable: false },
  JWT_KEYS_UNAVAILABLE: { status: 503, grpc: 14, retryable: true },
  NO_ENDPOINT: { status: 503, grpc: 14, retryable: true },
  NO_HEALTHY_ENDPOINT: { status: 503, grpc: 14, retryable: true },
  BREAKER_OPEN: { status: 503, grpc: 14, retryable: true },
  LIMIT_REQUESTS: { status: 503, grpc: 14, retryable: true },
  LIMIT_CONNECTIONS: { status: 503, grpc: 14, retryable: true },
  LIMIT_PEER: { status: 503, grpc: 14, retryable: true },
  CONNECT_FAILED: { status: 503, grpc: 14, retryable: true },
  PEER_NOT_THE_SERVICE: { status: 503, grpc: 14, retryable: false },
  NO_IDENTITY: { status: 503, grpc: 14, retryable: true },
  CONTROL_UNREACHABLE: { status: 503, grpc: 14, retryable: true },
  UPSTREAM_LOST: { status: 502, grpc: 14, retryable: false },
  UPSTREAM_INVALID: { status: 502, grpc: 14, retryable: false },
  DEADLINE_EXCEEDED: { status: 504, grpc: 4, retryable: false },
  NOT_IN_MESH: { status: 421, grpc: 12, retryable: false },
  CROSS_SITE: { status: 403, grpc: 7, retryable: false },
  REQUEST_INVALID: { status: 400, grpc: 3, retryable: false },
  REQUEST_TIMEOUT: { status: 408, grpc: 4, retryable: false },
  HEADERS_TOO_LARGE: { status: 431, grpc: 8, retryable: false },
  BODY_TOO_LARGE: { status: 413, grpc: 8, retryable: false },
  METHOD_UNSUPPORTED: { status: 501, grpc: 12, retryable: false },
  PROXY_SECRET_WRONG: { status: 407, grpc: 16, retryable: false },
  // What the peer check says; logged by the refusing side.
  PEER_UNTRUSTED: { status: 403, grpc: 7, retryable: false },
  PEER_EXPIRED: { status: 403, grpc: 7, retryable: false },
  PEER_NOT_A_WORKLOAD: { status: 403, grpc: 7, retryable: false },
  // Enrollment, renewal, recovery (DESIGN, section 5).
  TOKEN_MALFORMED: { status: 400, grpc: 3, retryable: false },
  TOKEN_UNKNOWN: { status: 403, grpc: 7, retryable: false },
  TOKEN_EXPIRED: { status: 403, grpc: 7, retryable: false },
  TOKEN_REVOKED: { status: 403, grpc: 7, retryable: false },
  TOKEN_ALREADY_USED: { status: 409, grpc: 6, retryable: false },
  CSR_MALFORMED: { status: 400, grpc: 3, retryable: false },
  CSR_SIGNATURE_WRONG: { status: 400, grpc: 3, retryable: false },
  CSR_KEY_REFUSED: { status: 400, grpc: 3, retryable: false },
  CSR_NAME_NOT_GRANTED: { status: 403, grpc: 7, retryable: false },
  GRANT_IMPOSSIBLE: { status: 400, grpc: 3, retryable: false },
  ISSUER_EXPIRED: { status: 503, grpc: 14, retryable: false },
  LEAF_UNKNOWN: { status: 403, grpc: 7, retryable: false },
  LEAF_EXPIRED: { status: 403, grpc: 7, retryable: false },
  KEY_REUSED: { status: 409, grpc: 6, retryable: false },
  INSTANCE_LOCKED: { status: 403, grpc: 7, retryable: false },
  CLONE_DETECTED: { status: 403, grpc: 7, retryable: false },
  RECOVERY_REFUSED: { status: 403, grpc: 7, retryable: false },
  RECOVERY_DISABLED: { status: 403, grpc: 7, retryable: false },
  ROOT_NOT_PINNED: { status: 502, grpc: 14, retryable: false },
  CONTROL_NOT_PROVEN: { status: 502, grpc: 14, retryable: false },
  // The control plane's API.
  NOT_AN_ADMINISTRATOR: { status: 403, grpc: 7, retryable: false },
  ADMINISTRATOR_EXISTS: { status: 409, grpc: 6, retryable: false },
  NOT_A_WORKLOAD: { status: 403, grpc: 7, retryable: false },
  LIMIT_ENDPOINTS: { status: 503, grpc: 8, retryable: true },
  NOT_FOUND: { status: 404, grpc: 5, retryable: false },
  RATE_LIMITED: { status: 429, grpc: 8, retryable: true },
  MESSAGE_INVALID: { status: 400, grpc: 3, retryable: false },
  POLICY_INVALID: { status: 400, grpc: 3, retryable: false },
  POLICY_SET_EMPTY: { status: 400, grpc: 3, retryable: false },
  POLICY_CONFLICT: { status: 409, grpc: 10, retryable: true },
  STORE_FAILED: { status: 503, grpc: 14, retryable: true },
  STORE_NEWER: { status: 500, grpc: 13, retryable: false },
  // The command line and this machine.
  USAGE: { status: 400, grpc: 3, retryable: false },
  CONFIG_INVALID: { status: 400, grpc: 3, retryable: false },
  HOME_EXISTS: { status: 409, grpc: 6, retryable: false },
  HOME_MISSING: { status: 404, grpc: 5, retryable: false },
  PASSPHRASE_MISSING: { status: 400, grpc: 3, retryable: false },
  PASSPHRASE_WRONG: { status: 403, grpc: 7, retryable: false },
  STATE_LOCKED: { status: 409, grpc: 6, retryable: true },
  STATE_DAMAGED: { status: 500, grpc: 13, retryable: false },
  TOKEN_NEEDED: { status: 400, grpc: 3, retryable: false },
  PORT_TAKEN: { status: 409, grpc: 6, retryable: true },
  APP_PORT_EXPOSED: { status: 400, grpc: 3, retryable: false },
  UNAVAILABLE: { status: 503, grpc: 14, retryable: true },
  NODE_TOO_OLD: { status: 500, grpc: 13, retryable: false },
  BUG: { status: 500, grpc: 13, retryable: false },
} as const satisfies Record<string, { status: number; grpc: number; retryable: boolean }>;

export type FailureCode = keyof typeof failures;

/** A refusal that was to be expected: a stable code, one sentence, and the next step. */
export interface Refusal {
  readonly refused: true;
  readonly code: FailureCode;
  /** *Cannot* + action + colon + what is + what was wanted; no full stop. */
  readonly message: string;
  /** The next step, in the imperative. */
  readonly hint: string;
}

export function refuse(code: FailureCode, message: string, hint: string): Refusal {
  return { refused: true, code, message, hint };
}

export function isRefusal(value: unknown): value is Refusal {
  return typeof value === "object" && value !== null && (value as { refused?: unknown }).refused === true;
}

/** Thrown for what a caller cannot plan; the wire carries code, message and hint, the log the cause too. */
export class HauberkError extends Error {
  readonly code: FailureCode;
  readonly hint: string;

  constructor(code: FailureCode, message: string, hint: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "HauberkError";
    this.code = code;
    this.hint = hint;
  }

  static from(refusal: Refusal, cause?: unknown): HauberkError {
    return new HauberkError(refusal.code, refusal.message, refusal.hint, cause);
  }
}

/** Ends what is going on when an invariant of our own is broken: never for input. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new HauberkError("BUG", `Cannot go on: ${message}`, "Report this with the log");
}

/** The sentence of anything that was thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
