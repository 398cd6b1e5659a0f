/** How large anything on the wire between control plane and sidecar may be. Both ends keep to the same table. */
export const limits = {
  /** A line from a sidecar. */
  upLineBytesMax: 64 * 1024,
  /** A line from the control plane: the full state of one sidecar. */
  downLineBytesMax: 16 * 1024 * 1024,
  /** Nesting of objects and lists in any message. */
  depthMax: 24,
  entriesMax: 4_096,
  subscriptionsMax: 512,
  endpointsMax: 10_000,
  routeePortsMax: 32,
  policiesMax: 10_000,
  rulesMax: 1_000,
  listMax: 1_000,
  rootsMax: 16,
  urlsMax: 16,
  /** Base64 of a certificate or a request of at most 16 KiB of DER. */
  derTextMax: 22_000,
  tokenMax: 8_192,
  sentenceMax: 512,
} as const;
