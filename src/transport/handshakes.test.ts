import type { Socket } from "node:net";
import { expect, test } from "vitest";
import { Handshakes } from "./handshakes.ts";

/** Raw and TLS socket of one connection are two objects with the same ends. */
function socketFrom(remotePort: number, localAddress = "10.0.0.1"): Socket {
  return { remoteAddress: "10.0.0.9", remotePort, localAddress } as Socket;
}

test("a port that is used again at once takes nothing from its new connection, and leaves no place taken", () => {
  const handshakes = new Handshakes<string>(2);
  for (let i = 0; i < 5; i++) {
    const before = socketFrom(4000);
    const after = socketFrom(4000);
    expect(handshakes.begin(before, "old")).toBe(true);
    // The peer reset it and came again from the same port, and we hear of the reset last.
    expect(handshakes.begin(after, "new")).toBe(true);
    handshakes.forget(before);
    expect(handshakes.underWay).toBe(1);
    expect(handshakes.done(socketFrom(4000))).toBe("new");
    handshakes.forget(after);
    expect(handshakes.underWay).toBe(0);
  }
  // One that was done, and whose end we hear of after the next from its port has begun.
  const done = socketFrom(4001);
  handshakes.begin(done, "old");
  handshakes.done(socketFrom(4001));
  handshakes.begin(socketFrom(4001), "new");
  handshakes.forget(done);
  expect(handshakes.done(socketFrom(4001))).toBe("new");
});

test("one port that connects to two addresses of ours has two handshakes, each with its own certificate", () => {
  const handshakes = new Handshakes<string>(2);
  const one = socketFrom(4000, "10.0.0.1");
  const other = socketFrom(4000, "10.0.0.2");
  expect(handshakes.begin(one, "old")).toBe(true);
  expect(handshakes.begin(other, "new")).toBe(true);
  expect(handshakes.begin(socketFrom(4001), "new")).toBe(false);
  expect(handshakes.done(socketFrom(4000, "10.0.0.1"))).toBe("old");
  expect(handshakes.done(socketFrom(4000, "10.0.0.2"))).toBe("new");
  handshakes.forget(one);
  handshakes.forget(other);
  expect(handshakes.underWay).toBe(0);
  expect(handshakes.begin(socketFrom(4002), "new")).toBe(true);
  expect(handshakes.begin(socketFrom(4003), "new")).toBe(true);
});
