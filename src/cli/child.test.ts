import { expect, test } from "vitest";
import { childEnvironment } from "./child.ts";

const outbound = { port: 15_001, secret: "s" };

test("the program calls through the sidecar, and what its user calls directly stays direct", () => {
  const made = childEnvironment({ HAUBERK_TOKEN: "t", no_proxy: "api.example.com, .corp,localhost", A: "1" }, outbound);
  expect(made).toEqual({
    A: "1",
    http_proxy: "http://hauberk:s@127.0.0.1:15001",
    HTTP_PROXY: "http://hauberk:s@127.0.0.1:15001",
    NODE_USE_ENV_PROXY: "1",
    no_proxy: "localhost,127.0.0.1,::1,api.example.com,.corp",
    NO_PROXY: "localhost,127.0.0.1,::1,api.example.com,.corp",
  });
  expect(childEnvironment({}, outbound)["no_proxy"]).toBe("localhost,127.0.0.1,::1");
  expect(childEnvironment({ NO_PROXY: "x" }, outbound)["no_proxy"]).toBe("localhost,127.0.0.1,::1,x");
});
