import * as fc from "fast-check";
import { expect, test } from "vitest";
import type { Fields } from "../http/message.ts";
import { takeRequest, takeResponse } from "./headers.ts";
import { respell, spellingField } from "./spelling.ts";

function request(...names: string[]) {
  const fields: Fields = names.flatMap((name, i) => [name, String(i)]);
  return takeRequest({ method: "GET", scheme: "http", authority: "a", path: "/", fields, bodyLength: 0 });
}

function response(...names: string[]) {
  return takeResponse({ status: 200, fields: names.flatMap((name, i) => [name, String(i)]), bodyLength: 0 }, false);
}

function namesOf(fields: Fields): string[] {
  return fields.filter((_, i) => i % 2 === 0);
}

test.each<[string, string[], string]>([
  ["lower case says nothing", ["accept", "x-a", "user-agent"], ""],
  ["canonical case is one character", ["Accept", "X-Abc-D", "User-Agent", "Authorization", "Content-Type"], "*"],
  ["a mixture lists what is not in lower case", ["Accept", "x-a", "ETag", "authorization"], "Accept,ETag"],
  ["one that is neither makes a list", ["Accept", "X-FOO"], "Accept,X-FOO"],
  ["a name without letters says nothing", ["Accept", "1-2"], "*"],
  ["what does not go on is not said", ["X-Hauberk-A", "Connection", "X-Request-ID", "accept"], ""],
  ["no fields", [], ""],
])("%s", (_, names, spelling) => {
  expect(request(...names).spelling).toBe(spelling);
});

test("a list that is too long is left out", () => {
  const names = Array.from({ length: 60 }, (_, i) => `X-SOMETHING-RATHER-LONG-${i}`);
  expect(request(...names).spelling).toBe("");
});

test("any names of a request and of an answer come back as they were written, one spelling for each name", () => {
  const word = fc.stringMatching(/^[A-Za-z0-9!#$%&'*+.^`|~-]{1,20}$/);
  fc.assert(
    fc.property(fc.uniqueArray(word, { selector: (name) => name.toLowerCase(), maxLength: 12 }), (words) => {
      const names = words.map((name) => `Y${name}`);
      for (const { fields, spelling } of [request(...names), response(...names)]) {
        expect(namesOf(fields)).toEqual(names.map((name) => name.toLowerCase()));
        respell(fields, spelling);
        expect(namesOf(fields)).toEqual(names);
      }
    }),
  );
});

test("whatever a peer says of the spelling, names change in nothing but case", () => {
  const given: Fields = ["accept", "1", "x-user", "2", "cookie", "3"];
  const said = fc.oneof(
    fc.string({ unit: "binary", maxLength: 60 }),
    fc
      .array(fc.constantFrom("Accept", "X-USER", "x-admin", "cooKie", "", "\r\n", "accept:", "É", "__proto__"), {
        maxLength: 6,
      })
      .map((names) => names.join(",")),
    fc.constant("*"),
    fc.constant("X-USER,".repeat(1_000)),
  );
  fc.assert(
    fc.property(said, (spelling) => {
      const fields = [...given];
      respell(fields, spelling);
      expect(fields.map((text) => text.toLowerCase())).toEqual(given);
    }),
  );
});

test("a routee cannot say how its names are to be written, and a sidecar can", () => {
  const head = { status: 200, fields: [spellingField, "X-A", "x-a", "1"], bodyLength: 0 };
  expect(takeResponse(head, false)).toEqual({ fields: ["x-a", "1"], spelling: "" });
  expect(takeResponse(head, true)).toEqual({ fields: ["x-a", "1"], spelling: "X-A" });
});
