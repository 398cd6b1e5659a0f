import { expect, test } from "vitest";
import type { OptionTable } from "../base/options.ts";
import { refuseUnknown, settle } from "./settings.ts";

const table = {
  waitMs: { env: "T_WAIT_MS", default: 100, min: 10, max: 1_000, why: "Long enough for a test" },
  name: { kind: "text", env: "T_NAME", default: "plain", form: "a word", why: "Something to call it" },
  loud: { kind: "switch", env: "T_LOUD", default: false, why: "Whether it is heard" },
} as const satisfies OptionTable;

test("without a source, every value is its default, frozen", () => {
  const values = settle(table, { environment: {}, file: {} });
  expect(values).toEqual({ waitMs: 100, name: "plain", loud: false });
  expect(Object.isFrozen(values)).toBe(true);
});

test("the environment is stronger than the file, the file than the default", () => {
  const values = settle(table, { environment: { T_WAIT_MS: "20" }, file: { waitMs: 30, name: "odd", loud: true } });
  expect(values).toEqual({ waitMs: 20, name: "odd", loud: true });
});

test.each([9, 1_001, "9", "1001", "", "ten", "1e2", "0x20", " 20", "NaN", "Infinity", true])(
  "%j is no value for a number from 10 to 1000",
  (given) => {
    expect(() => settle(table, { environment: {}, file: { waitMs: given } })).toThrow(
      expect.objectContaining({
        code: "CONFIG_INVALID",
        message: expect.stringContaining("a number from 10 to 1000") as string,
      }),
    );
  },
);

test("the limits themselves are in range", () => {
  for (const waitMs of [10, 1_000]) expect(settle(table, { environment: {}, file: { waitMs } }).waitMs).toBe(waitMs);
});

test("a switch takes true and false, from both sources, and nothing else", () => {
  expect(settle(table, { environment: { T_LOUD: "true" }, file: {} }).loud).toBe(true);
  expect(settle(table, { environment: { T_LOUD: "false" }, file: { loud: true } }).loud).toBe(false);
  expect(() => settle(table, { environment: { T_LOUD: "1" }, file: {} })).toThrow(/"1" is not true or false/);
});

test("a wrong value's hint names the key of the file and the variable", () => {
  expect(() => settle(table, { environment: { T_WAIT_MS: "x" }, file: {} })).toThrow(
    expect.objectContaining({ hint: expect.stringMatching(/options\.waitMs.*T_WAIT_MS/) as string }),
  );
});

test("a name in the file that no table knows is refused", () => {
  expect(() => refuseUnknown([table], { waitMs: 1, loud: true })).not.toThrow();
  expect(() => refuseUnknown([table], { waitMS: 1 })).toThrow(/there is no option "waitMS"/);
  expect(() => refuseUnknown([table], { toString: 1 })).toThrow(/no option "toString"/);
});
