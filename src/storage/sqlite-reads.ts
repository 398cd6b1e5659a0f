import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite";
import { HauberkError } from "../base/errors.ts";
import type { Registration, Version } from "../contract/watch.ts";
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
import type { StoreReads } from "./store.ts";

/** Statements of one connection, prepared at their first use: their number is that of the texts in the code. */
export class Statements {
  readonly #db: DatabaseSync;
  readonly #prepared = new Map<string, StatementSync>();

  constructor(db: DatabaseSync) {
    this.#db = db;
  }

  of(sql: string): StatementSync {
    let statement = this.#prepared.get(sql);
    if (statement === undefined) {
      statement = this.#db.prepare(sql);
      this.#prepared.set(sql, statement);
    }
    return statement;
  }
}

const pageDefault = 1_000;
const pageMax = 10_000;

function limitOf(page: Page<unknown>): number {
  return Math.min(Math.max(1, Math.floor(page.limit ?? pageDefault)), pageMax);
}

/** Every column of a leaf but the row number. */
export const leafColumns =
  "serial, holder, owner, parent, token, keyHash, issuedAtMs, notAfterMs, seenAtMs, childSeen, status, der";

/** Put together once: a text made anew at each call would be hashed anew to find its statement. */
const leafBySerial = `SELECT ${leafColumns} FROM leaves WHERE serial = ?`;
const leafByKeyHash = `SELECT ${leafColumns} FROM leaves WHERE keyHash = ?`;

/** The reads, over one connection: the reader's own for the store, the writer's for a transaction. */
export class SqliteReads implements StoreReads {
  readonly #statements: Statements;

  constructor(statements: Statements) {
    this.#statements = statements;
  }

  /** One row, as SQLite returns it: the columns have the names of the fields. */
  protected one(sql: string, ...values: SQLInputValue[]): unknown {
    return this.statement(sql).get(...values);
  }

  protected all(sql: string, ...values: SQLInputValue[]): unknown[] {
    return this.statement(sql).all(...values);
  }

  /** Overridden by the transaction, which ends. */
  protected statement(sql: string): StatementSync {
    return this.#statements.of(sql);
  }

  async meta(): Promise<StoreMeta> {
    const row = this.one("SELECT trustDomain, epoch, counter, bundleSequence, bundleDigest FROM meta") as
      | (Omit<StoreMeta, "version"> & Version)
      | undefined;
    if (row === undefined) throw damaged("its meta row is missing");
    const { trustDomain, epoch, counter, bundleSequence, bundleDigest } = row;
    return { trustDomain, version: { epoch, counter }, bundleSequence, bundleDigest };
  }

  async token(id: string): Promise<TokenRow | undefined> {
    return this.one("SELECT * FROM tokens WHERE id = ?", id) as TokenRow | undefined;
  }

  async tokens(page: Page = {}): Promise<TokenRow[]> {
    return this.all(
      "SELECT * FROM tokens WHERE id > ? ORDER BY id LIMIT ?",
      page.after ?? "",
      limitOf(page),
    ) as TokenRow[];
  }

  async instance(id: string): Promise<InstanceRow | undefined> {
    return this.one("SELECT * FROM instances WHERE id = ?", id) as InstanceRow | undefined;
  }

  async instances(page: Page = {}): Promise<InstanceRow[]> {
    return this.all(
      "SELECT * FROM instances WHERE id > ? ORDER BY id LIMIT ?",
      page.after ?? "",
      limitOf(page),
    ) as InstanceRow[];
  }

  async leaf(serial: string): Promise<LeafRow | undefined> {
    return this.one(leafBySerial, serial) as LeafRow | undefined;
  }

  async leafByKey(keyHash: string): Promise<LeafRow | undefined> {
    return this.one(leafByKeyHash, keyHash) as LeafRow | undefined;
  }

  async lineage(serial: string): Promise<Lineage | undefined> {
    const leaf = await this.leaf(serial);
    if (leaf === undefined) return undefined;
    const instance = leaf.holder === "workload" ? await this.instance(leaf.owner) : undefined;
    // A leaf that was seen itself is the seen child, or was forgiven by an unlock: its parent is of no interest.
    const asked = leaf.parent !== null && leaf.seenAtMs === null;
    const parent = asked ? this.one("SELECT childSeen FROM leaves WHERE serial = ?", leaf.parent) : undefined;
    return { leaf, instance, siblingSeen: (parent as Pick<LeafRow, "childSeen"> | undefined)?.childSeen ?? null };
  }

  async leaves(page: Page & { readonly owner?: string } = {}): Promise<LeafRow[]> {
    const { owner = null, after = "" } = page;
    const sql = `SELECT ${leafColumns} FROM leaves WHERE ${owner === null ? "?1 IS NULL" : "owner = ?1"} AND serial > ?2 ORDER BY serial LIMIT ?3`;
    return this.all(sql, owner, after, limitOf(page)) as LeafRow[];
  }

  async ownerHasLiveLeaf(owner: string, wish: { readonly afterMs: number; readonly seen: boolean }): Promise<boolean> {
    const sql =
      "SELECT 1 FROM leaves WHERE owner = ? AND notAfterMs > ? AND status = 'good' AND (? OR seenAtMs IS NOT NULL) LIMIT 1";
    return this.one(sql, owner, wish.afterMs, wish.seen ? 0 : 1) !== undefined;
  }

  async admin(name: string): Promise<AdminRow | undefined> {
    return this.one("SELECT * FROM admins WHERE name = ?", name) as AdminRow | undefined;
  }

  async admins(): Promise<AdminRow[]> {
    return this.all("SELECT * FROM admins ORDER BY name") as AdminRow[];
  }

  async policies(): Promise<PolicySetRow> {
    const row = this.one('SELECT revision, json, changedAtMs, "by" FROM policies') as PolicySetRow | undefined;
    if (row === undefined) throw damaged("its policies row is missing");
    return row;
  }

  async registration(instance: string): Promise<RegistrationRow | undefined> {
    const row = this.one("SELECT * FROM registrations WHERE instance = ?", instance) as StoredRegistration | undefined;
    return row === undefined ? undefined : registrationOf(row);
  }

  async registrations(): Promise<RegistrationRow[]> {
    return (this.all("SELECT * FROM registrations ORDER BY instance") as StoredRegistration[]).map(registrationOf);
  }

  async audit(page: Page<number> = {}): Promise<AuditRow[]> {
    const sql = "SELECT seq, atMs, line FROM audit WHERE seq > ? ORDER BY seq LIMIT ?";
    return this.all(sql, page.after ?? 0, limitOf(page)) as AuditRow[];
  }
}

interface StoredRegistration extends Omit<RegistrationRow, "registration" | "stale"> {
  readonly registration: string;
  readonly stale: number;
}

function registrationOf(row: StoredRegistration): RegistrationRow {
  return { ...row, registration: JSON.parse(row.registration) as Registration, stale: row.stale === 1 };
}

function damaged(because: string): HauberkError {
  return new HauberkError("STORE_FAILED", `Cannot read the store: ${because}`, "Restore it from a backup");
}
