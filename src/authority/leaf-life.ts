import { refuse, type Refusal } from "../base/errors.ts";
import type { Certificate } from "../x509/certificate.ts";

/** When a leaf lives. `issuedAtMs` is what life counts from; the others are whole seconds, as X.509 writes them. */
export interface LeafLife {
  readonly issuedAtMs: number;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** A life shorter than this is not worth a signature. */
export const lifetimeLeastMs = 5_000;

const second = 1_000;

/**
 * The life of a leaf signed at `atMs`: never longer than its issuer's, backdated by at most `backdateMs` and a quarter
 * of its life. ISSUER_EXPIRED where the issuer has not begun, has ended, or ends within 5 seconds.
 */
export function leafLife(
  wish: { readonly atMs: number; readonly lifetimeMs: number; readonly backdateMs: number },
  issuer: Pick<Certificate, "notBeforeMs" | "notAfterMs">,
): LeafLife | Refusal {
  const { atMs } = wish;
  if (atMs < issuer.notBeforeMs || atMs + lifetimeLeastMs > issuer.notAfterMs) {
    const ends = new Date(issuer.notAfterMs).toISOString();
    return refuse(
      "ISSUER_EXPIRED",
      `Cannot sign: the issuing certificate ends at ${ends}, and a leaf never outlives its issuer`,
      "Look at the control plane's clock, then make a new intermediate from the root",
    );
  }
  const notAfterMs = Math.floor(Math.min(atMs + wish.lifetimeMs, issuer.notAfterMs) / second) * second;
  const backdateMs = Math.min(wish.backdateMs, (notAfterMs - atMs) / 4);
  // Rounded up, so that it is backdated by no more than that; but never into the future.
  const roundedMs = Math.ceil((atMs - backdateMs) / second) * second;
  const notBeforeMs = Math.max(roundedMs <= atMs ? roundedMs : Math.floor(atMs / second) * second, issuer.notBeforeMs);
  return { issuedAtMs: atMs, notBeforeMs, notAfterMs };
}
