import { HauberkError } from "../../base/errors.ts";
import type { PoliciesAnswer, PoliciesApplied } from "../../contract/admin.ts";
import { AdminClient } from "../admin-client.ts";
import { exits, type Run } from "../command.ts";
import { readPolicyFolder } from "../policy-folder.ts";
import { paint, show } from "../terminal.ts";

export const run: Run = async (input) => {
  const folder = readPolicyFolder(input, input.words[0]);
  if (folder.resources.length === 0) {
    throw new HauberkError(
      "POLICY_SET_EMPTY",
      `Cannot apply ${folder.folder}: it holds no policy, and applying it would remove all`,
      "Name the folder that holds the .yaml files, or write the first policy into it",
    );
  }
  return AdminClient.use(input, async (client) => {
    const before = await client.call<PoliciesAnswer>("GET", "/v1/policies");
    const applied = await client.call<PoliciesApplied>("PUT", "/v1/policies", {
      revision: before.revision,
      resources: folder.resources,
      ...(input.on("dry-run") ? { dryRun: true } : {}),
    });
    for (const warning of folder.warnings)
      input.terminal.err(
        `${paint("yellow", "warning:")} ${warning.file}:${warning.line}:${warning.column}: ${warning.message}`,
      );
    show(input.terminal, { ...applied, dryRun: input.on("dry-run") }, () => difference(applied, input.on("dry-run")));
    return exits.done;
  });
};

function difference(applied: PoliciesApplied, dryRun: boolean): string {
  const lines = [
    ...applied.added.map((name) => `+ ${name}`),
    ...applied.changed.map((name) => `~ ${name}`),
    ...applied.removed.map((name) => `- ${name}`),
  ];
  if (lines.length === 0) return `No difference; the stored set is revision ${applied.revision}`;
  return [...lines, dryRun ? "Nothing was changed (--dry-run)" : `Applied as revision ${applied.revision}`].join("\n");
}
