import type { AuthorizationPolicy, JwtProvider } from "../base/resource.ts";

/**
 * The watch: one full-duplex `POST /v1/watch` over mTLS per sidecar, JSON lines both ways (RFC 8259, one value a line).
 * The control plane sends full state first and then deltas; the sidecar registers, subscribes and acknowledges.
 */

/** Versions grow within an epoch; a restored store starts a new one. */
export interface Version {
  readonly epoch: string;
  readonly counter: number;
}

/** One port of a routee as its sidecar offers it. */
export interface RouteePort {
  readonly name: string;
  /** The routee's own port number; what policies match as `ports`. */
  readonly port: number;
  readonly protocol: "http" | "h2" | "tcp";
}

export interface Endpoint {
  /** The instance behind it. */
  readonly instance: string;
  readonly address: string;
  /** The sidecar's inbound port. */
  readonly port: number;
  readonly ports: readonly RouteePort[];
  /** By the routee's own sidecar. */
  readonly healthy: boolean;
  /** Kept although its lease ended, because no other endpoint is left. */
  readonly stale: boolean;
}

/** What one sidecar knows of a service that it may call. */
export interface ServiceView {
  /** The exact SPIFFE ID that its endpoints must present. */
  readonly id: string;
  /** Reduced to the rules that can match the asking identity. */
  readonly policies: readonly AuthorizationPolicy[];
  readonly endpoints: readonly Endpoint[];
}

/** What a sidecar needs for its own service. */
export interface OwnView {
  /** Every policy that targets the own service, whole. */
  readonly policies: readonly AuthorizationPolicy[];
}

export interface BundleView {
  readonly trustDomain: string;
  readonly sequence: number;
  /** Base64 DER, one each. */
  readonly roots: readonly string[];
}

/**
 * State is a map from key to value: `bundle`, `own`, `provider/<namespace>/<name>`, `service/<service>.<namespace>`.
 * A service that was asked for and is unknown (or must stay so) is `null`.
 */
export type StateValue = BundleView | OwnView | JwtProvider | ServiceView | null;
export type StateEntry = readonly [key: string, value: StateValue];

/** Control plane to sidecar. */
export type Down =
  /** Replaces everything: first on each stream, and again when the epoch is another. */
  | {
      readonly type: "full";
      readonly version: Version;
      readonly entries: readonly StateEntry[];
      /** The rest follows in deltas: nothing of it counts before the one that says nothing of more. */
      readonly more?: true;
    }
  /**
   * On top of what was sent before, in the same epoch. The counter never falls; it stays where it is
   * when the delta answers a subscription and nothing else has changed.
   */
  | {
      readonly type: "delta";
      readonly version: Version;
      readonly set: readonly StateEntry[];
      readonly gone: readonly string[];
      /** As in a full state. */
      readonly more?: true;
    }
  /** Still there; sent every `pingEveryMs`, answered with the same number. Carries the clock for `check` and logs. */
  | { readonly type: "ping"; readonly number: number; readonly wallMs: number }
  /** Close this stream after opening another; the server is going away or the certificate is ending. */
  | { readonly type: "goodbye"; readonly because: string }
  /** Something that the sidecar said does not count; the stream goes on. */
  | { readonly type: "notice"; readonly code: string; readonly message: string; readonly hint: string }
  | {
      readonly type: "refused";
      readonly code: string;
      readonly message: string;
      readonly hint: string;
    };

/** Sidecar to control plane. The first line is `hello`. */
export type Up =
  | {
      readonly type: "hello";
      readonly protocol: 1;
      /** Of Hauberk. */
      readonly release: string;
      /** What its owner calls this instance (`--instance`), for lists that people read; grants nothing. */
      readonly name?: string;
      /** Processes that carry its traffic; absent: one. */
      readonly workers?: number;
      /** The last good version, for `hauberk services`. */
      readonly version: Version | null;
      readonly registration: Registration | null;
      /** `orders.default` */
      readonly subscriptions: readonly string[];
    }
  | { readonly type: "register"; readonly registration: Registration | null }
  | { readonly type: "subscribe"; readonly service: string }
  | { readonly type: "unsubscribe"; readonly service: string }
  | { readonly type: "ack"; readonly version: Version }
  | { readonly type: "reject"; readonly version: Version; readonly because: string }
  | { readonly type: "pong"; readonly number: number };

/** What a sidecar offers. Service, namespace and instance come from its SVID and the store, never from here. */
export interface Registration {
  readonly address: string;
  readonly port: number;
  readonly ports: readonly RouteePort[];
  readonly healthy: boolean;
  /** No new calls, please: the endpoint is about to leave. */
  readonly draining: boolean;
}
