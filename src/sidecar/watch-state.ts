import { refuse, type Refusal } from "../base/errors.ts";
import type { Down, StateEntry, StateValue, Version } from "../contract/watch.ts";

/** All that the control plane told this sidecar: a value; a message goes in, the next value comes out. */
export interface WatchState {
  readonly version: Version | undefined;
  readonly entries: ReadonlyMap<string, StateValue>;
}

export const nothingYet: WatchState = { version: undefined, entries: new Map() };

/** A delta counts on: it has the epoch of what it changes, and no smaller counter: an answer to a subscription keeps it. A full state always counts. */
export function apply(state: WatchState, message: Extract<Down, { type: "full" | "delta" }>): WatchState | Refusal {
  if (message.type === "full") return { version: message.version, entries: new Map(message.entries) };
  const { version } = state;
  if (version === undefined || version.epoch !== message.version.epoch || message.version.counter < version.counter) {
    return refuse(
      "MESSAGE_INVALID",
      `Cannot apply the delta ${message.version.epoch}:${message.version.counter}: the state is at ${version === undefined ? "none" : `${version.epoch}:${version.counter}`}`,
      "Open the watch anew for the full state",
    );
  }
  const entries = new Map(state.entries);
  for (const key of message.gone) entries.delete(key);
  for (const [key, value] of message.set) entries.set(key, value);
  return { version: message.version, entries };
}

/** The keys of services, with what is known of them. */
export function servicesOf(state: WatchState): StateEntry[] {
  return [...state.entries].filter(([key]) => key.startsWith("service/"));
}
