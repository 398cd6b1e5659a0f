import * as fc from "fast-check";
import { expect, test } from "vitest";
import { grpcStatusFields, grpcTimeoutText, isGrpcType, readGrpcTimeoutMs } from "./grpc.ts";
import { refuse } from "../base/errors.ts";

test("gRPC is known by its content type, with any suffix and in any case; gRPC-Web is not gRPC", () => {
  for (const yes of [
    "application/grpc",
    "application/grpc+proto",
    "Application/GRPC; charset=a",
    "application/grpc x",
  ]) {
    expect([yes, isGrpcType(yes)]).toEqual([yes, true]);
  }
  for (const no of ["", "application/grp", "application/grpc-web", "application/grpcx", "text/application/grpc"]) {
    expect([no, isGrpcType(no)]).toEqual([no, false]);
  }
});

test("a timeout is up to eight digits and one unit, and nothing else", () => {
  const cases = { "1H": 3_600_000, "2M": 120_000, "3S": 3_000, "4m": 4, "5u": 0.005, "6n": 0.000_006, "0m": 0 };
  for (const [text, ms] of Object.entries(cases)) expect(readGrpcTimeoutMs(text)).toBeCloseTo(ms, 9);
  for (const text of ["", "m", "1", "1 m", "-1m", "1.5S", "123456789m", "1s", "1mm", "+1m"]) {
    expect([text, readGrpcTimeoutMs(text)]).toEqual([text, undefined]);
  }
});

test("a timeout that is written is never shorter than the time that is left, nor longer by more than its unit", () => {
  fc.assert(
    fc.property(fc.double({ min: 0, max: 1e14, noNaN: true }), (ms) => {
      const text = grpcTimeoutText(ms);
      const read = readGrpcTimeoutMs(text) ?? Number.NaN;
      const unit = text.endsWith("m") ? 1 : text.endsWith("S") ? 1_000 : 3_600_000;
      expect(read).toBeGreaterThanOrEqual(ms);
      expect(read - ms).toBeLessThanOrEqual(unit * 1.001);
    }),
  );
});

test("a status message is ASCII on the wire, whatever the sentence holds", () => {
  const [, status, , message, , code] = grpcStatusFields(refuse("DENIED", "Cannot call 100 % of “ö”", "Ask"));
  expect([status, message, code]).toEqual(["7", "Cannot call 100 %25 of %E2%80%9C%C3%B6%E2%80%9D. Ask", "DENIED"]);
});
