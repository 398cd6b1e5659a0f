import type { Clock } from "../base/clock.ts";
import { isRefusal, messageOf, refuse, type Refusal } from "../base/errors.ts";
import { readDown } from "../contract/read-watch.ts";
import { stateLines } from "../contract/state-lines.ts";
import type { StateFolder } from "../identity/state-folder.ts";
import type { Logger } from "../telemetry/logger.ts";
import { apply, nothingYet, type WatchState } from "./watch-state.ts";

/**
 * The last good state on disk, 0600 and with its digest (the state folder sees to both): with it a sidecar serves across its own
 * restart while the control plane is away. It is kept as the lines of the full message that would have brought it.
 */
const fileName = "snapshot.json";

export class SnapshotFile {
  readonly #folder: StateFolder;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #writeMs: number;
  #waiting: WatchState | undefined;
  #cancel: (() => void) | undefined;

  constructor(use: { folder: StateFolder; clock: Clock; log: Logger; writeMs: number }) {
    this.#folder = use.folder;
    this.#clock = use.clock;
    this.#log = use.log;
    this.#writeMs = use.writeMs;
  }

  /** What was good when it was written; nothing where there is none, or one that cannot be used: that is set aside and logged. */
  async read(): Promise<WatchState> {
    const text = await this.#folder.read(fileName);
    if (text === undefined) return nothingYet;
    const state = stateOf(text);
    if (!isRefusal(state)) return state;
    await this.#folder.setAside(fileName, state.message);
    return nothingYet;
  }

  /** Sets aside what was read but cannot be used. */
  async refuse(because: string): Promise<void> {
    await this.#folder.setAside(fileName, because);
  }

  /** Writes soon; several changes in a row are written once. */
  keep(state: WatchState): void {
    this.#waiting = state;
    this.#cancel ??= this.#clock.after(this.#writeMs, () => {
      void this.flush();
    });
  }

  /** Writes what waits. A disk that is full costs the next restart its snapshot, not this process its traffic. */
  async flush(): Promise<void> {
    this.#cancel?.();
    this.#cancel = undefined;
    const state = this.#waiting;
    this.#waiting = undefined;
    if (state?.version === undefined) return;
    try {
      // That a name was unknown is worth nothing later: a policy may have been applied since.
      const set = [...state.entries].filter(([, value]) => value !== null).map((entry) => JSON.stringify(entry));
      const lines = stateLines({ type: "full", version: state.version, set, gone: [] });
      await this.#folder.write(fileName, [...lines].join(""));
    } catch (thrown) {
      this.#log.error("the snapshot could not be kept on disk", { because: messageOf(thrown) });
    }
  }
}

function stateOf(text: string): WatchState | Refusal {
  let state = nothingYet;
  for (const line of text.trimEnd().split("\n")) {
    const message = readDown(line);
    if (isRefusal(message)) return message;
    const wanted = state.version === undefined ? "full" : "delta";
    if ((message.type !== "full" && message.type !== "delta") || message.type !== wanted)
      return refuse("STATE_DAMAGED", "Cannot read the snapshot: it is no full state", "Wait for the control plane");
    const next = apply(state, message);
    if (isRefusal(next)) return next;
    state = next;
  }
  return state;
}
