import type { Command, Flag, Run } from "./command.ts";

/** Every command as data; the implementation is loaded when it is called. */

const json: Flag = { why: "Print JSON" };
const home: Flag = {
  value: "DIR",
  why: "The mesh home; default: the nearest folder with hauberk.yaml, or HAUBERK_HOME",
};
const admin: Flag = {
  value: "NAME",
  why: "Which administrator's SVID of certs/admin to use; default: the only one, or admin",
};
const control: Flag = {
  value: "URL",
  why: "The mesh API; default: where this mesh home's control plane listened last, else addresses.mesh of hauberk.yaml",
};

const sidecarFlags: Readonly<Record<string, Flag>> = {
  service: { value: "NAME", short: "s", why: "The service that this is; a new enrollment needs a token for the same" },
  namespace: { value: "NAME", short: "n", why: "Its namespace; default: default" },
  app: {
    value: "[NAME=]PROTOCOL:PORT",
    many: true,
    why: "A port of the program that others may call, such as http:8080, h2:50051 or grpc:50051 (HTTP/2 without TLS), tcp:6379; none for a pure client",
  },
  "token-file": {
    value: "PATH",
    why: "The enrollment token, - for standard input; HAUBERK_TOKEN works too; not needed once enrolled. The control plane is waited for up to HAUBERK_ENROLL_WAIT_MS (60000)",
  },
  to: {
    value: "SERVICE=PORT",
    many: true,
    why: "A loopback port (or a socket's path) of its own for one service, in any protocol; SERVICE:PORT=PORT names the service's port",
  },
  "allow-origin": {
    value: "ORIGIN",
    many: true,
    why: "A site whose pages may call through the ports of --to, such as https://shop.example, or * for all; default: none",
  },
  instance: { value: "NAME", why: "Tells several instances on one machine apart; default: 1" },
  state: {
    value: "DIR",
    why: "Where the identity lies; default: certs/SERVICE/INSTANCE of the mesh home, else below $XDG_STATE_HOME/hauberk",
  },
  advertise: {
    value: "ADDRESS",
    why: "At which address others reach this machine; default: the local one of the connection to the control plane",
  },
  "inbound-port": { value: "PORT", why: "Default: 15443, or a free one" },
  "inbound-host": { value: "ADDRESS", why: "Default: 0.0.0.0" },
  "outbound-port": { value: "PORT", why: "Default: 15001, or a free one" },
  egress: {
    value: "HOST[:PORT]",
    many: true,
    why: "A host outside of the mesh that the program may call through the outbound port (plain HTTP, or CONNECT for https), on every port or the one named; *.example.com and * too; default: none",
  },
  "health-path": {
    value: "PATH",
    why: "What to GET on the first port to see whether the program is well; default: a TCP connect, for h2 the beginning of HTTP/2",
  },
  balancer: { value: "NAME", why: "round-robin (default) or least-connections" },
  "admin-socket": { value: "PATH", why: "Where health and metrics answer; default: admin.sock in the state folder" },
  "allow-exposed": {
    value: "PORT",
    many: true,
    why: "Accept that this port of the program answers on the network too",
  },
  workers: {
    value: "N",
    why: "Processes that share the ports and the work, one core each; default: 1, the sidecar itself",
  },
  "access-log": { why: "Write a JSON line for every request to standard error" },
  "log-level": { value: "LEVEL", why: "debug, info, warn (default for run) or error" },
  home,
};

const lazy =
  (load: () => Promise<{ run: Run }>): (() => Promise<Run>) =>
  async () =>
    (await load()).run;

export const commands: readonly Command[] = [
  {
    name: "init",
    summary: "Make a mesh home with a CA of its own",
    usage: "[DIR]",
    words: [0, 1],
    flags: {
      "trust-domain": { value: "NAME", why: "Default: asked for on a terminal, else made up, such as mesh-k3x9qa" },
      "root-passphrase-file": {
        value: "PATH",
        why: "Default: one is made, in a 0600 file below $XDG_STATE_HOME/hauberk",
      },
      "passphrase-file": { value: "PATH", why: "For the issuing key; default: one is made, likewise" },
      json,
    },
    examples: ["hauberk init", "hauberk init ./mesh --trust-domain mesh.example"],
    load: lazy(() => import("./commands/init.ts")),
  },
  {
    name: "control",
    summary: "Run the control plane",
    usage: "",
    words: [0, 0],
    flags: {
      home,
      "passphrase-file": { value: "PATH", why: "Of the issuing key; default: where init put it" },
      mesh: { value: "HOST:PORT", why: "The mesh API; default: addresses.mesh of hauberk.yaml, 0.0.0.0:7443" },
      enrollment: {
        value: "HOST:PORT",
        why: "Enrollment; default: addresses.enrollment of hauberk.yaml, 0.0.0.0:7444",
      },
      "log-level": { value: "LEVEL", why: "debug, info (default), warn or error" },
      json: { why: "Say in one JSON line on standard output when it is ready" },
    },
    examples: ["hauberk control", "hauberk control --home ./mesh --mesh 0.0.0.0:7443 --enrollment 0.0.0.0:7444"],
    load: lazy(() => import("./commands/control.ts")),
  },
  {
    name: "token create",
    summary: "Make an enrollment token for one service",
    usage: "--service NAME",
    words: [0, 0],
    flags: {
      service: { value: "NAME", short: "s", why: "The service that its bearer becomes: orders, or orders.shop" },
      uses: { value: "N", why: "How many instances may enroll with it; default: 1" },
      ttl: { value: "DURATION", why: "How long it is good; default: 10m" },
      out: { value: "PATH", why: "Write it to a new 0600 file instead of standard output" },
      control,
      admin,
      home,
      json,
    },
    examples: [
      "hauberk token create --service orders --out orders.token",
      "hauberk token create --service orders --uses 5 --ttl 1h",
    ],
    load: lazy(() => import("./commands/token-create.ts")),
  },
  {
    name: "token list",
    summary: "List enrollment tokens",
    usage: "",
    words: [0, 0],
    flags: { control, admin, home, json },
    examples: ["hauberk token list", "hauberk token list --json"],
    load: lazy(() => import("./commands/token-list.ts")),
  },
  {
    name: "token revoke",
    summary: "Make a token useless",
    usage: "ID",
    words: [1, 1],
    flags: { control, admin, home, json },
    examples: ["hauberk token revoke 3f9c0d7e1a2b4c5d6e7f8091a2b3c4d5"],
    load: lazy(() => import("./commands/token-revoke.ts")),
  },
  {
    name: "run",
    summary: "Start a sidecar, then a program behind it",
    usage: "--service NAME [OPTIONS] -- PROGRAM [ARGUMENTS]",
    words: [0, 0],
    program: true,
    flags: {
      ...sidecarFlags,
      json: { why: "Say in one JSON line on standard error when the sidecar is ready" },
      grace: { value: "DURATION", why: "How long the program may take to end before it is killed; default: 10s" },
    },
    examples: [
      "hauberk run --service orders --app http:8080 --token-file orders.token -- node app.js",
      "hauberk run --service web -- curl http://orders/orders/1",
      "hauberk run --service web -- bash",
    ],
    load: lazy(() => import("./commands/run.ts")),
  },
  {
    name: "proxy",
    summary: "Run a sidecar alone",
    usage: "--service NAME [OPTIONS]",
    words: [0, 0],
    flags: {
      ...sidecarFlags,
      "open-outbound": {
        why: "Let every local user call as this service through the outbound port; hauberk check names it",
      },
      json: { why: "Say in one JSON line on standard output when it is ready" },
    },
    examples: [
      "hauberk proxy --service orders --app http:8080 --token-file orders.token",
      "hauberk proxy --service web --to orders=7001 --to redis=6379",
    ],
    load: lazy(() => import("./commands/proxy.ts")),
  },
  {
    name: "policy apply",
    summary: "Make the stored policies equal to a folder's",
    usage: "[DIR]",
    words: [0, 1],
    flags: { "dry-run": { why: "Show the difference and change nothing" }, control, admin, home, json },
    examples: ["hauberk policy apply policies", "hauberk policy apply --dry-run"],
    load: lazy(() => import("./commands/policy-apply.ts")),
  },
  {
    name: "policy test",
    summary: "Run a folder's expected-decision cases",
    usage: "[DIR]",
    words: [0, 1],
    flags: { home, json },
    examples: ["hauberk policy test", "hauberk policy test ./policies --json"],
    load: lazy(() => import("./commands/policy-test.ts")),
  },
  {
    name: "policy explain",
    summary: "Say what happens to one call, and why",
    usage: "--from SERVICE --to SERVICE [METHOD] [PATH]",
    words: [0, 2],
    flags: {
      from: { value: "SERVICE", why: "Who calls: web, web.shop, or a SPIFFE ID" },
      to: { value: "SERVICE", why: "Who is called: orders, or orders.shop" },
      claim: { value: "NAME=VALUE", many: true, why: "A claim of a valid token; the same name again makes a list" },
      provider: { value: "NAME", why: "Whose token it is, without a claim too; default: the only provider" },
      header: { value: "NAME: VALUE", many: true, why: "A header of the request" },
      address: {
        value: "ADDRESS",
        why: "Where the call comes from; left out, the caller's own sidecar decides, which cannot know",
      },
      port: {
        value: "PORT",
        why: "The called port, as the service's --app names it; default: 80, so name it where a policy names ports",
      },
      policies: { value: "DIR", why: "The folder of policies; default: policies of the mesh home" },
      home,
      json,
    },
    examples: [
      "hauberk policy explain --from web --to orders GET /orders/1",
      "hauberk policy explain --from web --to orders --claim scope=orders:read GET /orders/1",
      "hauberk policy explain --from web --to redis --port 6379 CONNECT",
    ],
    load: lazy(() => import("./commands/policy-explain.ts")),
  },
  {
    name: "services",
    summary: "Show services, endpoints and which sidecar runs which version",
    usage: "",
    words: [0, 0],
    flags: { control, admin, home, json },
    examples: ["hauberk services", "hauberk services --json"],
    load: lazy(() => import("./commands/services.ts")),
  },
  {
    name: "certs list",
    summary: "List the certificates that the CA issued and that still live",
    usage: "",
    words: [0, 0],
    flags: { all: { why: "Expired ones too" }, control, admin, home, json },
    note: "SEEN: yes once its workload has connected to the control plane with it; from then on the one before cannot be renewed. - for who is no workload",
    examples: ["hauberk certs list", "hauberk certs list --all --json"],
    load: lazy(() => import("./commands/certs-list.ts")),
  },
  {
    name: "certs inspect",
    summary: "Show what a certificate file says, and whether it is a good SVID",
    usage: "FILE-OR-STATE-DIR",
    words: [1, 1],
    flags: {
      roots: { value: "FILE", why: "Verify against these roots; default: ca/root.crt of the mesh home" },
      home,
      json,
    },
    examples: ["hauberk certs inspect ca/root.crt", "hauberk certs inspect certs/orders/1"],
    load: lazy(() => import("./commands/certs-inspect.ts")),
  },
  {
    name: "certs export",
    summary: "Write a workload's certificate and key for other programs",
    usage: "STATE-DIR --out PATH",
    words: [1, 1],
    flags: {
      format: { value: "FORMAT", why: "pem or p12; default: p12 for a PATH that ends with .p12 or .pfx, else pem" },
      out: { value: "PATH", why: "A new file, 0600" },
      "password-file": { value: "PATH", why: "For p12; default: one is made and written beside, 0600" },
      home,
      json,
    },
    examples: [
      "hauberk certs export certs/orders/1 --out orders.pem",
      "hauberk certs export certs/orders/1 --out orders.p12 --password-file pw",
    ],
    load: lazy(() => import("./commands/certs-export.ts")),
  },
  {
    name: "admin issue",
    summary: "Make an administrator's SVID from the CA's passphrase, on the control plane's machine",
    usage: "NAME",
    words: [1, 1],
    flags: { "passphrase-file": { value: "PATH", why: "Of the issuing key; default: where init put it" }, home, json },
    examples: ["hauberk admin issue alice"],
    load: lazy(() => import("./commands/admin-issue.ts")),
  },
  {
    name: "backup",
    summary: "Write the store to a file, also while the control plane runs",
    usage: "FILE",
    words: [1, 1],
    flags: { home, json },
    examples: ["hauberk backup mesh.backup", "hauberk backup /backups/mesh-monday.backup"],
    load: lazy(() => import("./commands/backup.ts")),
  },
  {
    name: "restore",
    summary: "Put a backup of the store back, with the control plane ended",
    usage: "FILE",
    words: [1, 1],
    flags: { home, json },
    examples: ["hauberk restore mesh.backup"],
    load: lazy(() => import("./commands/restore.ts")),
  },
  {
    name: "check",
    summary: "Diagnose: clock, reachability, expiry, versions, open doors",
    usage: "",
    words: [0, 0],
    flags: { control, admin, home, json },
    examples: ["hauberk check", "hauberk check --json"],
    load: lazy(() => import("./commands/check.ts")),
  },
];
