import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { defaultsOf } from "../base/options.ts";
import { storageOptions } from "./options.ts";
import { openSqliteStore } from "./sqlite-store.ts";
import { storeContract } from "./store-contract.ts";

storeContract("SQLite", () => {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-store-"));
  const context = {
    file: join(folder, "store.db"),
    trustDomain: "mesh.test",
    clock: new ManualClock(),
    random: new SeededRandom(1),
    options: defaultsOf(storageOptions),
  };
  return {
    open: () => openSqliteStore(context),
    remove: () => rmSync(folder, { recursive: true }),
  };
});
