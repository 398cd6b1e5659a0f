import { isGrpcType } from "../http/grpc.ts";
import { fieldOf, type RequestHead } from "../http/message.ts";

/** What is seen of a stream each time somebody looks. */
export interface StreamMoves {
  readonly head: Pick<RequestHead, "fields">;
  readonly tunnel: boolean;
  readonly answered: boolean;
  readonly remoteEnded: boolean;
  /** Bytes of body that have come so far. */
  readonly arrived: number;
  /** Handed up and not consumed: while there are any, the client is not who is slow. */
  readonly unconsumed: number;
  /** What waits to be sent, and how much of it the client would take. */
  readonly queued: number;
  /** Nothing follows what is queued. */
  readonly ending: boolean;
  readonly sendWindow: number;
}

export interface SlownessLimits {
  /** Of a request's body, until its answer begins; 0 for any. */
  readonly bodyBytesPerSecond: number;
  /** How long a client may take nothing of its answer, or send nothing of a gRPC call. */
  readonly stallMs: number;
}

/**
 * Whether the client of a stream keeps it open without moving it: such streams are what the routee's places are taken with
 * (slowloris, slow reading). Looked at from time to time; a tunnel that is open, and a gRPC call that its server has begun to answer,
 * may be silent for as long as they like.
 */
export class Slowness {
  #arrived = 0;
  #queued = 0;
  #sendWindow = 0;
  #stillMs = 0;
  #looked = false;

  /** `sinceMs` have passed since the last look. Gives why it is too slow, or undefined. */
  look(stream: StreamMoves, sinceMs: number, limits: SlownessLimits): string | undefined {
    const before = { arrived: this.#arrived, queued: this.#queued, sendWindow: this.#sendWindow };
    const first = !this.#looked;
    this.#looked = true;
    this.#arrived = stream.arrived;
    this.#queued = stream.queued;
    this.#sendWindow = stream.sendWindow;
    // The first look may come a moment after the stream did.
    if (first) return undefined;
    // Of a tunnel whose both directions have ended nobody but its client is waited for.
    if (stream.tunnel && !(stream.remoteEnded && stream.ending)) return undefined;
    if (stream.queued > 0) {
      const still = stream.queued === before.queued && stream.sendWindow === before.sendWindow;
      return this.#stillFor(still, sinceMs, limits) ? "the client does not read its answer" : undefined;
    }
    if (stream.remoteEnded || stream.answered || stream.unconsumed > 0) {
      this.#stillMs = 0;
      return undefined;
    }
    const moved = stream.arrived - before.arrived;
    // Its client may wait for an event before it goes on with a stream of messages.
    if (isGrpcType(fieldOf(stream.head.fields, "content-type") ?? "")) {
      return this.#stillFor(moved === 0, sinceMs, limits) ? "the client sends nothing of its call" : undefined;
    }
    const enough = (limits.bodyBytesPerSecond * sinceMs) / 1_000;
    return moved < enough ? "the client sends its body too slowly" : undefined;
  }

  #stillFor(still: boolean, sinceMs: number, limits: SlownessLimits): boolean {
    this.#stillMs = still ? this.#stillMs + sinceMs : 0;
    return this.#stillMs >= limits.stallMs;
  }
}
