/**
 * Metrics as plain data: what one process counted, for the text format and for adding the counts of several processes up.
 */
export type MetricKind = "counter" | "gauge" | "histogram";

/** How gauges of several processes become one: most are amounts, which add; a state is as bad as its worst. */
export type Over = "sum" | "max";

export interface SetView {
  readonly labels: readonly string[];
  /** One number; of a histogram: one per bound, one for what is above the last, the sum. */
  readonly values: readonly number[];
}

export interface FamilyView {
  readonly name: string;
  readonly help: string;
  readonly kind: MetricKind;
  readonly over: Over;
  /** Names of the labels. */
  readonly labels: readonly string[];
  /** Of a histogram, ascending. */
  readonly bounds: readonly number[];
  readonly sets: readonly SetView[];
}

/** Under this value of every label stands what came after a family was full. */
export const overflow = "other";

/** Label sets per family; what comes after them is counted under `overflow` so that memory stays bounded. */
export const setsMaxDefault = 1_000;

/** The text format 0.0.4 of Prometheus. */
export function renderFamilies(families: Iterable<FamilyView>): string {
  const lines: string[] = [];
  for (const family of families) {
    if (family.sets.length === 0) continue;
    lines.push(`# HELP ${family.name} ${escapeHelp(family.help)}`, `# TYPE ${family.name} ${family.kind}`);
    for (const set of family.sets) {
      if (family.kind === "histogram") renderHistogram(lines, family, set);
      else lines.push(`${family.name}${labelText(family, set)} ${numberText(set.values[0] as number)}`);
    }
  }
  return lines.length === 0 ? "" : `${lines.join("\n")}\n`;
}

/**
 * Adds the views of several processes up: counters and histograms add, gauges as `over` says. A family that two of them
 * describe differently stays as the first has it, and a family grows no larger than `setsMax` and one.
 */
export function mergeFamilies(views: Iterable<readonly FamilyView[]>, setsMax = setsMaxDefault): FamilyView[] {
  const merged = new Map<
    string,
    { family: FamilyView; sets: Map<string, { labels: readonly string[]; values: number[] }> }
  >();
  for (const view of views) {
    for (const family of view) {
      let into = merged.get(family.name);
      if (into === undefined) merged.set(family.name, (into = { family, sets: new Map() }));
      if (!sameShape(into.family, family)) continue;
      for (const set of family.sets) add(into, set, setsMax);
    }
  }
  return [...merged.values()].map(({ family, sets }) => ({ ...family, sets: [...sets.values()] }));
}

/** What must not go down when a process ends or does not answer: its gauges are gone with it, its counts are not. */
export function countsOf(view: readonly FamilyView[]): FamilyView[] {
  return view.filter((family) => family.kind !== "gauge");
}

/**
 * What processes that are gone had counted, with one more of them. The sets of the one that ended last come first; those that
 * ended with all who had them are counted under `overflow` once there are so many that the living would find no place.
 */
export function addDeparted(departed: readonly FamilyView[], view: readonly FamilyView[]): FamilyView[] {
  return mergeFamilies([countsOf(view), departed], setsMaxDefault / 2);
}

/** The sum over every set of a family; of a histogram: of its sums. */
export function totalOf(view: readonly FamilyView[], name: string): number {
  const family = view.find((candidate) => candidate.name === name);
  return family?.sets.reduce((sum, { values }) => sum + (values.at(-1) ?? 0), 0) ?? 0;
}

function sameShape(one: FamilyView, other: FamilyView): boolean {
  return (
    one.kind === other.kind && one.labels.join() === other.labels.join() && one.bounds.join() === other.bounds.join()
  );
}

function add(
  into: { family: FamilyView; sets: Map<string, { labels: readonly string[]; values: number[] }> },
  set: SetView,
  setsMax: number,
): void {
  const { family, sets } = into;
  const width = family.kind === "histogram" ? family.bounds.length + 2 : 1;
  if (set.labels.length !== family.labels.length || set.values.length !== width) return;
  let labels = set.labels;
  let key = JSON.stringify(labels);
  if (!sets.has(key) && sets.size >= setsMax) {
    labels = labels.map(() => overflow);
    key = JSON.stringify(labels);
  }
  const known = sets.get(key);
  if (known === undefined) {
    sets.set(key, { labels, values: [...set.values] });
    return;
  }
  const largest = family.kind === "gauge" && family.over === "max";
  for (const [at, value] of set.values.entries()) {
    const before = known.values[at] as number;
    known.values[at] = largest ? Math.max(before, value) : before + value;
  }
}

function renderHistogram(lines: string[], family: FamilyView, set: SetView): void {
  const { name, bounds } = family;
  let count = 0;
  for (let i = 0; i <= bounds.length; i++) {
    count += set.values[i] as number;
    const bound = i === bounds.length ? "+Inf" : numberText(bounds[i] as number);
    lines.push(`${name}_bucket${labelText(family, set, `le="${bound}"`)} ${count}`);
  }
  lines.push(`${name}_sum${labelText(family, set)} ${numberText(set.values[bounds.length + 1] as number)}`);
  lines.push(`${name}_count${labelText(family, set)} ${count}`);
}

function labelText(family: FamilyView, set: SetView, last = ""): string {
  const pairs = family.labels.map((label, i) => `${label}="${escapeLabel(set.labels[i] as string)}"`);
  if (last !== "") pairs.push(last);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

function numberText(value: number): string {
  if (Number.isFinite(value)) return String(value);
  return Number.isNaN(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf";
}

function escapeHelp(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
}

function escapeLabel(text: string): string {
  return escapeHelp(text).replaceAll('"', '\\"');
}
