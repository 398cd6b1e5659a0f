import type { ServicesAnswer } from "../../contract/admin.ts";
import type { Version } from "../../contract/watch.ts";
import { AdminClient } from "../admin-client.ts";
import { exits, type Run } from "../command.ts";
import { show, table } from "../terminal.ts";

export const run: Run = async (input) => {
  return AdminClient.use(input, async (client) => {
    const answer = await client.call<ServicesAnswer>("GET", "/v1/services");
    show(input.terminal, answer, () =>
      [
        endpoints(answer),
        "",
        sidecars(answer),
        "",
        `The control plane is at version ${text(answer.version)}; a sidecar runs the last one that changed something for it`,
      ].join("\n"),
    );
    return exits.done;
  });
};

function endpoints(answer: ServicesAnswer): string {
  const rows = answer.services.flatMap((service) =>
    service.endpoints.map((endpoint) => [
      `${service.service}.${service.namespace}`,
      `${endpoint.address.includes(":") ? `[${endpoint.address}]` : endpoint.address}:${endpoint.port}`,
      endpoint.ports.map((port) => `${port.name}=${port.protocol}:${port.port}`).join(","),
      [
        endpoint.healthy ? "healthy" : "unhealthy",
        endpoint.draining ? "draining" : "",
        endpoint.stale ? "stale" : "",
        endpoint.connected ? "" : "not connected",
      ]
        .filter((word) => word !== "")
        .join(", "),
      endpoint.instance,
    ]),
  );
  return table(
    ["SERVICE", "ENDPOINT", "PORTS", "STATE", "INSTANCE"],
    rows,
    "No endpoints: no sidecar offers a service",
  );
}

function sidecars(answer: ServicesAnswer): string {
  const rows = answer.sidecars.map((sidecar) => [
    sidecar.id,
    sidecar.name ?? "-",
    sidecar.instance,
    sidecar.release,
    String(sidecar.workers),
    sidecar.acknowledged === null ? "none yet" : text(sidecar.acknowledged),
    sidecar.rejected === null ? "" : `rejected ${text(sidecar.rejected.version)}: ${sidecar.rejected.because}`,
  ]);
  return table(
    ["SIDECAR", "NAME", "INSTANCE", "RELEASE", "WORKERS", "RUNS VERSION", "NOTE"],
    rows,
    "No sidecars are connected",
  );
}

function text(version: Version): string {
  return `${version.epoch.slice(0, 8)}:${version.counter}`;
}
