/** Of this package; `test/tidy/release.test.ts` keeps it equal to package.json and CHANGELOG.md. */
export const release = "0.1.0";
