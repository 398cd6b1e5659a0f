import type { CertificateRow, CertificatesAnswer, ServicesAnswer } from "../../contract/admin.ts";
import { AdminClient } from "../admin-client.ts";
import { exits, type Run } from "../command.ts";
import { systemClock } from "../system.ts";
import { duration, show, table } from "../terminal.ts";

export const run: Run = async (input) => {
  return AdminClient.use(input, async (client) => {
    const path = `/v1/certificates?all=${input.on("all")}`;
    const rows = await client.list<CertificateRow>(path, (page: CertificatesAnswer) => page.certificates);
    // Names are told by sidecars that are connected; an instance that is away is known by its id alone.
    const { sidecars } = await client.call<ServicesAnswer>("GET", "/v1/services");
    const names = new Map(sidecars.map(({ instance, name }) => [instance, name]));
    const certificates = rows
      .map((row) => ({ ...row, name: names.get(row.instance ?? "") ?? null }))
      .sort((a, b) => (a.id === b.id ? a.notAfterMs - b.notAfterMs : a.id < b.id ? -1 : 1));
    const now = systemClock.wallMs();
    show(input.terminal, { certificates }, () =>
      table(
        ["SERIAL", "IDENTITY", "NAME", "INSTANCE", "ENDS", "SEEN"],
        certificates.map((row) => [
          row.serial,
          row.id,
          row.name ?? "-",
          row.instance ?? "-",
          row.notAfterMs > now ? `in ${duration(row.notAfterMs - now)}` : `${duration(now - row.notAfterMs)} ago`,
          // Of the others only a renewal is written down, and that says nothing of their use.
          row.holder !== "workload" ? "-" : row.seenAtMs === null ? "no" : "yes",
        ]),
        input.on("all") ? "No certificates" : "No certificates that still live; --all shows the expired ones too",
      ),
    );
    return exits.done;
  });
};
