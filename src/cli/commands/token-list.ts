import type { TokenRow } from "../../contract/admin.ts";
import { AdminClient } from "../admin-client.ts";
import { exits, type Run } from "../command.ts";
import { systemClock } from "../system.ts";
import { duration, show, table } from "../terminal.ts";

export const run: Run = async (input) => {
  return AdminClient.use(input, async (client) => {
    const rows = await client.list<TokenRow>("/v1/tokens", (page: { tokens: TokenRow[] }) => page.tokens);
    const tokens = rows.sort((a, b) => a.createdAtMs - b.createdAtMs);
    show(input.terminal, { tokens }, () =>
      table(
        ["ID", "GRANT", "USED", "STATE", "BY"],
        tokens.map((row) => [row.id, row.grant, `${row.usesCount}/${row.usesMax}`, stateOf(row), row.createdBy]),
        "No tokens",
      ),
    );
    return exits.done;
  });
};

function stateOf(row: TokenRow): string {
  if (row.revokedAtMs !== null) return "revoked";
  if (row.usesCount >= row.usesMax) return "used up";
  const restMs = row.expiresAtMs - systemClock.wallMs();
  return restMs <= 0 ? "expired" : `good for ${duration(restMs)}`;
}
