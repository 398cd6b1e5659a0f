import type { Clock } from "../base/clock.ts";
import type { OptionValues } from "../base/options.ts";
import type { RoomShare } from "./body-room.ts";
import type { Random } from "../base/random.ts";
import type { http2Options } from "./http2-options.ts";
import type { LentReads } from "./lent-reads.ts";
import type { ProofExchange } from "./proof.ts";

/** What a connection is given beside its socket. */
export interface Http2Context {
  readonly clock: Clock;
  readonly options: OptionValues<typeof http2Options>;
  /** The connection is over; called once, after every exchange has heard of it. */
  onClosed(because: string): void;
  /** The peer takes no new request. */
  onGoaway?(): void;
  /** A client's exchange has ended: its place is free. Called in the middle of what ended it. */
  onFreed?(): void;
  /** Something of ours threw: it cost a stream, or the connection, and this is for the log. */
  readonly onFault?: ((thrown: unknown) => void) | undefined;
  readonly random?: Random;
  /** Proves renewed certificates on this connection; without it none is announced, sent or taken. */
  readonly proofs?: ProofExchange;
  /** Where bodies have room beyond the window that every connection has; without it, in a room of its own. */
  readonly room?: RoomShare | undefined;
  /** What the socket reads with, where it has no buffers of its own. */
  readonly reads?: LentReads;
}
