import { existsSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { authorityOptions } from "../../authority/options.ts";
import { isRefusal, HauberkError } from "../../base/errors.ts";
import { parseServiceName } from "../../base/spiffe-id.ts";
import type { TokenMade, TokenRequest } from "../../contract/admin.ts";
import { AdminClient } from "../admin-client.ts";
import { exits, usageError, type Run } from "../command.ts";
import { duration, readDuration, show } from "../terminal.ts";

/** As the control plane's API has it. */
const usesMax = 10_000;

export const run: Run = async (input) => {
  const hint = "See hauberk token create --help";
  const name = input.flag("service");
  if (name === undefined) throw usageError("--service is missing", hint);
  const service = parseServiceName(name, "default");
  if (isRefusal(service)) throw HauberkError.from(service);
  const ttlMs = input.flag("ttl") === undefined ? undefined : readDuration(input.flag("ttl") ?? "");
  if (input.flag("ttl") !== undefined && (ttlMs === undefined || ttlMs < 1_000))
    throw usageError("--ttl is no duration such as 10m, 1s at least", hint);
  const { max } = authorityOptions.tokenLifetimeMs;
  if (ttlMs !== undefined && ttlMs > max)
    throw usageError(`--ttl ${input.flag("ttl")} is longer than ${duration(max)}`, hint);
  const uses = input.flag("uses");
  if (uses !== undefined && (!/^[1-9]\d{0,4}$/.test(uses) || Number(uses) > usesMax))
    throw usageError(`--uses is no number from 1 to ${usesMax}`, hint);
  const wanted: TokenRequest = {
    service: service.service,
    namespace: service.namespace,
    ...(ttlMs === undefined ? {} : { ttlMs }),
    ...(uses === undefined ? {} : { uses: Number(uses) }),
  };
  const out = input.flag("out");
  // Before a token is made that nobody could have.
  if (out !== undefined && existsSync(resolve(input.cwd, out))) throw cannotWrite(out, "EEXIST");
  return AdminClient.use(input, async (client) => {
    const made = await client.call<TokenMade>("POST", "/v1/tokens", wanted);
    if (out === undefined) {
      show(input.terminal, made, () => made.token);
      return exits.done;
    }
    writeNew(resolve(input.cwd, out), made.token);
    const { token: _secret, ...rest } = made;
    show(
      input.terminal,
      { ...rest, file: out },
      () =>
        `${out}: a token for ${made.grant}, good for ${made.usesMax} enrollment${made.usesMax === 1 ? "" : "s"} until ${new Date(made.expiresAtMs).toISOString()}`,
    );
    return exits.done;
  });
};

function writeNew(path: string, token: string): void {
  try {
    writeFileSync(path, `${token}\n`, { mode: 0o600, flag: "wx" });
  } catch (thrown) {
    throw cannotWrite(path, (thrown as { code?: string }).code);
  }
}

function cannotWrite(path: string, code: string | undefined): HauberkError {
  if (code === "EEXIST") return usageError(`${path} exists`, "Name a new file with --out");
  if (code === "ENOENT")
    return usageError(`${path} cannot be written: its folder does not exist`, "Make the folder first");
  return usageError(`${path} cannot be written`, "Check the folder and its permissions");
}
