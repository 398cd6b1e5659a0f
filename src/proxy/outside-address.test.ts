import { expect, test } from "vitest";
import { isOfThisMachine, sameAddress, whyNotOutside } from "./outside-address.ts";

test.each([
  "127.0.0.1",
  "127.255.255.254",
  "0.0.0.0",
  "0.1.2.3",
  "169.254.169.254",
  "100.100.100.200",
  "192.0.0.192",
  "224.0.0.1",
  "240.0.0.1",
  "255.255.255.255",
  "::",
  "::1",
  "::127.0.0.1",
  "fe80::1",
  "fe80::1%eth0",
  "febf::1",
  "ff02::1",
  "fd00:ec2::254",
  "::ffff:127.0.0.1",
  "::ffff:7f00:1",
  "::FFFF:169.254.169.254",
  "::ffff:0.0.0.0",
  "::ffff:224.0.0.1",
  "::ffff:0:127.0.0.1",
  "64:ff9b::127.0.0.1",
  "64:ff9b::a9fe:a9fe",
  "64:ff9b:1::7f00:1",
  "2002:7f00:1::",
  "2002:a9fe:a9fe::1",
  "localhost",
  "127.1",
  "",
])("%s is nothing outside", (address) => {
  expect(whyNotOutside(address)).toMatch(/^it is /);
});

test.each([
  "10.0.0.1",
  "192.168.1.1",
  "93.184.216.34",
  "::ffff:10.0.0.1",
  "2001:db8::1",
  "fd00::1",
  "64:ff9b::5db8:d822",
  "2002:5db8:d822::1",
])("%s may be dialled", (address) => {
  expect(whyNotOutside(address)).toBeUndefined();
});

test("an address is the same in every spelling", () => {
  expect(sameAddress("::ffff:10.0.0.1", "10.0.0.1")).toBe(true);
  expect(sameAddress("2001:DB8:0::1", "2001:db8::1")).toBe(true);
  expect(sameAddress("10.0.0.1", "10.0.0.2")).toBe(false);
  expect(sameAddress("orders", "orders")).toBe(false);
});

test("the interfaces say which addresses are of this machine", () => {
  expect(isOfThisMachine("127.0.0.1")).toBe(true);
  expect(isOfThisMachine("203.0.113.77")).toBe(false);
});
