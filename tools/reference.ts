import { readdirSync, writeFileSync } from "node:fs";
import { argv } from "node:process";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { OptionTable } from "../src/base/options.ts";

/** Writes docs/OPTIONS.md from the option tables: `npm run reference`. */
const source = new URL("../src/", import.meta.url);
const page = new URL("../docs/OPTIONS.md", import.meta.url);

/** Every exported table of every file called options.ts, by its name. */
export async function optionTables(): Promise<Record<string, OptionTable>> {
  const tables: Record<string, OptionTable> = {};
  const files = readdirSync(source, { recursive: true, encoding: "utf8" }).filter(
    (name) => name.endsWith("options.ts") && name !== "base/options.ts",
  );
  for (const file of files.sort()) {
    const module = (await import(new URL(file, source).href)) as Record<string, unknown>;
    for (const [name, value] of Object.entries(module))
      if (name.endsWith("Options") && typeof value === "object") tables[name] = value as OptionTable;
  }
  return tables;
}

/** The text of the page. */
export async function optionReference(): Promise<string> {
  const lines = [
    "# Options",
    "",
    "Made from the tables in `src/**/options.ts` by `npm run reference`. Each can be set in `hauberk.yaml` under `options`, or by its environment variable.",
  ];
  for (const [table, options] of Object.entries(await optionTables())) {
    lines.push("", `## ${table}`, "", "| Option | Environment | Default | Range | Why |", "|---|---|---|---|---|");
    for (const [name, option] of Object.entries(options)) {
      const range =
        option.kind === "text"
          ? option.form
          : option.kind === "switch"
            ? "true, false"
            : `${option.min} to ${option.max}`;
      lines.push(
        `| \`${name}\` | \`${option.env}\` | ${String(option.default) || "none"} | ${range} | ${option.why.replaceAll("|", "\\|")} |`,
      );
    }
  }
  return `${lines.join("\n")}\n`;
}

if (argv[1] !== undefined && import.meta.url === pathToFileURL(argv[1]).href) {
  writeFileSync(fileURLToPath(page), await optionReference());
}
