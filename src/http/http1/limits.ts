/** What one message may cost before it is refused. */
export interface Http1Limits {
  /** Start line and fields with their line ends; trailers have as much again. */
  readonly headBytesMax: number;
  readonly fieldsMax: number;
  /** Chunk extensions of one whole message: they carry nothing for us, and cost a sender little. */
  readonly extensionBytesMax: number;
}
