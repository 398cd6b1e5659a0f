import { expect, test } from "vitest";
import { sniffProtocol } from "./sniff.ts";

test("the preface of HTTP/2 is known by its first line, and everything else is HTTP/1.1", () => {
  const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  expect(sniffProtocol(Buffer.from(preface))).toBe("h2");
  expect(sniffProtocol(Buffer.from(preface + "more"))).toBe("h2");
  expect(sniffProtocol(Buffer.from("PRI * HTTP/2.0\r\nX"))).toBe("http/1.1");
  expect(sniffProtocol(Buffer.from("P"))).toBeUndefined();
  expect(sniffProtocol(Buffer.from("PUT"))).toBe("http/1.1");
});
