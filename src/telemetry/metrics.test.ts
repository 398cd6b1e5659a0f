import { expect, test } from "vitest";
import { Metrics } from "./metrics.ts";

test("counters, gauges and histograms are rendered as the text format 0.0.4 wants them", () => {
  const metrics = new Metrics();
  const requests = metrics.counter({ name: "r_total", help: "Requests.", labels: ["code", "to"] });
  requests.with("200", "orders").add();
  requests.with("200", "orders").add(2);
  requests.with("503", 'a"b\\c\nd').add();
  metrics.gauge({ name: "open", help: "Open \\ now\nhere." }).with().set(-1.5);
  const seconds = metrics.histogram({ name: "s", help: "Seconds.", labels: ["x"] }, [0.1, 1]).with("y");
  for (const value of [0.05, 0.1, 0.5, 7]) seconds.observe(value);
  expect(metrics.renderPrometheus()).toBe(
    `# HELP r_total Requests.
# TYPE r_total counter
r_total{code="200",to="orders"} 3
r_total{code="503",to="a\\"b\\\\c\\nd"} 1
# HELP open Open \\\\ now\\nhere.
# TYPE open gauge
open -1.5
# HELP s Seconds.
# TYPE s histogram
s_bucket{x="y",le="0.1"} 2
s_bucket{x="y",le="1"} 3
s_bucket{x="y",le="+Inf"} 4
s_sum{x="y"} 7.65
s_count{x="y"} 4
`,
  );
  expect(seconds.count).toBe(4);
});

test("a metric without a value is not shown, and not-a-number and infinity are written as Prometheus does", () => {
  const metrics = new Metrics();
  metrics.counter({ name: "never_total", help: "Never." });
  expect(metrics.renderPrometheus()).toBe("");
  const gauge = metrics.gauge({ name: "g", help: "G.", labels: ["l"] });
  gauge.with("a").set(NaN);
  gauge.with("b").set(Infinity);
  gauge.with("c").set(-Infinity);
  expect(metrics.renderPrometheus()).toContain('g{l="a"} NaN\ng{l="b"} +Inf\ng{l="c"} -Inf\n');
});

test("label sets above the limit are counted together as other", () => {
  const metrics = new Metrics();
  const counter = metrics.counter({ name: "c_total", help: "C.", labels: ["l"], setsMax: 3 });
  for (let i = 0; i < 1_000; i++) counter.with(`v${i}`).add();
  expect(counter.with("v0").value).toBe(1);
  expect(counter.with("other").value).toBe(997);
  expect(
    metrics
      .renderPrometheus()
      .split("\n")
      .filter((line) => line.startsWith("c_total")),
  ).toHaveLength(4);
});

test("a handle keeps counting into its own set while others come and go", () => {
  const metrics = new Metrics();
  const counter = metrics.counter({ name: "c_total", help: "C.", labels: ["l"] });
  const kept = counter.with("kept");
  const stale = counter.with("stale");
  counter.forget("stale");
  const later = Array.from({ length: 200 }, (_, i) => counter.with(`x${i}`));
  stale.add(50);
  kept.add();
  for (const handle of later) handle.add(3);
  expect(later.every((handle) => handle.value === 3)).toBe(true);
  expect(counter.with("kept").value).toBe(1);
  expect(metrics.renderPrometheus()).not.toContain("stale");
  expect(counter.with("stale").value).toBe(0);
});

test("a name is one metric: the same is given again, another shape is refused", () => {
  const metrics = new Metrics();
  metrics
    .counter({ name: "c_total", help: "C.", labels: ["l"] })
    .with("a")
    .add();
  expect(metrics.counter({ name: "c_total", help: "C.", labels: ["l"] }).with("a").value).toBe(1);
  expect(() => metrics.gauge({ name: "c_total", help: "C.", labels: ["l"] })).toThrow("exists with another type");
  expect(() => metrics.counter({ name: "c_total", help: "C." })).toThrow("other labels");
  expect(() => metrics.counter({ name: "c-total", help: "C." })).toThrow("no Prometheus name");
  expect(() => metrics.counter({ name: "c_total", help: "C.", labels: ["l"] }).with()).toThrow("0 label values given");
});

test("a collector runs at each rendering and at no other time", () => {
  const metrics = new Metrics();
  const gauge = metrics.gauge({ name: "g", help: "G." }).with();
  let looked = 0;
  metrics.collect(() => gauge.set(++looked));
  expect(looked).toBe(0);
  metrics.renderPrometheus();
  expect(metrics.renderPrometheus()).toContain("g 2\n");
});
