import type { RouteePort, Version } from "../contract/watch.ts";

/** `GET /status` on the admin socket: what `hauberk check` looks at. */
export interface SidecarStatus {
  readonly release: string;
  readonly pid: number;
  /** How many processes carry the traffic; 1: the sidecar itself does, as one of a release before workers. */
  readonly workers?: { readonly wanted: number; readonly running: number };
  readonly service: string;
  readonly instance: string;
  /** SPIFFE ID, or null where there is no valid certificate. */
  readonly id: string | null;
  readonly issuedAtMs: number | null;
  readonly notAfterMs: number | null;
  readonly connected: boolean;
  /** Why it is not connected; null while it is, or before the first try has ended; undefined from releases before this. */
  readonly trouble?: { readonly code: string; readonly because: string; readonly hint: string } | null;
  readonly version: Version | null;
  readonly inboundPort: number | null;
  readonly outboundPort: number;
  /** What other local users could call through: listeners without a guard. */
  readonly openDoors: readonly string[];
  /** Ports of the program that answer on the network, allowed by name or not. */
  readonly exposedPorts: readonly number[];
  readonly ports: readonly RouteePort[];
  readonly healthy: boolean;
}
