import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/**
 * The peers in the shape that Hauberk is measured against: client -> out (plain, loopback) -> TLS 1.3 with client certificates -> in -> routee.
 * One thread each, keep-alive, no access logs.
 */
export interface Peer {
  readonly name: string;
  /** The outbound listener that the load is sent to. */
  readonly port: number;
  /** The inbound one, for asking which cipher and group it speaks. */
  readonly tlsPort: number;
  /** Commands of the two proxies, outbound first; each is started in its folder. */
  readonly commands: readonly (readonly [string, ...string[]])[];
}

export type Flow = "http" | "half" | "big" | "grpc" | "stream" | "tcp" | "ws" | "setup";

/** Where the routees listen. */
export const routeePorts = { http: 9000, grpc: 9005, ws: 9006, tcp: 9950 } as const;

/** By `bench/install.sh`; without it Envoy is left out. */
export const envoyPath = fileURLToPath(new URL("../out/envoy", import.meta.url));

/** By `bench/install.sh`; without it nginx is left out where it would carry TCP. */
const nginxStreamPath = "/usr/lib/nginx/modules/ngx_stream_module.so";

/** Who can be measured at this flow, in the form that each is at its best or usually configured. */
export function peersOf(flow: Flow, folder: string): Peer[] {
  const envoyed = (made: () => Peer): Peer[] => (existsSync(envoyPath) ? [made()] : []);
  switch (flow) {
    case "grpc":
    case "stream":
      // Not nginx: through two of them one call in sixty fails here, which voids the run.
      return [
        haproxy(folder, { name: "haproxy-h2", ports: [9321, 9322], alpn: "alpn h2", plain: "proto h2", routee: 9005 }),
        ...envoyed(() => envoy(folder, { name: "envoy-h2", ports: [9421, 9422], method: "POST", routee: 9005 })),
      ];
    case "tcp":
      return [
        haproxy(folder, { name: "haproxy-tcp", ports: [9961, 9962], alpn: "", plain: "", routee: 9950, mode: "tcp" }),
        ...(existsSync(nginxStreamPath) ? [nginxTcp(folder, [9261, 9262], 9950)] : []),
        ...envoyed(() => envoy(folder, { name: "envoy-tcp", ports: [9461, 9462], method: "", routee: 9950 })),
      ];
    case "ws":
      return [
        haproxy(folder, { name: "haproxy-h1", ports: [9341, 9342], alpn: "", plain: "", routee: 9006 }),
        nginx(folder, [9241, 9242], 9006),
        ...envoyed(() => envoy(folder, { name: "envoy-h2", ports: [9441, 9442], method: "GET", routee: 9006 })),
      ];
    case "setup":
      return [
        haproxy(folder, { name: "haproxy-h1", ports: [9301, 9302], alpn: "", plain: "", routee: 9000 }),
        // Not Envoy: it breaks off one handshake in thirty here, which voids the run.
        nginx(folder, [9201, 9202], 9000),
      ];
    case "half":
      // Not HAProxy with an HTTP/2 hop: h2load does not see a status without its reason.
      return [
        haproxy(folder, { name: "haproxy-h1", ports: [9301, 9302], alpn: "", plain: "", routee: 9000 }),
        nginx(folder, [9201, 9202], 9000),
        ...envoyed(() => envoy(folder, { name: "envoy-h2", ports: [9411, 9412], method: "GET", routee: 9000 })),
      ];
    case "http":
    case "big":
    default:
      return [
        haproxy(folder, { name: "haproxy-h1", ports: [9301, 9302], alpn: "", plain: "", routee: 9000 }),
        haproxy(folder, { name: "haproxy-h2", ports: [9331, 9332], alpn: "alpn h2", plain: "", routee: 9000 }),
        nginx(folder, [9201, 9202], 9000),
        ...envoyed(() => envoy(folder, { name: "envoy-h2", ports: [9411, 9412], method: "GET", routee: 9000 })),
      ];
  }
}

interface Shape {
  readonly name: string;
  readonly ports: readonly [out: number, into: number];
  readonly routee: number;
}

function haproxy(folder: string, shape: Shape & { alpn: string; plain: string; mode?: "tcp" }): Peer {
  const { name, ports, alpn, plain, routee } = shape;
  const pki = join(folder, "pki");
  const head = `global
  nbthread 1
  maxconn 8192
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode ${shape.mode ?? "http"}
  timeout connect 5s
  timeout client 600s
  timeout server 600s
${shape.mode === "tcp" ? "" : "  timeout tunnel 600s\n  http-reuse always\n"}`;
  const write = (side: string, text: string): string => {
    const file = join(folder, `${name}-${ports[0]}-${side}.cfg`);
    writeFileSync(file, head + text);
    return file;
  };
  const out = write(
    "out",
    `frontend f
  bind 127.0.0.1:${ports[0]} ${plain}
  default_backend b
backend b
  server s1 127.0.0.1:${ports[1]} ${alpn} ssl crt ${pki}/a.pem ca-file ${pki}/ca.crt verify required sni str(b.mesh)
`,
  );
  const into = write(
    "in",
    `frontend f
  bind 127.0.0.1:${ports[1]} ssl crt ${pki}/b.pem ca-file ${pki}/ca.crt verify required ${alpn} curves X25519
  default_backend b
backend b
  server s1 127.0.0.1:${routee} ${plain}
`,
  );
  return {
    name,
    port: ports[0],
    tlsPort: ports[1],
    commands: [
      ["haproxy", "-db", "-f", out],
      ["haproxy", "-db", "-f", into],
    ],
  };
}

function nginxConf(folder: string, name: string, body: string): string {
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
    (kind) => `${kind}_temp_path ${folder}/${name}-${kind};`,
  );
  return nginxFile(
    folder,
    name,
    `http { access_log off; keepalive_requests 100000000; keepalive_timeout 600s; ${temporary.join(" ")}
${body}
}`,
  );
}

function nginxFile(folder: string, name: string, blocks: string, load = ""): string {
  const file = join(folder, `${name}.conf`);
  writeFileSync(
    file,
    `${load}${process.getuid?.() === 0 ? "user root; " : ""}worker_processes 1; daemon off; error_log ${folder}/${name}.err; pid ${folder}/${name}.pid;
events { worker_connections 8192; }
${blocks}
`,
  );
  return file;
}

function nginxPair(name: string, ports: readonly [number, number], files: readonly [string, string]): Peer {
  const [port, tlsPort] = ports;
  const [out, into] = files;
  return {
    name,
    port,
    tlsPort,
    commands: [
      ["nginx", "-c", out],
      ["nginx", "-c", into],
    ],
  };
}

/** How the outbound one shows who it is, and asks the same. */
function nginxOutTls(pki: string): string {
  const lines = [`certificate ${pki}/a.crt`, `certificate_key ${pki}/a.key`, `trusted_certificate ${pki}/ca.crt`];
  const all = [...lines, "verify on", "name b.mesh", "protocols TLSv1.3", "session_reuse on"];
  return all.map((line) => `proxy_ssl_${line};`).join(" ");
}

function nginxInTls(pki: string): string {
  return `ssl_certificate ${pki}/b.crt; ssl_certificate_key ${pki}/b.key; ssl_client_certificate ${pki}/ca.crt; ssl_verify_client on; ssl_protocols TLSv1.3; ssl_ecdh_curve X25519;`;
}

function nginxTcp(folder: string, ports: readonly [number, number], routee: number): Peer {
  const pki = join(folder, "pki");
  const stream = (side: string, server: string): string =>
    nginxFile(
      folder,
      `nginx-${ports[0]}-${side}`,
      `stream { server { ${server} } }`,
      `load_module ${nginxStreamPath};\n`,
    );
  const out = stream(
    "out",
    `listen 127.0.0.1:${ports[0]}; proxy_pass 127.0.0.1:${ports[1]}; proxy_ssl on; ${nginxOutTls(pki)}`,
  );
  const into = stream("in", `listen 127.0.0.1:${ports[1]} ssl; ${nginxInTls(pki)} proxy_pass 127.0.0.1:${routee};`);
  return nginxPair("nginx-tcp", ports, [out, into]);
}

function nginx(folder: string, ports: readonly [number, number], routee: number): Peer {
  const pki = join(folder, "pki");
  // With an empty Connection the upstream connection is kept; a WebSocket's upgrade passes.
  const carry = `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;`;
  const map = ` map $http_upgrade $connection_upgrade { default upgrade; "" ""; }\n`;
  const out = nginxConf(
    folder,
    `nginx-${ports[0]}-out`,
    `${map} upstream up { server 127.0.0.1:${ports[1]}; keepalive 256; keepalive_requests 100000000; }
 server { listen 127.0.0.1:${ports[0]}; location / { proxy_pass https://up; ${carry} ${nginxOutTls(pki)} } }`,
  );
  const into = nginxConf(
    folder,
    `nginx-${ports[0]}-in`,
    `${map} upstream app { server 127.0.0.1:${routee}; keepalive 256; keepalive_requests 100000000; }
 server { listen 127.0.0.1:${ports[1]} ssl; ${nginxInTls(pki)} location / { proxy_pass http://app; ${carry} } }`,
  );
  return nginxPair("nginx", ports, [out, into]);
}

/** Envoy with one RBAC rule at its inbound side, an HTTP/2 hop, one worker thread; without a method, for TCP. */
function envoy(folder: string, shape: Shape & { method: string }): Peer {
  const { name, ports, method, routee } = shape;
  const pki = join(folder, "pki");
  const type = (of: string): string => `"@type": type.googleapis.com/envoy.extensions.${of}`;
  const address = (port: number): string => `{ socket_address: { address: 127.0.0.1, port_value: ${port} } }`;
  const tls = (who: string): string =>
    `tls_params: { tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3, ecdh_curves: [X25519] }, tls_certificates: [ { certificate_chain: { filename: "${pki}/${who}.crt" }, private_key: { filename: "${pki}/${who}.key" } } ], validation_context: { trusted_ca: { filename: "${pki}/ca.crt" } }`;
  const h2 = `, typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { ${type("upstreams.http.v3.HttpProtocolOptions")}, explicit_http_config: { http2_protocol_options: { max_concurrent_streams: 1000, allow_connect: true } } } }`;
  const router = `{ name: envoy.filters.http.router, typed_config: { ${type("filters.http.router.v3.Router")} } }`;
  const rbac = `{ name: envoy.filters.http.rbac, typed_config: { ${type("filters.http.rbac.v3.RBAC")}, rules: { action: ALLOW, policies: { p: { permissions: [ { and_rules: { rules: [ { header: { name: ":method", string_match: { exact: ${method} } } }, { url_path: { path: { prefix: "/" } } } ] } } ], principals: [ { authenticated: { principal_name: { exact: "spiffe://mesh/a" } } } ] } } } } }`;
  // What the rule is about, and the filters of either side: HTTP with WebSockets, or the bytes of a connection.
  const tcpRbac = `{ name: envoy.filters.network.rbac, typed_config: { ${type("filters.network.rbac.v3.RBAC")}, stat_prefix: r, rules: { action: ALLOW, policies: { p: { permissions: [ { any: true } ], principals: [ { authenticated: { principal_name: { exact: "spiffe://mesh/a" } } } ] } } } } }`;
  const tcpProxy = `{ name: envoy.filters.network.tcp_proxy, typed_config: { ${type("filters.network.tcp_proxy.v3.TcpProxy")}, stat_prefix: t, cluster: c } }`;
  const manager = (filters: string): string =>
    `{ name: envoy.filters.network.http_connection_manager, typed_config: { ${type("filters.network.http_connection_manager.v3.HttpConnectionManager")}, codec_type: AUTO, stat_prefix: h, generate_request_id: false, http2_protocol_options: { allow_connect: true }, upgrade_configs: [ { upgrade_type: websocket } ], route_config: { virtual_hosts: [ { name: v, domains: ["*"], routes: [ { match: { prefix: "/" }, route: { cluster: c, timeout: 0s } } ] } ] }, http_filters: [ ${filters} ] } }`;
  const tcp = method === "";
  const config = (
    side: "out" | "in",
    of: { listen: number; to: number; filters: string; socket: string; upstream: string },
  ): string => {
    const file = join(folder, `${name}-${ports[0]}-${side}.yaml`);
    writeFileSync(
      file,
      `static_resources:
  listeners:
  - { address: ${address(of.listen)}, filter_chains: [ { ${of.socket} filters: [ ${of.filters} ] } ] }
  clusters:
  - { name: c, type: STATIC, connect_timeout: 5s, circuit_breakers: { thresholds: [ { max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 } ] }, load_assignment: { cluster_name: c, endpoints: [ { lb_endpoints: [ { endpoint: { address: ${address(of.to)} } } ] } ] }${of.upstream} }
`,
    );
    return file;
  };
  const out = config("out", {
    listen: ports[0],
    to: ports[1],
    filters: tcp ? tcpProxy : manager(router),
    socket: "",
    upstream: `${tcp ? "" : h2}, transport_socket: { name: envoy.transport_sockets.tls, typed_config: { ${type("transport_sockets.tls.v3.UpstreamTlsContext")}, sni: b.mesh, common_tls_context: { ${tls("a")} } } }`,
  });
  const into = config("in", {
    listen: ports[1],
    to: routee,
    filters: tcp ? `${tcpRbac}, ${tcpProxy}` : manager(`${rbac}, ${router}`),
    socket: `transport_socket: { name: envoy.transport_sockets.tls, typed_config: { ${type("transport_sockets.tls.v3.DownstreamTlsContext")}, require_client_certificate: true, common_tls_context: { ${tcp ? "" : "alpn_protocols: [h2, http/1.1], "}${tls("b")} } } },`,
    upstream: method === "POST" ? h2 : "",
  });
  const start = (file: string, id: number): readonly [string, ...string[]] => [
    envoyPath,
    "-c",
    file,
    "--concurrency",
    "1",
    "--base-id",
    String(id),
    "--log-level",
    "error",
  ];
  return { name, port: ports[0], tlsPort: ports[1], commands: [start(out, ports[0]), start(into, ports[1])] };
}

export const bigBytes = 65_536;
/** What one streaming call answers: messages of 100 bytes, each with gRPC's five-byte head. */
export const streamMessages = 100;
const messageBytes = 100;

function grpcFrame(bytes: number): Buffer {
  const frame = Buffer.alloc(5 + bytes, "x");
  frame[0] = 0;
  frame.writeUInt32BE(bytes, 1);
  return frame;
}

/** The routee that everybody forwards to over HTTP: nginx with a 34-byte body, one of 64 KiB, and framed ones over h2c. */
export function routeeCommand(folder: string): [string, ...string[]] {
  const www = join(folder, "www");
  mkdirSync(www, { recursive: true });
  writeFileSync(join(www, "big"), Buffer.alloc(bigBytes, "x"));
  writeFileSync(join(www, "unary"), grpcFrame(messageBytes));
  writeFileSync(
    join(www, "stream"),
    Buffer.concat(Array.from({ length: streamMessages }, () => grpcFrame(messageBytes))),
  );
  // nginx answers POST for a file with 405 unless it is told otherwise.
  const grpc = `location / { error_page 405 =200 $uri; root ${www}; default_type application/grpc; add_trailer grpc-status 0; }`;
  const file = nginxConf(
    folder,
    "routee",
    ` server { listen 127.0.0.1:${routeePorts.http} backlog=4096; location / { return 200 "hello world, this is a small body\\n"; } location /big { root ${www}; } }
 server { listen 127.0.0.1:${routeePorts.grpc} http2 backlog=4096; ${grpc} }`,
  );
  return ["nginx", "-c", file];
}
