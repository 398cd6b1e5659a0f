import { chmodSync, closeSync, lstatSync, mkdirSync, openSync } from "node:fs";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";
import type { Clock } from "../base/clock.ts";
import { HauberkError, messageOf } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import { randomId, type Random } from "../base/random.ts";
import type { Version } from "../contract/watch.ts";
import type { storageOptions } from "./options.ts";
import { migrate } from "./sqlite-schema.ts";
import { SqliteReads, Statements } from "./sqlite-reads.ts";
import { SqliteTx } from "./sqlite-tx.ts";
import type { Store, StoreTx } from "./store.ts";
import { syncPath } from "./sync-path.ts";

/**
 * The store inside the process, on node:sqlite. Two connections to one file: transactions run on the writer, one after
 * the other; reads run on a reader of their own and never see what is not committed.
 */
export interface SqliteStoreContext {
  /** Made with mode 0600 if there is none; its folder with 0700. */
  readonly file: string;
  readonly trustDomain: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly options: OptionValues<typeof storageOptions>;
}

/** Opens or makes the store. Throws STORE_NEWER, STORE_FAILED, or CONFIG_INVALID for the store of another trust domain. */
export async function openSqliteStore(context: SqliteStoreContext): Promise<Store> {
  try {
    protect(context.file);
    const writer = connect(context);
    try {
      writer.exec("PRAGMA journal_mode = WAL");
      // FULL waits for the disk at each commit: what was acknowledged survives a power loss.
      writer.exec("PRAGMA synchronous = FULL");
      writer.exec("PRAGMA journal_size_limit = 67108864");
      // 16 MB: a page that many commits changed is copied back once, which saves a twelfth of a renewal's CPU.
      writer.exec("PRAGMA wal_autocheckpoint = 4000");
      const epoch = randomId(context.random);
      migrate(writer, { trustDomain: context.trustDomain, epoch, atMs: context.clock.wallMs() });
      return new SqliteStore(context, writer);
    } catch (thrown) {
      writer.close();
      throw thrown;
    }
  } catch (thrown) {
    throw failed("open", thrown, context.file);
  }
}

/** A private file from its first moment on; SQLite gives its companions (-wal, -shm) the same mode. */
function protect(file: string): void {
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  try {
    closeSync(openSync(file, "wx", 0o600));
    syncFolders(dirname(file));
  } catch (thrown) {
    if ((thrown as { code?: string }).code !== "EEXIST") throw thrown;
    if (!lstatSync(file).isFile()) {
      throw new HauberkError(
        "STORE_FAILED",
        `Cannot open the store: ${file} is not a regular file`,
        "Name another file",
      );
    }
    // By path: to open and close it would drop the locks that this process may hold on it.
    chmodSync(file, 0o600);
  }
}

/** SQLite syncs the file and its own folder; folders that were made for it a moment ago are not safe by that. */
function syncFolders(folder: string): void {
  try {
    syncPath(folder);
  } catch {
    return; // Not this user's: then this user did not make what is in it.
  }
  if (dirname(folder) !== folder) syncFolders(dirname(folder));
}

function connect(context: SqliteStoreContext, readOnly = false): DatabaseSync {
  const db = new DatabaseSync(context.file, {
    readOnly,
    timeout: context.options.busyTimeoutMs,
    defensive: true,
    allowExtension: false,
    enableForeignKeyConstraints: true,
    enableDoubleQuotedStringLiterals: false,
  });
  db.exec("PRAGMA trusted_schema = OFF");
  return db;
}

/** Whether SQLite says that the file is no database any more (SQLITE_CORRUPT, SQLITE_NOTADB), which no waiting mends. */
export function isDamaged(thrown: unknown): boolean {
  const { errcode } = thrown as { errcode?: number };
  return errcode !== undefined && [11, 26].includes(errcode & 0xff);
}

/** An error of ours goes on as it is; anything else becomes STORE_FAILED with its cause. */
function failed(action: "open" | "read" | "write", thrown: unknown, file = ""): HauberkError {
  if (thrown instanceof HauberkError) return thrown;
  const hint = isDamaged(thrown)
    ? "Put a backup back, with the control plane ended: hauberk restore FILE"
    : "Check the disk: space, permissions, and that nothing else writes to the file";
  const what =
    action === "open" ? `open the store ${file}` : action === "read" ? "read the store" : "write to the store";
  return new HauberkError("STORE_FAILED", `Cannot ${what}: ${messageOf(thrown)}`, hint, thrown);
}

/** One transaction that waits, with the ends of its promise. */
interface Job {
  readonly work: (tx: StoreTx) => Promise<unknown>;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

type Outcome = { readonly job: Job; readonly moved: Version | undefined } & (
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly error: unknown }
);

class SqliteStore extends SqliteReads implements Store {
  readonly trustDomain: string;
  readonly #writer: DatabaseSync;
  readonly #reader: DatabaseSync;
  readonly #statements: Statements;
  readonly #groupMax: number;
  readonly #queueMax: number;
  readonly #listeners = new Set<(version: Version) => void>();
  #queue: Job[] = [];
  #draining: Promise<void> | undefined;
  #closed = false;

  constructor(context: SqliteStoreContext, writer: DatabaseSync) {
    const reader = connect(context, true);
    super(new Statements(reader));
    this.trustDomain = context.trustDomain;
    this.#writer = writer;
    this.#reader = reader;
    this.#statements = new Statements(writer);
    this.#groupMax = context.options.groupMax;
    this.#queueMax = context.options.queueMax;
  }

  protected override statement(sql: string): ReturnType<Statements["of"]> {
    if (this.#closed) throw closedError("read");
    return super.statement(sql);
  }

  protected override one(...question: Parameters<SqliteReads["one"]>): unknown {
    try {
      return super.one(...question);
    } catch (thrown) {
      throw failed("read", thrown);
    }
  }

  protected override all(...question: Parameters<SqliteReads["all"]>): unknown[] {
    try {
      return super.all(...question);
    } catch (thrown) {
      throw failed("read", thrown);
    }
  }

  write<T>(work: (tx: StoreTx) => Promise<T>): Promise<T> {
    if (this.#closed) return Promise.reject(closedError("write to"));
    if (this.#queue.length >= this.#queueMax) return Promise.reject(fullError(this.#queue.length));
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#queue.push({ work, resolve, reject });
    this.#draining ??= this.#drain();
    return promise as Promise<T>;
  }

  onChange(listener: (version: Version) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#draining;
    this.#reader.close();
    this.#writer.close();
  }

  /** Whatever arrived in one turn of the event loop shares a commit: the flush to the disk is the dear part. */
  async #drain(): Promise<void> {
    await new Promise<void>((resolve) => {
      setImmediate(resolve);
    });
    while (this.#queue.length > 0) {
      const group = this.#queue.slice(0, this.#groupMax);
      this.#queue = this.#queue.slice(this.#groupMax);
      await this.#commit(group);
    }
    this.#draining = undefined;
  }

  /** Nobody hears of success before the commit; a transaction that fails is undone without the others of its group. */
  async #commit(group: readonly Job[]): Promise<void> {
    const outcomes: Outcome[] = [];
    try {
      this.#statements.of("BEGIN IMMEDIATE").run();
      for (const job of group) outcomes.push(await this.#attempt(job, group.length > 1));
      this.#statements.of("COMMIT").run();
    } catch (thrown) {
      // Not committed at all: also those fail that went well so far.
      this.#undo();
      for (const job of group) job.reject(failed("write", thrown));
      return;
    }
    let moved: Version | undefined;
    for (const outcome of outcomes) {
      if (outcome.ok) {
        outcome.job.resolve(outcome.value);
        moved = outcome.moved ?? moved;
      } else outcome.job.reject(failed("write", outcome.error));
    }
    if (moved !== undefined) this.#tell(moved);
  }

  /** Runs one transaction inside the group's. Throws only when the whole group is lost. */
  async #attempt(job: Job, among: boolean): Promise<Outcome> {
    const tx = new SqliteTx(this.#statements);
    if (among) this.#statements.of("SAVEPOINT job").run();
    try {
      const value = await job.work(tx);
      tx.end();
      if (among) this.#statements.of("RELEASE job").run();
      return { job, ok: true, value, moved: tx.moved };
    } catch (error) {
      tx.end();
      // A full disk or an I/O error makes SQLite undo everything by itself.
      if (!this.#writer.isTransaction) throw error;
      if (!among) {
        this.#statements.of("ROLLBACK").run();
        this.#statements.of("BEGIN IMMEDIATE").run();
      } else {
        this.#statements.of("ROLLBACK TO job").run();
        this.#statements.of("RELEASE job").run();
      }
      return { job, ok: false, error, moved: undefined };
    }
  }

  #undo(): void {
    try {
      if (this.#writer.isTransaction) this.#writer.exec("ROLLBACK");
    } catch {
      // The next BEGIN fails then, and says why.
    }
  }

  #tell(version: Version): void {
    for (const listener of this.#listeners) queueMicrotask(() => listener(version));
  }
}

function closedError(action: string): HauberkError {
  return new HauberkError("STORE_FAILED", `Cannot ${action} the store: it is closed`, "Open it again");
}

function fullError(waiting: number): HauberkError {
  return new HauberkError(
    "STORE_FAILED",
    `Cannot write to the store: ${waiting} transactions wait already`,
    "Try again later, and look at the disk's speed",
  );
}
