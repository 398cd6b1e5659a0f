import type { Version } from "../contract/watch.ts";
import type {
  AdminRow,
  AuditRow,
  InstanceRow,
  LeafRow,
  Lineage,
  Page,
  PolicySetRow,
  RegistrationRow,
  StoreMeta,
  TokenRow,
} from "./rows.ts";

/**
 * The store: everything that a control plane must not forget, behind one port with several drivers.
 * Reads see what is committed. Changes happen inside `write`, whole or not at all.
 * A driver is right when the suite of `store-contract.ts` passes with it.
 */
export interface Store extends StoreReads {
  readonly trustDomain: string;
  /**
   * Runs `work` in a transaction, one after the other. It is durable when the promise resolves; it leaves nothing behind
   * when `work` throws. A returned refusal commits, with its audit line. `work` awaits nothing but `tx`, and never `write`.
   * Throws STORE_FAILED when the database fails.
   */
  write<T>(work: (tx: StoreTx) => Promise<T>): Promise<T>;
  /** Called after each commit that moved the version; returns its cancel. */
  onChange(listener: (version: Version) => void): () => void;
  /** Waits for the transactions under way. */
  close(): Promise<void>;
}

export interface StoreReads {
  meta(): Promise<StoreMeta>;
  token(id: string): Promise<TokenRow | undefined>;
  tokens(page?: Page): Promise<TokenRow[]>;
  instance(id: string): Promise<InstanceRow | undefined>;
  instances(page?: Page): Promise<InstanceRow[]>;
  leaf(serial: string): Promise<LeafRow | undefined>;
  leafByKey(keyHash: string): Promise<LeafRow | undefined>;
  lineage(serial: string): Promise<Lineage | undefined>;
  leaves(page?: Page & { readonly owner?: string }): Promise<LeafRow[]>;
  /** Whether `owner` has a good leaf that ends after `afterMs`; with `seen`, one that was seen on a connection. */
  ownerHasLiveLeaf(owner: string, wish: { readonly afterMs: number; readonly seen: boolean }): Promise<boolean>;
  admin(name: string): Promise<AdminRow | undefined>;
  admins(): Promise<AdminRow[]>;
  policies(): Promise<PolicySetRow>;
  registration(instance: string): Promise<RegistrationRow | undefined>;
  /** All of them, by instance. */
  registrations(): Promise<RegistrationRow[]>;
  /** Oldest first. */
  audit(page?: Page<number>): Promise<AuditRow[]>;
}

/** What a transaction can do; its reads see its own changes. Unusable when the transaction has ended. */
export interface StoreTx extends StoreReads {
  insertToken(row: TokenRow): Promise<void>;
  /** One conditional update: true when the token was unused (or has uses left), unrevoked and unexpired, and now is used once more. */
  redeemToken(id: string, atMs: number): Promise<boolean>;
  /** False when it is unknown or was revoked before. */
  revokeToken(id: string, atMs: number): Promise<boolean>;

  insertInstance(row: InstanceRow): Promise<void>;
  /** False when it is unknown or locked already. Moves the version. */
  lockInstance(id: string, lock: { readonly atMs: number; readonly because: string }): Promise<boolean>;
  /** Also forgets which of its leaves were seen or superseded, so that the lineage can go on. Moves the version. */
  unlockInstance(id: string, atMs: number): Promise<boolean>;
  /** False when it is unknown or ended already. Moves the version. */
  endInstance(id: string, atMs: number): Promise<boolean>;
  /** One conditional update: true when fewer than `max` recoveries happened in the window, and now is one more. */
  countRecovery(
    id: string,
    limit: { readonly atMs: number; readonly windowMs: number; readonly max: number },
  ): Promise<boolean>;

  /** Throws when serial or key exist. Also moves the instance's `leafEndsAtMs`. */
  insertLeaf(row: LeafRow): Promise<void>;
  /** True the first time. Its parent remembers it as the first child that was seen, if it is. */
  markSeen(serial: string, atMs: number): Promise<boolean>;
  /** The unseen good leaves of `owner` that end after `atMs` become superseded. */
  supersedeUnseen(owner: string, atMs: number): Promise<void>;
  /** Every good leaf of the owner becomes revoked; returns how many. */
  revokeLeaves(owner: string): Promise<number>;

  insertAdmin(row: AdminRow): Promise<void>;
  /** Makes a revoked administrator one again, or the other way round. */
  setAdminRevoked(name: string, atMs: number | null): Promise<boolean>;

  /** The whole set, replaced. Undefined when `ifRevision` is given and is not the current one. Moves the version. */
  putPolicies(set: {
    readonly json: string;
    readonly atMs: number;
    readonly by: string;
    readonly ifRevision?: number;
  }): Promise<PolicySetRow | undefined>;

  /** Inserts or replaces; moves the version, unless nothing but `changedAtMs` differs. Returns whether it moved. */
  putRegistration(row: RegistrationRow): Promise<boolean>;
  /** Moves the version when there was one. */
  removeRegistration(instance: string): Promise<boolean>;

  appendAudit(entry: { readonly atMs: number; readonly line: string }): Promise<void>;

  /** Publishes another set of roots: the sequence grows, the version moves. Returns the sequence. */
  setBundleDigest(digest: string): Promise<number>;
  /** Moves the version by one; for changes that the store does not see. */
  bump(): Promise<Version>;
  /** A new epoch (random, 128 bits in hexadecimal), for a store that was restored from a backup. */
  renewEpoch(epoch: string): Promise<Version>;

  /** Deletes at most `rowsMax` rows of each kind that are older than the given times; returns what it deleted. */
  prune(limits: PruneLimits): Promise<Pruned>;
}

export interface PruneLimits {
  /** Leaves that ended before. */
  readonly leavesBeforeMs: number;
  /** Tokens that expired before. */
  readonly tokensBeforeMs: number;
  /** Instances without registration whose last leaf ended before. */
  readonly instancesBeforeMs: number;
  /** Audit lines written before, and the oldest beyond `auditMax`, among the `rowsMax` oldest. */
  readonly auditBeforeMs: number;
  readonly auditMax: number;
  readonly rowsMax: number;
}

export interface Pruned {
  readonly leaves: number;
  readonly tokens: number;
  readonly instances: number;
  readonly audit: number;
}
