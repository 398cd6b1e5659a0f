import { AdminClient } from "../admin-client.ts";
import { exits, usageError, type Run } from "../command.ts";
import { show } from "../terminal.ts";

export const run: Run = async (input) => {
  const id = input.words[0] ?? "";
  // Not repeated: it may be the token itself, which is a secret.
  if (!/^[0-9a-f]{32}$/.test(id)) throw usageError("what follows is no token's id", "Take it from hauberk token list");
  return AdminClient.use(input, async (client) => {
    await client.call("DELETE", `/v1/tokens/${encodeURIComponent(id)}`);
    show(
      input.terminal,
      { revoked: id },
      () => `Revoked ${id}: it enrolls nobody any more; who enrolled with it stays`,
    );
    return exits.done;
  });
};
