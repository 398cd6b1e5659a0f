import { isLabel } from "../../base/spiffe-id.ts";
import { exits, usageError, type Run } from "../command.ts";
import { requireHome } from "../home.ts";
import { issueAdmin, withAuthority } from "../open-authority.ts";
import { show } from "../terminal.ts";

export const run: Run = async (input) => {
  const name = input.words[0] ?? "";
  if (!isLabel(name))
    throw usageError(`"${name}" is no name of lower-case letters, digits and "-"`, "Write hauberk admin issue alice");
  const home = requireHome(input.cwd, input.flag("home") ?? input.environment["HAUBERK_HOME"]);
  const file = await withAuthority({ input, home }, (authority) => issueAdmin(authority, home, name));
  show(input.terminal, { name, file }, () => `${file}: the administrator ${name}; renewed when it is used`);
  return exits.done;
};
