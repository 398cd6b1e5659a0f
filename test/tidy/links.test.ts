import { dirname, join, normalize } from "node:path";
import { expect, test } from "vitest";
import { listed, read } from "./source.ts";

const files = listed();
const pages = files.filter((name) => name.endsWith(".md"));
const records = files.filter((name) => /^docs\/decisions\/\d{4}-.*\.md$/.test(name));

interface Link {
  readonly page: string;
  readonly line: number;
  readonly to: string;
}

/** `[text](to)` outside of code blocks and of `code`; what has a scheme leads out of the repository, and is not looked at. */
function linksOf(page: string, text: string): Link[] {
  const prose = text
    .replace(/^```[\s\S]*?^```/gm, (block) => block.replace(/[^\n]/g, " "))
    .replace(/`[^`\n]*`/g, (code) => " ".repeat(code.length));
  return [...prose.matchAll(/\]\(([^)\s]+)\)/g)]
    .map((match) => ({ page, line: prose.slice(0, match.index).split("\n").length, to: match[1] as string }))
    .filter(({ to }) => !/^[a-z]+:/.test(to));
}

/** As GitHub makes them from headings. */
function anchorsOf(text: string): string[] {
  return [...text.matchAll(/^#+ +(.*)$/gm)].map(([, heading = ""]) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-"),
  );
}

/** Why a link leads nowhere; undefined where it does. */
function brokenBecause({ page, to }: Link): string | undefined {
  const [path = "", anchor] = to.split("#");
  const name = path === "" ? page : normalize(join(dirname(page), path)).replace(/\/$/, "");
  if (!files.some((file) => file === name || file.startsWith(`${name}/`))) return `there is no ${name}`;
  if (anchor === undefined) return undefined;
  return anchorsOf(read(name)).includes(anchor) ? undefined : `${name} has no heading for #${anchor}`;
}

test("every link between pages leads to a file, or a heading, that is there", () => {
  const links = pages.flatMap((page) => linksOf(page, read(page)));
  expect(links.length).toBeGreaterThan(10);
  const broken = links.flatMap((link) => {
    const because = brokenBecause(link);
    return because === undefined ? [] : [`${link.page}:${link.line}: ${link.to}: ${because}`];
  });
  expect(broken).toEqual([]);
});

test("a link to nothing is seen, one in code is no link, and one out of the repository is not looked at", () => {
  const text = "[a](gone.md) `[b](gone.md)`\n```\n[c](gone.md)\n```\n[d](https://a.example) [e](#no-such-heading)";
  const links = linksOf("README.md", text);
  expect(links.map(({ line, to }) => [line, to])).toEqual([
    [1, "gone.md"],
    [5, "#no-such-heading"],
  ]);
  expect(links.map(brokenBecause)).toEqual(["there is no gone.md", "README.md has no heading for #no-such-heading"]);
});

test("a decision has a number of its own, and one that is named in code or in a page has its record", () => {
  const numbers = records.map((name) => name.slice("docs/decisions/".length).slice(0, 4));
  expect(numbers.filter((number, i) => numbers.indexOf(number) !== i)).toEqual([]);
  const missing = files
    .filter((name) => /\.(ts|md|mjs|yaml)$/.test(name))
    .flatMap((name) =>
      [...read(name).matchAll(/decisions\/(\d{4})/g)]
        .filter(([, number = ""]) => !numbers.includes(number))
        .map(([said]) => `${name}: ${said}: no record has this number`),
    );
  expect(missing).toEqual([]);
});
