import { writeFileSync } from "node:fs";
import { join } from "node:path";

/**
 * The peers in the shape that Hauberk is measured against: client -> out (plain, loopback) -> TLS 1.3 with client certificates -> in -> routee on 9000.
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

const haproxyHead = `global
  nbthread 1
  maxconn 4096
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
`;

function haproxy(folder: string, name: string, ports: { out: number; in: number }, alpn: string): Peer {
  const pki = join(folder, "pki");
  const write = (side: string, text: string): string => {
    const file = join(folder, `${name}-${side}.cfg`);
    writeFileSync(file, haproxyHead + text);
    return file;
  };
  const out = write(
    "out",
    `frontend f
  bind 127.0.0.1:${ports.out}
  default_backend b
backend b
  server s1 127.0.0.1:${ports.in} ${alpn} ssl crt ${pki}/a.pem ca-file ${pki}/ca.crt verify required sni str(b.mesh)
`,
  );
  const into = write(
    "in",
    `frontend f
  bind 127.0.0.1:${ports.in} ssl crt ${pki}/b.pem ca-file ${pki}/ca.crt verify required ${alpn} curves X25519
  default_backend b
backend b
  server s1 127.0.0.1:9000
`,
  );
  return {
    name,
    port: ports.out,
    tlsPort: ports.in,
    commands: [
      ["haproxy", "-db", "-f", out],
      ["haproxy", "-db", "-f", into],
    ],
  };
}

function nginx(folder: string): Peer {
  const pki = join(folder, "pki");
  const write = (name: string, body: string): string => {
    const file = join(folder, `${name}.conf`);
    writeFileSync(
      file,
      `worker_processes 1; daemon off; error_log ${folder}/${name}.err; pid ${folder}/${name}.pid;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000; client_body_temp_path ${folder}/t1; proxy_temp_path ${folder}/t2; fastcgi_temp_path ${folder}/t3; uwsgi_temp_path ${folder}/t4; scgi_temp_path ${folder}/t5;
${body}
}
`,
    );
    return file;
  };
  const out = write(
    "nginx-out",
    ` upstream up { server 127.0.0.1:9202; keepalive 256; keepalive_requests 1000000; }
 server { listen 127.0.0.1:9201; location / { proxy_pass https://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_ssl_certificate ${pki}/a.crt; proxy_ssl_certificate_key ${pki}/a.key; proxy_ssl_trusted_certificate ${pki}/ca.crt; proxy_ssl_verify on; proxy_ssl_name b.mesh; proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on; } }`,
  );
  const into = write(
    "nginx-in",
    ` upstream app { server 127.0.0.1:9000; keepalive 256; keepalive_requests 1000000; }
 server { listen 127.0.0.1:9202 ssl; ssl_certificate ${pki}/b.crt; ssl_certificate_key ${pki}/b.key; ssl_client_certificate ${pki}/ca.crt; ssl_verify_client on; ssl_protocols TLSv1.3; ssl_ecdh_curve X25519; location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; } }`,
  );
  return {
    name: "nginx",
    port: 9201,
    tlsPort: 9202,
    commands: [
      ["nginx", "-c", out],
      ["nginx", "-c", into],
    ],
  };
}

/** The routee that everybody forwards to: nginx with a 34-byte body. */
export function routeeCommand(folder: string): [string, ...string[]] {
  const file = join(folder, "routee.conf");
  writeFileSync(
    file,
    `worker_processes 1; daemon off; error_log ${folder}/routee.err; pid ${folder}/routee.pid;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000; client_body_temp_path ${folder}/r1; proxy_temp_path ${folder}/r2; fastcgi_temp_path ${folder}/r3; uwsgi_temp_path ${folder}/r4; scgi_temp_path ${folder}/r5;
 server { listen 127.0.0.1:9000 backlog=4096; location / { return 200 "hello world, this is a small body\\n"; } } }
`,
  );
  return ["nginx", "-c", file];
}

export function peers(folder: string): Peer[] {
  return [
    haproxy(folder, "haproxy-h1", { out: 9301, in: 9302 }, ""),
    haproxy(folder, "haproxy-h2", { out: 9331, in: 9332 }, "alpn h2"),
    nginx(folder),
  ];
}
