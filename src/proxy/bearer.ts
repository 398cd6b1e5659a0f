import { hash } from "node:crypto";

/** What a request's Authorization field holds: no bearer token, one, or something that nobody should guess about. */
export class Bearer {
  readonly token: string | undefined;
  /** Why this can never be a valid token, or undefined. */
  readonly wrong: string | undefined;
  #digest: string | undefined;

  constructor(token: string | undefined, wrong: string | undefined) {
    this.token = token;
    this.wrong = wrong;
  }

  /** SHA-256 of the token: caches hold this, never the token. */
  get digest(): string {
    return (this.#digest ??= hash("sha256", this.token ?? "", "base64"));
  }
}

export const noBearer = new Bearer(undefined, undefined);

/** RFC 6750, 2.1: the scheme in any case, one token; other schemes are other people's business. */
export function readBearer(authorization: string | undefined, count: number, bytesMax: number): Bearer {
  if (authorization === undefined) return noBearer;
  if (count > 1) return new Bearer(undefined, "there is more than one Authorization field");
  if (authorization.length < 7 || authorization.slice(0, 7).toLowerCase() !== "bearer ") return noBearer;
  let start = 7;
  while (authorization.charCodeAt(start) === 0x20) start++;
  const token = authorization.slice(start);
  if (token.length > bytesMax) return new Bearer(undefined, `the token is longer than ${bytesMax} bytes`);
  return new Bearer(token, undefined);
}

/**
 * Remembers the last bearer that was read: a busy caller sends the same token again and again, and its digest costs more than
 * the comparison. One value is kept, for as long as no other comes.
 */
export class BearerReader {
  #authorization: string | undefined;
  #bearer = noBearer;

  read(authorization: string | undefined, count: number, bytesMax: number): Bearer {
    if (authorization === undefined) return noBearer;
    if (count === 1 && authorization === this.#authorization) return this.#bearer;
    const bearer = readBearer(authorization, count, bytesMax);
    if (count === 1) {
      this.#authorization = authorization;
      this.#bearer = bearer;
    }
    return bearer;
  }
}
