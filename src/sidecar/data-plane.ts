import type { Published } from "../base/published.ts";

/** What carries a sidecar's traffic: a proxy in this process, or several in processes of their own. */
export interface DataPlane {
  /** Whether the routee is well. */
  readonly healthy: Published<boolean>;
  /** 0 without an inbound listener. */
  readonly inboundPort: number;
  readonly outboundPort: number;
  /** Opens every listener. @throws HauberkError PORT_TAKEN, UNAVAILABLE, NO_IDENTITY */
  start(): Promise<void>;
  /** Accepts no more and lets what is under way end, at most `withinMs`. */
  drain(withinMs: number): Promise<void>;
  /** Ends everything now. */
  stop(): Promise<void>;
  /** For the admin socket. */
  describe(): object | Promise<object>;
}
