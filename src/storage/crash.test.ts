import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { defaultsOf } from "../base/options.ts";
import { storageOptions } from "./options.ts";
import { openSqliteStore } from "./sqlite-store.ts";
import type { Store } from "./store.ts";

const program = fileURLToPath(new URL("../../test/support/store-burst.ts", import.meta.url));

/** Runs the burst until `acknowledged` names were printed, kills it with -9, and returns every name that was. */
async function burst(file: string, acknowledged: number): Promise<string[]> {
  const child = spawn(process.execPath, [program, file], { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  for await (const chunk of child.stdout.setEncoding("utf8")) {
    text += chunk as string;
    if (text.split("\n").length > acknowledged) child.kill("SIGKILL");
  }
  // The last line may be torn: what is not whole was not said.
  return text.split("\n").slice(0, -1);
}

async function allOf(store: Store, what: "tokens" | "instances" | "leaves"): Promise<string[]> {
  const names: string[] = [];
  for (let after = ""; ;) {
    const rows = await store[what]({ after, limit: 1_000 });
    names.push(...rows.map((row) => ("serial" in row ? row.serial : row.id)));
    after = names.at(-1) ?? "";
    if (rows.length < 1_000) return names.sort();
  }
}

test("killed with -9 in a burst of writes, again and again, nothing acknowledged is lost and nothing is half there", async () => {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-crash-"));
  const file = join(folder, "store.db");
  const acknowledged: string[] = [];
  for (const count of [1, 37, 200]) {
    acknowledged.push(...(await burst(file, count)));
    const store = await openSqliteStore({
      file,
      trustDomain: "mesh.test",
      clock: new ManualClock(),
      random: new SeededRandom(3),
      options: defaultsOf(storageOptions),
    });
    const tokens = await allOf(store, "tokens");
    const lost = acknowledged.filter((name) => !tokens.includes(name));
    expect(lost).toEqual([]);
    expect(await allOf(store, "instances")).toEqual(tokens);
    expect(await allOf(store, "leaves")).toEqual(tokens);
    expect((await store.audit({ limit: 10_000 })).map((row) => row.line).sort()).toEqual(tokens);
    expect((await store.meta()).version.counter).toBe(tokens.length);
    for (const name of tokens.slice(0, 50)) expect(await store.token(name)).toMatchObject({ uses: 1 });
    await store.close();
  }
  expect(acknowledged.length).toBeGreaterThan(200);
  rmSync(folder, { recursive: true });
});
