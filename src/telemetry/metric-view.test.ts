import { expect, test } from "vitest";
import { Metrics } from "./metrics.ts";
import { addDeparted, countsOf, mergeFamilies, renderFamilies, totalOf } from "./metric-view.ts";

function worker(about: { requests: number; open: number; state: number; seconds: readonly number[] }): Metrics {
  const metrics = new Metrics();
  metrics
    .counter({ name: "r_total", help: "R.", labels: ["to"] })
    .with("orders")
    .add(about.requests);
  metrics.gauge({ name: "open", help: "O." }).with().set(about.open);
  metrics.gauge({ name: "state", help: "S.", over: "max" }).with().set(about.state);
  const seconds = metrics.histogram({ name: "s", help: "S." }, [0.1, 1]).with();
  for (const value of about.seconds) seconds.observe(value);
  return metrics;
}

const one = worker({ requests: 3, open: 2, state: 0, seconds: [0.05, 5] }).view();
const two = worker({ requests: 4, open: 5, state: 2, seconds: [0.5] }).view();

test("counters, histograms and amounts of several processes add up, and a state is the worst of theirs", () => {
  expect(renderFamilies(mergeFamilies([one, two]))).toBe(
    `# HELP r_total R.
# TYPE r_total counter
r_total{to="orders"} 7
# HELP open O.
# TYPE open gauge
open 7
# HELP state S.
# TYPE state gauge
state 2
# HELP s S.
# TYPE s histogram
s_bucket{le="0.1"} 1
s_bucket{le="1"} 2
s_bucket{le="+Inf"} 3
s_sum 5.55
s_count 3
`,
  );
});

test("merging changes nothing of what was merged, and one process alone stays what it is", () => {
  const before = JSON.stringify(one);
  mergeFamilies([one, two]);
  expect(JSON.stringify(one)).toBe(before);
  expect(renderFamilies(mergeFamilies([one]))).toBe(renderFamilies(one));
});

test("a set that only one process has is kept, and what overflows a family is counted together", () => {
  const metrics = new Metrics();
  const counter = metrics.counter({ name: "r_total", help: "R.", labels: ["to"] });
  for (const name of ["ledger", "shop", "stock"]) counter.with(name).add();
  const merged = mergeFamilies([one, metrics.view()], 2);
  expect(renderFamilies(merged.filter(({ name }) => name === "r_total"))).toContain(
    'r_total{to="orders"} 3\nr_total{to="ledger"} 1\nr_total{to="other"} 2\n',
  );
});

test("a family that is described differently elsewhere is not mixed into the first", () => {
  const metrics = new Metrics();
  metrics
    .counter({ name: "r_total", help: "R.", labels: ["from"] })
    .with("web")
    .add(100);
  metrics.histogram({ name: "s", help: "S." }, [7]).with().observe(1);
  expect(totalOf(mergeFamilies([one, metrics.view()]), "r_total")).toBe(3);
});

test("processes that end one after the other leave places to the living, and no count is lost", () => {
  const counting = (...names: string[]) => {
    const metrics = new Metrics();
    const counter = metrics.counter({ name: "r_total", help: "R.", labels: ["to"] });
    for (const name of names) counter.with(name).add();
    return metrics.view();
  };
  let departed: ReturnType<typeof addDeparted> = [];
  for (let i = 1; i <= 1_200; i++) departed = addDeparted(departed, counting("orders", `gone-${i}`));
  expect(departed[0]?.sets.length).toBe(501);
  expect(totalOf(departed, "r_total")).toBe(2_400);
  const text = renderFamilies(mergeFamilies([departed, counting("orders", "new")]));
  // What the last ones had stays what it is: a count that went down would look like a start from zero.
  expect(text).toContain('r_total{to="orders"} 1201\n');
  expect(text).toContain('r_total{to="gone-1200"} 1\n');
  expect(text).toContain('r_total{to="new"} 1\n');
  expect(text).toContain('r_total{to="other"} 701\n');
});

test("what was counted outlives a process, and its gauges do not", () => {
  expect(countsOf(one).map(({ name }) => name)).toEqual(["r_total", "s"]);
  expect(totalOf(one, "r_total")).toBe(3);
  expect(totalOf(one, "absent_total")).toBe(0);
});
