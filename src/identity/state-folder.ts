import { createHash } from "node:crypto";
import { chmodSync, readdirSync, rmSync, statSync } from "node:fs";
import { open, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../base/clock.ts";
import { HauberkError, isRefusal, messageOf } from "../base/errors.ts";
import type { Logger } from "../telemetry/logger.ts";
import { makeFolder, removeEmpty } from "./make-folder.ts";
import { lockFiles, takeLock, type StateLock } from "./state-lock.ts";

/**
 * The folder in which one sidecar keeps what must outlive it: 0700, locked, every file 0600 and whole or not there.
 *
 * A file is written beside its place, synced, renamed into it, and the folder is synced: after a power cut there is the old
 * one or the new one. Its first line carries the SHA-256 of the rest, so that what the disk itself damaged is noticed;
 * such a file is set aside under another name, for a person to look at, and counts as missing.
 */
const digestLine = /^# hauberk-state 1 sha256:([0-9a-f]{64})\n/;
const nameForm = /^[a-z0-9][a-z0-9.-]{0,99}$/;
const fileBytesMax = 64 * 1024 * 1024;
/** Damaged files that are kept at most; the oldest go first. */
const damagedMax = 5;

export interface StateContext {
  readonly clock: Clock;
  readonly log: Logger;
  /** Aborts where the process ends in that very turn: what was just made is gone again. */
  readonly givenUp?: AbortSignal | undefined;
}

export class StateFolder {
  readonly path: string;
  readonly #lock: StateLock;
  readonly #context: StateContext;
  /** The folders that were made for it, outermost first; none where it was there. */
  readonly #made: readonly string[];
  /** Writes happen one after the other: two of the same name must not mix. */
  #writing: Promise<void> = Promise.resolve();
  #count = 0;

  private constructor(path: string, held: { lock: StateLock; made: readonly string[] }, context: StateContext) {
    this.path = path;
    this.#lock = held.lock;
    this.#made = held.made;
    this.#context = context;
  }

  /**
   * Makes the folder where it is missing, closes it to others, and takes its lock.
   * @throws HauberkError STATE_LOCKED where another process holds it, STATE_DAMAGED where it belongs to somebody else, USAGE where
   * it cannot be made.
   */
  static async open(path: string, context: StateContext): Promise<StateFolder> {
    const made = makeFolder(path, { mode: 0o700 });
    closeToOthers(path);
    const lock = takeLock(path);
    if (isRefusal(lock)) throw HauberkError.from(lock);
    const folder = new StateFolder(path, { lock, made }, context);
    const abandon = (): void => folder.abandonNow();
    context.givenUp?.addEventListener("abort", abandon);
    await folder.#sweep().finally(() => context.givenUp?.removeEventListener("abort", abandon));
    return folder;
  }

  /** Lets go of the lock when what is being written is on disk. */
  async close(): Promise<void> {
    await this.#writing;
    this.#lock.release();
  }

  /** As `close`; and where this process made the folder and kept nothing in it, it is gone again, with those above it. */
  async abandon(): Promise<void> {
    await this.#writing;
    this.abandonNow();
  }

  /** As `abandon`, for a process that ends in this very turn: a file that is half written stays, and so does its folder. */
  abandonNow(): void {
    try {
      const empty = this.#made.length > 0 && readdirSync(this.path).every((name) => lockFiles.includes(name));
      // While the lock is held: whoever comes now is refused, and whoever comes then makes the folder anew.
      if (empty) {
        for (const name of lockFiles) rmSync(join(this.path, name), { force: true });
        removeEmpty(this.#made);
      }
    } catch {
      // Somebody has removed it, or closed it to us; why the start came to nothing is told, not this.
    } finally {
      this.#lock.release();
    }
  }

  /** The text under this name; undefined where there is none, or a damaged one, which is set aside and logged. */
  async read(name: string): Promise<string | undefined> {
    let text: string;
    try {
      const handle = await open(this.#place(name), "r");
      try {
        if ((await handle.stat()).size > fileBytesMax) return await this.setAside(name, "it is too large");
        text = await handle.readFile("utf8");
      } finally {
        await handle.close();
      }
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw unreadable(this.#place(name), thrown);
    }
    const [line, digest] = digestLine.exec(text) ?? [];
    if (line === undefined) return this.setAside(name, "its first line is no digest");
    const body = text.slice(line.length);
    if (sha256(body) !== digest) return this.setAside(name, "its digest does not match");
    return body;
  }

  /** Puts `body` under this name, whole and synced, or throws and leaves what was there. */
  write(name: string, body: string): Promise<void> {
    const written = this.#writing.then(() => this.#writeNow(name, body));
    this.#writing = written.catch(() => undefined);
    return written;
  }

  /** Removes it; one that is not there is as good. */
  async remove(name: string): Promise<void> {
    await this.#writing;
    await rm(this.#place(name), { force: true });
  }

  /** Renames a file that cannot be used, so that it is neither read again nor lost. */
  async setAside(name: string, because: string): Promise<undefined> {
    const aside = `${name}.damaged-${this.#context.clock.wallMs()}`;
    await rename(this.#place(name), join(this.path, aside));
    this.#context.log.error("a state file is damaged and was set aside", { file: this.#place(name), aside, because });
    await this.#forgetOldDamage();
    return undefined;
  }

  async names(): Promise<readonly string[]> {
    return readdir(this.path);
  }

  #place(name: string): string {
    if (!nameForm.test(name)) {
      throw new HauberkError("BUG", `Cannot keep "${name}": it is no name of a state file`, "Report this with the log");
    }
    return join(this.path, name);
  }

  async #writeNow(name: string, body: string): Promise<void> {
    const place = this.#place(name);
    const beside = join(this.path, `.${name}.${process.pid}.${this.#count++}.tmp`);
    try {
      const handle = await open(beside, "wx", 0o600);
      try {
        await handle.writeFile(`# hauberk-state 1 sha256:${sha256(body)}\n${body}`, "utf8");
        await handle.sync();
      } finally {
        await handle.close();
      }
      await rename(beside, place);
      await syncFolder(this.path);
    } catch (thrown) {
      await rm(beside, { force: true });
      throw thrown;
    }
  }

  /** Removes what a process that was killed while writing left half-written. */
  async #sweep(): Promise<void> {
    for (const name of await readdir(this.path)) {
      if (name.startsWith(".") && name.endsWith(".tmp")) await rm(join(this.path, name), { force: true });
    }
  }

  async #forgetOldDamage(): Promise<void> {
    const damaged = (await readdir(this.path)).filter((name) => name.includes(".damaged-"));
    const since = (name: string): number => Number(name.slice(name.lastIndexOf("-") + 1));
    damaged.sort((a, b) => since(b) - since(a));
    for (const name of damaged.slice(damagedMax)) await rm(join(this.path, name), { force: true });
  }
}

/** SHA-256 in lower-case hexadecimal digits. */
export function sha256(text: string): string {
  return createHash("sha256").update(text, "utf8").digest("hex");
}

function closeToOthers(path: string): void {
  const stat = statSync(path);
  const own = process.getuid?.();
  if (own !== undefined && stat.uid !== own) {
    throw new HauberkError(
      "STATE_DAMAGED",
      `Cannot keep a key in ${path}: it belongs to user ${stat.uid} and not to user ${own}, who runs this`,
      "Give this process a folder of its own with --state DIR",
    );
  }
  if ((stat.mode & 0o077) !== 0) chmodSync(path, 0o700);
}

async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function unreadable(place: string, thrown: unknown): HauberkError {
  return new HauberkError(
    "STATE_DAMAGED",
    `Cannot read ${place}: ${messageOf(thrown)}`,
    "Check who owns it, or name another folder with --state DIR",
    thrown,
  );
}
