import type { CertificateRow, CertificatesAnswer } from "../../contract/admin.ts";
import { AdminClient } from "../admin-client.ts";
import { exits, type Run } from "../command.ts";
import { systemClock } from "../system.ts";
import { duration, show, table } from "../terminal.ts";

/** Pages are followed to the end, up to this many rows. */
const rowsMax = 100_000;

export const run: Run = async (input) => {
  const client = await AdminClient.open(input);
  try {
    const rows: CertificateRow[] = [];
    for (let after: string | null = ""; after !== null && rows.length < rowsMax;) {
      const query: string = `all=${input.on("all")}&limit=500${after === "" ? "" : `&after=${encodeURIComponent(after)}`}`;
      const page: CertificatesAnswer = await client.call<CertificatesAnswer>("GET", `/v1/certificates?${query}`);
      rows.push(...page.certificates);
      after = page.next;
    }
    const now = systemClock.wallMs();
    show(input.terminal, { certificates: rows }, () =>
      table(
        ["SERIAL", "IDENTITY", "INSTANCE", "ENDS", "SEEN"],
        rows.map((row) => [
          row.serial,
          row.id,
          row.instance ?? "",
          row.notAfterMs > now ? `in ${duration(row.notAfterMs - now)}` : `${duration(now - row.notAfterMs)} ago`,
          row.seenAtMs === null ? "no" : "yes",
        ]),
        input.on("all") ? "No certificates" : "No certificates that still live; --all shows the expired ones too",
      ),
    );
    return exits.done;
  } finally {
    await client.close();
  }
};
