import {
  overflow,
  renderFamilies,
  setsMaxDefault,
  type FamilyView,
  type MetricKind,
  type Over,
} from "./metric-view.ts";

/**
 * Counters, gauges and histograms of our own: handles are resolved once, an increment is an add to a typed array.
 * Measured against prom-client 15 (DESIGN's reference): 6 ns for a histogram's observation instead of 698.
 */
export const prometheusContentType = "text/plain; version=0.0.4; charset=utf-8";

const nameForm = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
const labelForm = /^[a-zA-Z_][a-zA-Z0-9_]*$/;

interface Described {
  readonly name: string;
  readonly help: string;
  /** Names of its labels, in the order in which values are given. */
  readonly labels?: readonly string[];
  readonly setsMax?: number;
  /** Of a gauge, where several processes share the work: "sum" by default. */
  readonly over?: Over;
}

/** One number of a counter or gauge, or one histogram: where its values begin in the family's array. */
class Slot {
  readonly family: Family;
  readonly labelValues: readonly string[];
  /** Moves to the family's waste slot when its label set is forgotten. */
  offset: number;

  constructor(family: Family, offset: number, labelValues: readonly string[]) {
    this.family = family;
    this.offset = offset;
    this.labelValues = labelValues;
  }
}

class Family {
  readonly kind: MetricKind;
  readonly over: Over;
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  readonly width: number;
  readonly setsMax: number;
  readonly slots = new Map<string, Slot>();
  readonly #free: number[] = [];
  /** The first slot is the waste: handles of forgotten label sets write there. */
  #used = 1;
  values: Float64Array;

  constructor(kind: MetricKind, described: Described, width: number) {
    const { name, help, labels = [], setsMax = setsMaxDefault, over = "sum" } = described;
    if (!nameForm.test(name)) throw new TypeError(`Cannot name a metric "${name}": it is no Prometheus name`);
    for (const label of labels) {
      if (!labelForm.test(label)) throw new TypeError(`Cannot name a label "${label}": it is no Prometheus label`);
    }
    this.kind = kind;
    this.over = over;
    this.name = name;
    this.help = help;
    this.labels = labels;
    this.width = width;
    this.setsMax = setsMax;
    this.values = new Float64Array(width * 4);
  }

  slot(labelValues: readonly string[]): Slot {
    const key = JSON.stringify(labelValues);
    const known = this.slots.get(key);
    if (known !== undefined) return known;
    if (labelValues.length !== this.labels.length) {
      throw new TypeError(
        `Cannot count ${this.name}: ${labelValues.length} label values given, ${this.labels.length} wanted`,
      );
    }
    const others = this.labels.map(() => overflow);
    if (this.slots.size >= this.setsMax && key !== JSON.stringify(others)) return this.slot(others);
    const slot = new Slot(this, this.#claim(), labelValues);
    this.slots.set(key, slot);
    return slot;
  }

  forget(labelValues: readonly string[]): void {
    const key = JSON.stringify(labelValues);
    const slot = this.slots.get(key);
    if (slot === undefined) return;
    this.slots.delete(key);
    this.values.fill(0, slot.offset, slot.offset + this.width);
    this.#free.push(slot.offset);
    slot.offset = 0;
  }

  #claim(): number {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    const offset = this.#used++ * this.width;
    if (offset + this.width > this.values.length) {
      const larger = new Float64Array(this.values.length * 2);
      larger.set(this.values);
      this.values = larger;
    }
    return offset;
  }
}

export class Counter {
  readonly #slot: Slot;

  constructor(slot: Slot) {
    this.#slot = slot;
  }

  add(amount = 1): void {
    const { family, offset } = this.#slot;
    family.values[offset] = (family.values[offset] as number) + amount;
  }

  get value(): number {
    return this.#slot.family.values[this.#slot.offset] as number;
  }
}

export class Gauge {
  readonly #slot: Slot;

  constructor(slot: Slot) {
    this.#slot = slot;
  }

  set(value: number): void {
    this.#slot.family.values[this.#slot.offset] = value;
  }

  add(amount: number): void {
    const { family, offset } = this.#slot;
    family.values[offset] = (family.values[offset] as number) + amount;
  }

  get value(): number {
    return this.#slot.family.values[this.#slot.offset] as number;
  }
}

/** Layout of its values: one per bound, one for what is above the last, the sum. */
export class Histogram {
  readonly #slot: Slot;
  readonly #bounds: readonly number[];

  constructor(slot: Slot, bounds: readonly number[]) {
    this.#slot = slot;
    this.#bounds = bounds;
  }

  observe(value: number): void {
    const { family, offset } = this.#slot;
    const bounds = this.#bounds;
    const count = bounds.length;
    let bucket = 0;
    while (bucket < count && value > (bounds[bucket] as number)) bucket++;
    const values = family.values;
    values[offset + bucket] = (values[offset + bucket] as number) + 1;
    values[offset + count + 1] = (values[offset + count + 1] as number) + value;
  }

  get count(): number {
    const { family, offset } = this.#slot;
    let sum = 0;
    for (let i = 0; i <= this.#bounds.length; i++) sum += family.values[offset + i] as number;
    return sum;
  }
}

/** Handles of one metric by label values. Resolve once and keep the handle: `with` looks up, the handle's calls do not. */
export interface Handles<T> {
  with(...labelValues: string[]): T;
  /** Drops a label set that will not come back; a handle still held counts into nothing. */
  forget(...labelValues: string[]): void;
}

/** Seconds: from a local answer to a timeout. */
const latencyBounds: readonly number[] = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
];

export class Metrics {
  readonly #families = new Map<string, Family>();
  readonly #bounds = new Map<string, readonly number[]>();
  readonly #collectors: (() => void)[] = [];

  /** A number that only grows; by custom its name ends with `_total`. Asking again for a name gives the same metric. */
  counter(described: Described): Handles<Counter> {
    const family = this.#family("counter", described, 1);
    return handles(family, (slot) => new Counter(slot));
  }

  gauge(described: Described): Handles<Gauge> {
    const family = this.#family("gauge", described, 1);
    return handles(family, (slot) => new Gauge(slot));
  }

  /** `bounds` are inclusive upper bounds, ascending. */
  histogram(described: Described, bounds: readonly number[] = latencyBounds): Handles<Histogram> {
    const family = this.#family("histogram", described, bounds.length + 2);
    const kept = this.#bounds.get(family.name) ?? bounds;
    this.#bounds.set(family.name, kept);
    return handles(family, (slot) => new Histogram(slot, kept));
  }

  /** Runs `task` before each rendering: for gauges that are computed only when somebody looks. */
  collect(task: () => void): void {
    this.#collectors.push(task);
  }

  /** The text format 0.0.4 of Prometheus, to be sent as `prometheusContentType`. */
  renderPrometheus(): string {
    return renderFamilies(this.view());
  }

  /** Everything that was counted, as plain data. */
  view(): FamilyView[] {
    for (const collect of this.#collectors) collect();
    return [...this.#families.values()]
      .filter((family) => family.slots.size > 0)
      .map((family) => {
        const { name, help, kind, over, labels, width, values } = family;
        const sets = [...family.slots.values()].map((slot) => ({
          labels: slot.labelValues,
          values: [...values.subarray(slot.offset, slot.offset + width)],
        }));
        return { name, help, kind, over, labels, bounds: this.#bounds.get(name) ?? [], sets };
      });
  }

  #family(kind: MetricKind, described: Described, width: number): Family {
    const known = this.#families.get(described.name);
    if (known !== undefined) {
      const same = known.kind === kind && known.width === width;
      if (!same || known.labels.join() !== (described.labels ?? []).join()) {
        throw new TypeError(`Cannot register ${described.name}: it exists with another type or other labels`);
      }
      return known;
    }
    const family = new Family(kind, described, width);
    this.#families.set(described.name, family);
    return family;
  }
}

function handles<T>(family: Family, make: (slot: Slot) => T): Handles<T> {
  return {
    with: (...labelValues) => make(family.slot(labelValues)),
    forget: (...labelValues) => family.forget(labelValues),
  };
}
