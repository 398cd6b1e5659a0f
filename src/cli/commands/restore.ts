import { resolve } from "node:path";
import { settleRestored } from "../../authority/restored.ts";
import { restoreStore } from "../../storage/sqlite-backup.ts";
import { storageOptions } from "../../storage/options.ts";
import { exits, type Run } from "../command.ts";
import { readConfig } from "../config.ts";
import { lockControl } from "../control-lock.ts";
import { requireHome } from "../home.ts";
import { settle } from "../settings.ts";
import { systemClock, systemRandom } from "../system.ts";
import { show } from "../terminal.ts";

export const run: Run = async (input) => {
  const home = requireHome(input.cwd, input.flag("home") ?? input.environment["HAUBERK_HOME"]);
  const from = resolve(input.cwd, input.words[0] ?? "");
  const config = readConfig(home.configFile);
  const lock = lockControl(home, { what: "restore the store", hint: "End hauberk control first, then run this again" });
  try {
    const file = resolve(home.folder, config.store);
    const stamp = new Date(systemClock.wallMs()).toISOString().replaceAll(/[:.]/g, "-");
    let tokensRevoked = 0;
    const kept = await restoreStore(
      from,
      {
        file,
        trustDomain: config.trustDomain,
        clock: systemClock,
        random: systemRandom,
        options: settle(storageOptions, { environment: input.environment, file: config.options }),
      },
      {
        keepAs: `${file}.before-${stamp}`,
        settle: async (store) => {
          ({ tokensRevoked } = await settleRestored({ store, clock: systemClock, random: systemRandom, from }));
        },
      },
    );
    show(input.terminal, { file, from, kept: kept ?? null, tokensRevoked }, () =>
      [
        `${file}: restored from ${from}; tokens that were still good are revoked: ${tokensRevoked}`,
        ...(kept === undefined ? [] : [`${kept}: the store as it was before`]),
        "Whoever enrolled since the backup is sent no calls (NO_ENDPOINT); its own calls, to services that it called before, go on until its certificate ends.",
        "  Start it again with a new token, which enrolls it anew",
        "Next: hauberk control; where an administrator is unknown now: hauberk admin issue NAME",
      ].join("\n"),
    );
    return exits.done;
  } finally {
    lock.release();
  }
};
