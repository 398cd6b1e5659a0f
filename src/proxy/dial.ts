import type { Clock } from "../base/clock.ts";
import { HauberkError, isRefusal, messageOf, refuse } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { Published } from "../base/published.ts";
import type { Random } from "../base/random.ts";
import type { RoomShare } from "../transport/body-room.ts";
import { connectHttp2 } from "../transport/http2-client.ts";
import type { http2Options } from "../transport/http2-options.ts";
import { LentReads } from "../transport/lent-reads.ts";
import type { OnProof } from "../transport/proof.ts";
import { dialMutualTls, tenureOf } from "../transport/tls-dial.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { connectFailed, type Dial } from "./hop.ts";

export interface DialContext {
  readonly clock: Clock;
  readonly random: Random;
  readonly http2: OptionValues<typeof http2Options>;
  readonly room?: RoomShare | undefined;
  readonly connectMs: number;
  /** What this side shows and trusts when a certificate is proven anew on a running connection. */
  readonly identity: Published<TlsIdentity | undefined>;
  readonly onProof: OnProof;
  /** Something of ours threw on a connection: for the log. */
  readonly onFault?: (thrown: unknown) => void;
}

/**
 * Mutual TLS to exactly the expected SPIFFE ID, then HTTP/2 up to the server's SETTINGS: in TLS 1.3 a client is connected
 * before the server has judged its certificate, so what ends before that is a connect failure.
 */
export function mutualTlsDial(context: DialContext): Dial {
  const { clock, random, http2, room, connectMs, onProof } = context;
  return async (target, identity, events) => {
    const { address, port, expect } = target;
    const reads = new LentReads();
    const socket = await dialMutualTls({
      address,
      port,
      identity,
      expect,
      clock,
      timeoutMs: connectMs,
      alpn: ["h2"],
      current: () => context.identity.read(),
      onProof,
      onFault: context.onFault,
      reads,
    });
    if (isRefusal(socket)) return socket;
    const tenure = tenureOf(socket);
    if (tenure === undefined) {
      socket.destroy();
      return connectFailed("its peer was not proven");
    }
    try {
      const connection = await connectHttp2(socket, {
        clock,
        random,
        options: http2,
        room,
        onClosed: (because) => events.closed(because),
        onGoaway: () => events.goaway(),
        onFault: context.onFault,
        proofs: tenure.proofs,
        reads,
      });
      tenure.carries(connection);
      return { connection, peer: tenure.peer.leaf, tenure };
    } catch (thrown) {
      socket.destroy();
      return thrown instanceof HauberkError
        ? refuse(thrown.code, thrown.message, thrown.hint)
        : connectFailed(messageOf(thrown));
    }
  };
}
