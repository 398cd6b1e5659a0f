import { afterEach, expect, test, vi } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { onEnd, type End } from "./signals.ts";

let forget: () => void = () => undefined;
afterEach(() => {
  forget();
  vi.restoreAllMocks();
});

function listening(end: Partial<End> = {}): { clock: ManualClock; heard: string[] } {
  const clock = new ManualClock();
  const heard: string[] = [];
  vi.spyOn(process, "exit").mockImplementation((code) => {
    heard.push(`exit ${String(code)}`);
    return undefined as never;
  });
  forget = onEnd(
    {
      ask: (signal) => {
        heard.push(signal);
        return true;
      },
      abandon: () => void heard.push("abandon"),
      ...end,
    },
    clock,
  );
  return { clock, heard };
}

test("the first signal asks, and a later one gives up what was started before it ends the process", () => {
  const { clock, heard } = listening();
  process.emit("SIGTERM", "SIGTERM");
  clock.advance(600);
  process.emit("SIGINT", "SIGINT");
  expect(heard).toEqual(["SIGTERM", "abandon", "exit 130"]);
});

test("a signal that npm hands on beside the terminal's is the same wish", () => {
  const { clock, heard } = listening();
  process.emit("SIGINT", "SIGINT");
  clock.advance(20);
  process.emit("SIGINT", "SIGINT");
  expect(heard).toEqual(["SIGINT"]);
});

test("a signal that was not meant for this process does not make the next one the second", () => {
  const asked: string[] = [];
  const { clock, heard } = listening({ ask: (signal) => asked.push(signal) > 1 });
  process.emit("SIGINT", "SIGINT");
  clock.advance(600);
  process.emit("SIGTERM", "SIGTERM");
  expect(asked).toEqual(["SIGINT", "SIGTERM"]);
  expect(heard).toEqual([]);
});
