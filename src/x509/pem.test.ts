import * as fc from "fast-check";
import { expect, test } from "vitest";
import { isRefusal } from "../base/errors.ts";
import { fromPem, toPem } from "./pem.ts";

const der = Buffer.from("a certificate that is none, long enough for a second line of base64");

test("blocks are read back in order, whatever they hold", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ minLength: 1, maxLength: 200 }), { minLength: 1, maxLength: 4 }), (list) => {
      const blocks = list.map((octets) => ({ label: "CERTIFICATE", der: Buffer.from(octets) }));
      const text = blocks.map((block) => toPem(block.label, block.der)).join("");
      expect(fromPem(text)).toEqual(blocks);
      expect(Math.max(...text.split("\n").map((line) => line.length))).toBeLessThanOrEqual(64);
    }),
  );
});

test("a missing last line break, CRLF, blanks and remarks between blocks do not matter", () => {
  const text = toPem("CERTIFICATE", der);
  const blocks = [{ label: "CERTIFICATE", der }];
  expect(fromPem(text.trimEnd())).toEqual(blocks);
  expect(fromPem(text.replaceAll("\n", "\r\n"))).toEqual(blocks);
  expect(fromPem(`subject=orders\n\n${text}\nBag Attributes\n`)).toEqual(blocks);
});

test("a block that is cut, mixed up, has headers or is no base64 is refused", () => {
  const text = toPem("CERTIFICATE", der);
  const lines = text.split("\n");
  const wrong = [
    "",
    "no block",
    text.replace("END CERTIFICATE", "END KEY"),
    lines.slice(0, 2).join("\n"),
    lines.slice(1).join("\n"),
    text.replace("\n", "\nProc-Type: 4,ENCRYPTED\n\n"),
    text.replace("\n", "\n=\n"),
    text.replace("-----BEGIN", "-----BEGIN\n-----BEGIN"),
    lines.slice(0, 2).join("\n") + "\n" + text,
    toPem("CERTIFICATE", Buffer.alloc(0)),
    "x".repeat(1024 * 1024 + 1),
  ];
  for (const [index, item] of wrong.entries()) {
    const read = fromPem(item);
    expect([index, isRefusal(read) && read.code]).toEqual([index, "MESSAGE_INVALID"]);
  }
});
