import type { ProxyOptions } from "../proxy/proxy.ts";

/**
 * One worker's share of the limits of a sidecar: what bounds its memory, its descriptors and the load on its routee is
 * divided, rounded up, so that all workers together hold little more than one process would. The system deals out
 * connections, not requests: a worker may be full while another is not.
 */
export function shareOf(options: ProxyOptions, workers: number): ProxyOptions {
  const share = (limit: number): number => Math.ceil(limit / workers);
  const { proxy, http1, http2, tls, resilience } = options;
  return {
    resilience,
    proxy: {
      ...proxy,
      inboundRequestsMax: share(proxy.inboundRequestsMax),
      outboundRequestsMax: share(proxy.outboundRequestsMax),
      outboundConnectionsMax: share(proxy.outboundConnectionsMax),
      tunnelsMax: share(proxy.tunnelsMax),
      waitingMax: share(proxy.waitingMax),
    },
    http1: {
      ...http1,
      routeeConnectionsMax: share(http1.routeeConnectionsMax),
      routeeQueueMax: share(http1.routeeQueueMax),
    },
    http2: {
      ...http2,
      routeeConnectionsMax: share(http2.routeeConnectionsMax),
      heldBytesMax: share(http2.heldBytesMax),
    },
    tls: {
      ...tls,
      tlsConnectionsMax: share(tls.tlsConnectionsMax),
      handshakesPerAddressMax: share(tls.handshakesPerAddressMax),
    },
  };
}
