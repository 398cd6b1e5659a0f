import type { Clock } from "../base/clock.ts";
import { HauberkError, isRefusal, messageOf, refuse } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { Random } from "../base/random.ts";
import { connectHttp2 } from "../transport/http2-client.ts";
import type { http2Options } from "../transport/http2-options.ts";
import { provenPeerOf } from "../transport/peer.ts";
import { dialMutualTls } from "../transport/tls-dial.ts";
import { connectFailed, type Dial } from "./hop.ts";

export interface DialContext {
  readonly clock: Clock;
  readonly random: Random;
  readonly http2: OptionValues<typeof http2Options>;
  readonly connectMs: number;
}

/**
 * Mutual TLS to exactly the expected SPIFFE ID, then HTTP/2 up to the server's SETTINGS: in TLS 1.3 a client is connected
 * before the server has judged its certificate, so what ends before that is a connect failure.
 */
export function mutualTlsDial(context: DialContext): Dial {
  const { clock, random, http2, connectMs } = context;
  return async (target, identity, events) => {
    const { address, port, expect } = target;
    const socket = await dialMutualTls({
      address,
      port,
      identity,
      expect,
      clock,
      timeoutMs: connectMs,
      alpn: ["h2"],
    });
    if (isRefusal(socket)) return socket;
    const peer = provenPeerOf(socket);
    if (peer === undefined) {
      socket.destroy();
      return connectFailed("its peer was not proven");
    }
    try {
      const connection = await connectHttp2(socket, {
        clock,
        random,
        options: http2,
        onClosed: (because) => events.closed(because),
        onGoaway: () => events.goaway(),
      });
      return { connection, peer: peer.leaf };
    } catch (thrown) {
      socket.destroy();
      return thrown instanceof HauberkError
        ? refuse(thrown.code, thrown.message, thrown.hint)
        : connectFailed(messageOf(thrown));
    }
  };
}
