import { refuse, type FailureCode, type Refusal } from "../base/errors.ts";

/** The sentences that both sides say; none of them names an endpoint, an address or a policy. */

/**
 * The same words, byte for byte, whether the service does not exist or may not be seen: they depend on its key alone.
 * Whoever meant `example.io` is told how that was read.
 */
export function unknownService(service: string): Refusal {
  const [name, namespace] = service.split(".");
  const outside =
    namespace === undefined || namespace === "default"
      ? ""
      : `; this was read as the service ${name} in the namespace ${namespace}, and a host outside of the mesh is let out by --egress ${service}`;
  return refuse(
    "SERVICE_UNKNOWN",
    `Cannot call "${service}": there is no such service, or no policy lets this workload call it`,
    `Check the name, and that an ALLOW policy of the service names this workload: hauberk policy explain${outside}`,
  );
}

/** A call that was decided and is not allowed, by the decision's code. */
export function notAllowed(code: FailureCode, service: string): Refusal {
  if (code === "JWT_MISSING") {
    return refuse(
      "JWT_MISSING",
      `Cannot call "${service}": a policy wants a token, and there is none`,
      "Send Authorization: Bearer TOKEN",
    );
  }
  if (code === "JWT_INVALID") {
    return refuse(
      "JWT_INVALID",
      `Cannot call "${service}": the token is not valid`,
      "Ask the token's issuer for a new one",
    );
  }
  if (code === "JWT_KEYS_UNAVAILABLE") {
    return refuse(
      "JWT_KEYS_UNAVAILABLE",
      `Cannot call "${service}": the keys of the token's issuer cannot be had now`,
      "Try again; look at the provider's keys.uri if it lasts",
    );
  }
  return refuse(
    "DENIED",
    `Cannot call "${service}": no policy allows this call`,
    "See which rule denies it or is missing: hauberk policy explain; and whether that is in force: hauberk policy apply --dry-run",
  );
}

export function breakerOpen(service: string): Refusal {
  return refuse(
    "BREAKER_OPEN",
    `Cannot call "${service}": its breaker is open after failures`,
    "Try again in some seconds; a probe closes it when the endpoint answers again",
  );
}

/** Nothing of the request was processed. */
export function notTaken(service: string): Refusal {
  return refuse(
    "CONNECT_FAILED",
    `Cannot call "${service}": nobody took the request`,
    "Try again; nothing of it was processed",
  );
}

export function upstreamLost(method: string, service: string): Refusal {
  return refuse(
    "UPSTREAM_LOST",
    `Cannot finish ${method} on "${service}": the connection was lost after the request was sent, and it was not sent again`,
    "Find out whether it took effect before you repeat it",
  );
}

/** It was sent again after an attempt that may have been processed, and nobody took it: `code` says why. */
export function lostBefore(method: string, service: string, code: string): Refusal {
  return refuse(
    "UPSTREAM_LOST",
    `Cannot finish ${method} on "${service}": it was sent and not answered, and sending it again failed (${code})`,
    "Find out whether it took effect before you repeat it",
  );
}

export function upstreamInvalid(service: string): Refusal {
  return refuse(
    "UPSTREAM_INVALID",
    `Cannot pass on the answer of "${service}": it breaks the protocol`,
    "Look at what the service answers",
  );
}

/** Nothing was wrong but time. */
export function tunnelIdle(limitMs: number): Refusal {
  return refuse(
    "DEADLINE_EXCEEDED",
    `Cannot keep the tunnel open: nothing went through it for ${limitMs} ms`,
    "Let the protocol send keep-alives, or raise tunnelIdleMs (0 for no limit) in both sidecars",
  );
}

export function tunnelTooOld(limitMs: number): Refusal {
  return refuse(
    "DEADLINE_EXCEEDED",
    `Cannot keep the tunnel open: it is open for ${limitMs} ms, the longest time allowed`,
    "Connect again, or raise tunnelLifeMs (0 for no limit)",
  );
}

export const tooManyTunnels: Refusal = refuse(
  "LIMIT_CONNECTIONS",
  "Cannot open a tunnel: too many are open",
  "Keep fewer connections open, or raise tunnelsMax",
);

export const peerTooManyTunnels: Refusal = refuse(
  "LIMIT_PEER",
  "Cannot open a tunnel: this caller's identity has its share of them open",
  "Keep fewer connections open, or raise tunnelsMax or peerShareRatio at the service called",
);

export const peerTooMany: Refusal = refuse(
  "LIMIT_PEER",
  "Cannot take the request: this caller's identity has its share of requests under way",
  "Send fewer requests at the same time, or raise inboundRequestsMax or peerShareRatio at the service called",
);

export const unforeseen: Refusal = refuse(
  "BUG",
  "Cannot answer the request: something unforeseen happened",
  "Report this with the sidecar's log",
);

export const noTunnel: Refusal = refuse(
  "METHOD_UNSUPPORTED",
  "Cannot open a tunnel: this listener carries HTTP requests to one service",
  "Send the request itself, or CONNECT to the sidecar's outbound port",
);

/** RFC 9110, 9.3.8: an answer to TRACE would show the sender what sidecars and others added, tokens included. */
export const noTrace: Refusal = refuse(
  "METHOD_UNSUPPORTED",
  "Cannot carry TRACE: it would show the caller what sidecars add to its request",
  "Look at x-request-id in the logs of both sidecars instead",
);

export const noPath: Refusal = refuse(
  "REQUEST_INVALID",
  "Cannot read the path: there is none",
  "Send the path in its plain form, RFC 3986",
);

export const tooMany: Refusal = refuse(
  "LIMIT_REQUESTS",
  "Cannot take the request: too many requests are under way",
  "Send fewer requests at the same time, or raise outboundRequestsMax or inboundRequestsMax",
);

export const noIdentity: Refusal = refuse(
  "NO_IDENTITY",
  "Cannot carry the request: this sidecar has no identity now",
  "Wait for enrollment or renewal; see the sidecar's log",
);

export const secretWrong: Refusal = refuse(
  "PROXY_SECRET_WRONG",
  "Cannot take the request: the proxy's secret is missing or wrong",
  "Use the proxy URL that hauberk run put into the environment",
);

export const noPeer: Refusal = refuse(
  "PEER_UNTRUSTED",
  "Cannot take the request: nobody is proven to have sent it",
  "Connect with a certificate of this mesh",
);

/** The own service is not what was asked for, or not at this port. */
export function notServed(authority: string): Refusal {
  return refuse(
    "NOT_IN_MESH",
    `Cannot serve "${authority.slice(0, 255)}": this sidecar does not serve it`,
    "Ask for the service and a port that its sidecar declared",
  );
}
