import { AdminClient } from "../admin-client.ts";
import { exits, type Run } from "../command.ts";
import { show } from "../terminal.ts";

export const run: Run = async (input) => {
  const id = input.words[0] ?? "";
  const client = await AdminClient.open(input);
  try {
    await client.call("DELETE", `/v1/tokens/${encodeURIComponent(id)}`);
    show(
      input.terminal,
      { revoked: id },
      () => `Revoked ${id}: it enrolls nobody any more; who enrolled with it stays`,
    );
    return exits.done;
  } finally {
    await client.close();
  }
};
