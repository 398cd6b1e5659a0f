import type { Metrics } from "../telemetry/metrics.ts";

export type RenewalResult = "renewed" | "recovered" | "failed";

/** What one can see of an identity: when it ends, when it is tried again, and what became of the tries. */
export interface IdentityMeters {
  tried(result: RenewalResult): void;
}

/** Moments in milliseconds since 1970; 0 for none. */
interface Moments {
  readonly issuedAtMs: () => number;
  readonly notAfterMs: () => number;
  readonly nextTryAtMs: () => number;
}

export function identityMeters(metrics: Metrics | undefined, moments: Moments): IdentityMeters {
  if (metrics === undefined) return { tried: () => undefined };
  const renewals = metrics.counter({
    name: "hauberk_certificate_renewals_total",
    help: "Tries to renew or recover the certificate, by what became of them.",
    labels: ["result"],
  });
  const results = {
    renewed: renewals.with("renewed"),
    recovered: renewals.with("recovered"),
    failed: renewals.with("failed"),
  };
  const seconds = (name: string, help: string, read: () => number): void => {
    const gauge = metrics.gauge({ name, help }).with();
    metrics.collect(() => gauge.set(Math.round(read() / 1_000)));
  };
  const since = "seconds since 1970; 0 for none.";
  seconds("hauberk_certificate_not_after_seconds", `When the certificate ends, ${since}`, moments.notAfterMs);
  seconds("hauberk_certificate_issued_seconds", `When the certificate was issued, ${since}`, moments.issuedAtMs);
  seconds("hauberk_certificate_next_try_seconds", `When it is renewed or tried again, ${since}`, moments.nextTryAtMs);
  return { tried: (result) => results[result].add() };
}
