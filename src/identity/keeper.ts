import type { Logger } from "../telemetry/logger.ts";
import type { StateFolder } from "./state-folder.ts";
import { readRecovery, writeIdentity, writeRecovery, type Recovery, type Stored } from "./stored-identity.ts";

/** Keeps identities on disk one after the other, because the files of two must not mix, and the recovery file in step with them. */
export class Keeper {
  readonly #folder: StateFolder;
  readonly #log: Logger;
  #recovery: Recovery | undefined;
  #saving: Promise<void> = Promise.resolve();

  private constructor(use: { folder: StateFolder; log: Logger; recovery: Recovery | undefined }) {
    this.#folder = use.folder;
    this.#log = use.log;
    this.#recovery = use.recovery;
  }

  static async open(folder: StateFolder, log: Logger): Promise<Keeper> {
    return new Keeper({ folder, log, recovery: await readRecovery(folder) });
  }

  /** What brings this instance back; undefined before it was ever enrolled, or where the file was damaged. */
  get recovery(): Recovery | undefined {
    return this.#recovery;
  }

  /** To be called with what an enrollment wrote. */
  enrolled(recovery: Recovery): void {
    this.#recovery = recovery;
  }

  save(stored: Stored): Promise<void> {
    const saved = this.#saving.then(() => this.#saveNow(stored));
    this.#saving = saved.catch(() => undefined);
    return saved;
  }

  /** Resolves when nothing is being written. */
  settled(): Promise<void> {
    return this.#saving;
  }

  async #saveNow(stored: Stored): Promise<void> {
    await writeIdentity(this.#folder, stored);
    const { roots, enrollmentUrls } = stored.issued;
    const before = this.#recovery;
    if (before === undefined || isSame(before, { roots, enrollmentUrls })) return;
    this.#recovery = { ...before, roots, enrollmentUrls };
    await writeRecovery(this.#folder, this.#recovery);
    this.#log.debug("the recovery file follows the bundle and the addresses", { roots: roots.length });
  }
}

function isSame(before: Recovery, now: Pick<Recovery, "roots" | "enrollmentUrls">): boolean {
  if (before.enrollmentUrls.join() !== now.enrollmentUrls.join() || before.roots.length !== now.roots.length)
    return false;
  return before.roots.every((root, i) => now.roots[i]?.der.equals(root.der) === true);
}
