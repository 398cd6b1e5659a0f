import type { BreakerState } from "../resilience/breaker.ts";

/** What the data plane calls and how it fares: `GET /snapshot` on the admin socket. */
export interface ProxyDescription {
  readonly inboundPort: number;
  readonly outboundPort: number;
  readonly healthy: boolean;
  readonly services: readonly ServiceDescription[];
}

export interface ServiceDescription {
  readonly service: string;
  readonly endpoints: readonly EndpointDescription[];
}

export interface EndpointDescription {
  readonly instance: string;
  readonly address: string;
  readonly healthy: boolean;
  readonly stale: boolean;
  readonly breaker: BreakerState;
  /** Exchanges under way. */
  readonly open: number;
  readonly connections: number;
}
