import type { OptionTable } from "../base/options.ts";

export const http1Options = {
  headBytesMax: {
    env: "HAUBERK_HTTP1_HEAD_BYTES_MAX",
    default: 16_384,
    min: 1024,
    max: 262_144,
    why: "Request line and fields are held whole before they are judged; this is what Node and most servers allow.",
  },
  fieldsMax: {
    env: "HAUBERK_HTTP1_FIELDS_MAX",
    default: 100,
    min: 10,
    max: 1000,
    why: "Every field is looked at by policies and copied; a hundred is what Apache allows.",
  },
  headersMs: {
    env: "HAUBERK_HTTP1_HEADERS_MS",
    default: 10_000,
    min: 100,
    max: 120_000,
    why: "A head that drips in holds a connection for nothing.",
  },
  idleMs: {
    env: "HAUBERK_HTTP1_IDLE_MS",
    default: 120_000,
    min: 1000,
    max: 3_600_000,
    why: "Longer than clients keep idle connections, so that the client closes first and no request meets a closing connection.",
  },
  bodyBytesPerSecond: {
    env: "HAUBERK_HTTP1_BODY_BYTES_PER_SECOND",
    default: 64,
    min: 0,
    max: 1_000_000,
    why: "A body that drips in holds a routee's worker; measured over half a minute, until the answer begins. 0 switches it off.",
  },
  writeStallMs: {
    env: "HAUBERK_HTTP1_WRITE_STALL_MS",
    default: 300_000,
    min: 1000,
    max: 3_600_000,
    why: "A client that takes nothing of its answer for so long has gone away without saying so.",
  },
  windowBytes: {
    env: "HAUBERK_HTTP1_WINDOW_BYTES",
    default: 262_144,
    min: 131_072,
    max: 16_777_216,
    why: "Bytes of one body that may wait for a slow receiver before reading stops; the memory that one exchange can cost.",
  },
  routeeConnectMs: {
    env: "HAUBERK_ROUTEE_CONNECT_MS",
    default: 1000,
    min: 10,
    max: 60_000,
    why: "A routee is on this machine: it accepts at once, or its queue is full.",
  },
  routeeIdleMs: {
    env: "HAUBERK_ROUTEE_IDLE_MS",
    default: 4000,
    min: 0,
    max: 3_600_000,
    why: "Below the 5 s after which Node's servers close an idle connection, so that no request meets a closing one.",
  },
  routeeConnectionsMax: {
    env: "HAUBERK_ROUTEE_CONNECTIONS_MAX",
    default: 1024,
    min: 1,
    max: 65_536,
    why: "One request at a time per connection: this is how many requests a routee gets at once.",
  },
  routeeQueueMax: {
    env: "HAUBERK_ROUTEE_QUEUE_MAX",
    default: 1024,
    min: 0,
    max: 65_536,
    why: "A request that would wait behind more than this fails at once instead.",
  },
} as const satisfies OptionTable;

export const tlsOptions = {
  handshakeMs: {
    env: "HAUBERK_TLS_HANDSHAKE_MS",
    default: 5000,
    min: 100,
    max: 60_000,
    why: "A handshake is one round trip and a few milliseconds; one that lasts longer only holds a connection.",
  },
  tlsConnectionsMax: {
    env: "HAUBERK_TLS_CONNECTIONS_MAX",
    default: 10_000,
    min: 1,
    max: 1_000_000,
    why: "An accepted connection costs about 70 KB: this bounds what peers can make a sidecar hold.",
  },
  handshakesPerAddressMax: {
    env: "HAUBERK_TLS_HANDSHAKES_PER_ADDRESS_MAX",
    default: 1_000,
    min: 1,
    max: 1_000_000,
    why: "Whoever has no certificate can hold places for handshakeMs each; one address gets so many, and never more than half of all. A machine full of sidecars that all come back at once needs fewer.",
  },
  expiryLeadMs: {
    env: "HAUBERK_TLS_EXPIRY_LEAD_MS",
    default: 30_000,
    min: 0,
    max: 3_600_000,
    why: "How long before a certificate ends the connections made with it begin to drain; a quarter of what is left where that is less.",
  },
} as const satisfies OptionTable;
