import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { readConfig } from "./config.ts";
import { controlUrl, rememberControl } from "./control-address.ts";
import { homeAt, type Home } from "./home.ts";

function homeWith(config: string): Home {
  const home = homeAt(mkdtempSync(join(tmpdir(), "hauberk-address-")));
  onTestFinished(() => rmSync(home.folder, { recursive: true }));
  mkdirSync(join(home.certs, "control"), { recursive: true });
  writeFileSync(home.configFile, `trustDomain: a.example\n${config}`);
  return home;
}

test.each([
  ["", "https://127.0.0.1:7443"],
  ['addresses: { mesh: "0.0.0.0:9443" }\n', "https://127.0.0.1:9443"],
  ['addresses: { mesh: "[::]:9443" }\n', "https://127.0.0.1:9443"],
  ['addresses: { mesh: "10.1.2.3:9443" }\n', "https://10.1.2.3:9443"],
  ['addresses: { mesh: "[fd00::1]:9443" }\n', "https://[fd00::1]:9443"],
])("a control plane that has not run here is looked for where hauberk.yaml says: %j", (config, url) => {
  const home = homeWith(config);
  expect(controlUrl(home, readConfig(home.configFile))).toBe(url);
});

test("a control plane that was started with other addresses is found at those, and the last ones count", () => {
  const home = homeWith("");
  rememberControl(home, { host: "0.0.0.0", port: 17_443 });
  expect(controlUrl(home, readConfig(home.configFile))).toBe("https://127.0.0.1:17443");
  rememberControl(home, { host: "::1", port: 27_443 });
  expect(controlUrl(home, readConfig(home.configFile))).toBe("https://[::1]:27443");
  expect(statSync(join(home.certs, "control", "address")).mode & 0o777).toBe(0o600);
});

test("what was written down and is no address counts for nothing", () => {
  const home = homeWith("");
  for (const text of ["", "http://127.0.0.1:1", "https://a b", "https://evil.example/path"]) {
    writeFileSync(join(home.certs, "control", "address"), text);
    expect(controlUrl(home, readConfig(home.configFile))).toBe("https://127.0.0.1:7443");
  }
});
