import type { KeyObject } from "node:crypto";
import type { SpiffeId } from "../base/spiffe-id.ts";
import type { Certificate } from "./certificate.ts";

/** Everything that a TLS connection of this workload is made with: one frozen value, replaced whole. */
export interface TlsIdentity {
  readonly id: SpiffeId;
  /** Leaf first, then the intermediate; the root is not among them. */
  readonly chain: readonly Certificate[];
  readonly key: KeyObject;
  /** The bundle of the own trust domain: at least one root. */
  readonly roots: readonly Certificate[];
  readonly bundleSequence: number;
  /** When the authority signed it: life counts from here, not from the backdated notBefore. */
  readonly issuedAtMs: number;
  readonly notAfterMs: number;
  /** Counts up with each publication in this process. */
  readonly generation: number;
}
