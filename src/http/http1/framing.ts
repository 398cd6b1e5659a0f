import type { FailureCode } from "../../base/errors.ts";

/** How the end of a message's body is known (RFC 9112, 6.3). */
export const framings = { none: 0, fixed: 1, chunked: 2, untilClose: 3 } as const;
export type Framing = (typeof framings)[keyof typeof framings];

/** Reads whole heads; one reader serves all messages of a connection, and its fields describe the last head. */
export interface HeadReader<Head extends { bodyLength: number }> {
  readonly kind: "request" | "response";
  readonly head: Head;
  readonly framing: Framing;
  /** The head is a 1xx answer: another head follows. */
  readonly interim: boolean;
  readonly code: FailureCode;
  readonly because: string;
  /** `text` is the head up to and with the CRLF of its last line. */
  read(text: string): boolean;
  /** Keeps what the head that was just read says, for `repeat`; false where the same bytes may one day say something else. */
  keep(): boolean;
  /** Says what was kept once more, in a head of its own, as if the same bytes had been read; false where it cannot. */
  repeat(): boolean;
}
