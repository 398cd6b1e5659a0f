import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** The peers' certificates, by openssl: P-256, `a` calls, `b` answers, URI SANs as the mesh's have. */
export function makePki(folder: string): void {
  const pki = join(folder, "pki");
  mkdirSync(pki, { recursive: true });
  const openssl = (...args: string[]): void => void execFileSync("openssl", args, { cwd: pki, stdio: "pipe" });
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  openssl("req", "-x509", ...curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=bench", "-days", "2");
  for (const name of ["a", "b"]) {
    openssl("req", ...curve, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", `/CN=${name}.mesh`);
    writeFileSync(
      join(pki, "ext"),
      `subjectAltName=URI:spiffe://mesh/${name},DNS:${name}.mesh\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n`,
    );
    openssl(
      "x509",
      "-req",
      "-in",
      `${name}.csr`,
      "-CA",
      "ca.crt",
      "-CAkey",
      "ca.key",
      "-CAcreateserial",
      "-days",
      "2",
      "-out",
      `${name}.crt`,
      "-extfile",
      "ext",
    );
    writeFileSync(
      join(pki, `${name}.pem`),
      readFileSync(join(pki, `${name}.crt`), "utf8") + readFileSync(join(pki, `${name}.key`), "utf8"),
      { mode: 0o600 },
    );
  }
}
