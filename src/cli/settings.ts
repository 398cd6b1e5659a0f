import { HauberkError } from "../base/errors.ts";
import type { Option, OptionTable, OptionValues } from "../base/options.ts";
import type { Environment } from "./system.ts";

/** Where option values come from, strongest first: environment, file, the table's default. */
export interface SettingSources {
  readonly environment: Environment;
  readonly file: Readonly<Record<string, number | string | boolean>>;
}

/** One frozen object of every option of a table; values outside of a range are refused by name. */
export function settle<const T extends OptionTable>(table: T, sources: SettingSources): OptionValues<T> {
  const values: Record<string, number | string | boolean> = {};
  for (const [name, option] of Object.entries(table)) {
    const given = sources.environment[option.env] ?? sources.file[name];
    values[name] = given === undefined ? option.default : read(name, option, given);
  }
  return Object.freeze(values) as OptionValues<T>;
}

function read(name: string, option: Option, given: number | string | boolean): number | string | boolean {
  if (option.kind === "text") return String(given);
  if (option.kind === "switch") {
    if (String(given) === "true" || String(given) === "false") return String(given) === "true";
    throw wrong(name, option, given, "true or false");
  }
  const number = typeof given === "number" ? given : /^-?\d+(\.\d+)?$/.test(String(given)) ? Number(given) : Number.NaN;
  if (!(number >= option.min && number <= option.max))
    throw wrong(name, option, given, `a number from ${option.min} to ${option.max}`);
  return number;
}

function wrong(name: string, option: Option, given: unknown, wanted: string): HauberkError {
  return new HauberkError(
    "CONFIG_INVALID",
    `Cannot use the option ${name}: ${JSON.stringify(given)} is not ${wanted}`,
    `Mend options.${name} in hauberk.yaml or ${option.env} in the environment; docs/OPTIONS.md lists them all`,
  );
}

/** Refuses names of the file that no table knows. */
export function refuseUnknown(tables: readonly OptionTable[], file: SettingSources["file"]): void {
  for (const name of Object.keys(file)) {
    if (tables.some((table) => Object.hasOwn(table, name))) continue;
    throw new HauberkError(
      "CONFIG_INVALID",
      `Cannot use hauberk.yaml: there is no option "${name}"`,
      "See docs/OPTIONS.md for the names",
    );
  }
}
