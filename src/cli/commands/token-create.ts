import { closeSync, openSync, rmSync, writeFileSync } from "node:fs";
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
    throw usageError(`--ttl ${input.flag("ttl")} is no duration such as 10m, 1s at least`, hint);
  const { max } = authorityOptions.tokenLifetimeMs;
  if (ttlMs !== undefined && ttlMs > max)
    throw usageError(`--ttl ${input.flag("ttl")} is longer than ${duration(max)}`, hint);
  const uses = input.flag("uses");
  if (uses !== undefined && (!/^[1-9]\d{0,4}$/.test(uses) || Number(uses) > usesMax))
    throw usageError(`--uses ${uses} is no number from 1 to ${usesMax}`, hint);
  const wanted: TokenRequest = {
    service: service.service,
    namespace: service.namespace,
    ...(ttlMs === undefined ? {} : { ttlMs }),
    ...(uses === undefined ? {} : { uses: Number(uses) }),
  };
  const out = input.flag("out");
  // Before a token is made that nobody could have.
  if (out !== undefined) tryNew(resolve(input.cwd, out));
  return AdminClient.use(input, async (client) => {
    const made = await client.call<TokenMade>("POST", "/v1/tokens", wanted);
    if (out === undefined) {
      show(input.terminal, made, () => made.token);
      return exits.done;
    }
    await keep(client, made, resolve(input.cwd, out));
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

/** That nobody has a token is no reason to leave it good. */
async function keep(client: AdminClient, { id, token }: TokenMade, path: string): Promise<void> {
  try {
    writeNew(path, `${token}\n`);
  } catch (thrown) {
    try {
      await client.call("DELETE", `/v1/tokens/${id}`);
    } catch {
      const { message } = thrown as HauberkError;
      throw new HauberkError("USAGE", message, `Revoke what was made for it: hauberk token revoke ${id}`, thrown);
    }
    throw thrown;
  }
}

/** Whether the file can be made; none is left, as whoever asks may be ended before there is a token. */
function tryNew(path: string): void {
  writeNew(path, "");
  rmSync(path);
}

function writeNew(path: string, text: string): void {
  let file: number;
  try {
    file = openSync(path, "wx", 0o600);
  } catch (thrown) {
    throw cannotWrite(path, (thrown as NodeJS.ErrnoException).code);
  }
  try {
    writeFileSync(file, text);
  } catch (thrown) {
    rmSync(path, { force: true });
    throw cannotWrite(path, (thrown as NodeJS.ErrnoException).code);
  } finally {
    closeSync(file);
  }
}

function cannotWrite(path: string, code: string | undefined): HauberkError {
  if (code === "EEXIST") return usageError(`${path} exists`, "Name a new file with --out");
  if (code === "ENOENT")
    return usageError(`${path} cannot be written: its folder does not exist`, "Make the folder first");
  return usageError(`${path} cannot be written`, "Check the folder and its permissions");
}
