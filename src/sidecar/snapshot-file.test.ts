import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import type { StateEntry } from "../contract/watch.ts";
import { StateFolder } from "../identity/state-folder.ts";
import { silent } from "../telemetry/logger.ts";
import { SnapshotFile } from "./snapshot-file.ts";
import type { WatchState } from "./watch-state.ts";

const base = mkdtempSync(join(tmpdir(), "hauberk-snapshot-"));
afterAll(() => rmSync(base, { recursive: true }));

/** Closes what was opened, so that a test that fails leaves no lock. */
async function withFile(name: string, use: (file: SnapshotFile, folder: StateFolder) => Promise<void>): Promise<void> {
  const clock = new ManualClock();
  const folder = await StateFolder.open(join(base, name), { clock, log: silent });
  try {
    await use(new SnapshotFile({ folder, clock, log: silent, writeMs: 0 }), folder);
  } finally {
    await folder.close();
  }
}

const version = { epoch: "e", counter: 7 };

test("a state that the watch brings in several lines is read back as it was, without the names that were unknown", async () => {
  const policies = Array.from({ length: 3_000 }, (_, index) => ({
    kind: "AuthorizationPolicy" as const,
    name: `p${index}`,
    namespace: "default",
    target: { service: "orders", namespace: "default" },
    action: "ALLOW" as const,
    mode: "ENFORCE" as const,
    rules: [{ to: [{ paths: [`/${"x".repeat(500)}`] }] }],
  }));
  const view = { id: "spiffe://t/ns/default/sa/orders", policies, endpoints: [] };
  const known: StateEntry[] = [
    ["own", { policies }],
    ["service/orders.default", view],
  ];
  const state: WatchState = { version, entries: new Map([...known, ["service/none.default", null]]) };
  await withFile("large", async (file, folder) => {
    file.keep(state);
    await file.flush();
    expect((await folder.read("snapshot.json"))?.trimEnd().split("\n")).toHaveLength(2);
    expect(await file.read()).toEqual({ version, entries: new Map(known) });
  });
});

test.each([
  ["a delta", `{"type":"delta","version":{"epoch":"e","counter":1},"set":[],"gone":[]}\n`],
  ["two full states", `{"type":"full","version":{"epoch":"e","counter":1},"entries":[]}\n`.repeat(2)],
  ["another message", `{"type":"goodbye","because":"x"}\n`],
  ["no message", "nothing\n"],
])("%s on disk is no snapshot, and is set aside", async (name, text) => {
  await withFile(name.replaceAll(" ", "-"), async (file, folder) => {
    await folder.write("snapshot.json", text);
    expect(await file.read()).toEqual({ version: undefined, entries: new Map() });
    expect(await folder.read("snapshot.json")).toBeUndefined();
  });
});
