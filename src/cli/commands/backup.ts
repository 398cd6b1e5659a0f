import { statSync } from "node:fs";
import { resolve } from "node:path";
import { backUpStore } from "../../storage/sqlite-backup.ts";
import { exits, type Run } from "../command.ts";
import { readConfig } from "../config.ts";
import { requireHome } from "../home.ts";
import { show } from "../terminal.ts";

export const run: Run = async (input) => {
  const home = requireHome(input.cwd, input.flag("home") ?? input.environment["HAUBERK_HOME"]);
  const to = resolve(input.cwd, input.words[0] ?? "");
  backUpStore(resolve(home.folder, readConfig(home.configFile).store), to);
  const { size } = statSync(to);
  show(
    input.terminal,
    { file: to, bytes: size },
    () => `${to}: the store as it is now, ${Math.ceil(size / 1024)} KB; no key is in it. Keep ca/ beside it`,
  );
  return exits.done;
};
