/** How large anything on the wire between control plane and sidecar may be. Both ends keep to the same table. */
export const limits = {
  /** A line from a sidecar. The longest is a hello with every subscription: 512 names of at most 127 characters. */
  upLineBytesMax: 128 * 1024,
  /** A line from the control plane: at least one entry of a state, the largest of which is a service. */
  downLineBytesMax: 16 * 1024 * 1024,
  /** One service's policies, or one provider, as JSON. */
  policyBytesMax: 6 * 1024 * 1024,
  /** One service's endpoints, as JSON: some 50,000 of usual size. */
  endpointBytesMax: 8 * 1024 * 1024,
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
