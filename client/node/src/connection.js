/** How the sidecar is reached: address, mutual TLS from files, environment. */

import { X509Certificate, createPrivateKey } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { isIP } from "node:net";
import { checkServerIdentity } from "node:tls";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const PROTO = fileURLToPath(new URL("../proto", import.meta.url));
const LOADED = loadSync("tokenvault/v1/token_vault.proto", {
  includeDirs: [PROTO],
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
});
const Stub = grpc.loadPackageDefinition(LOADED).tokenvault.v1.TokenVault;
export const SERVICE = Stub.service;

export const OPTIONS = {
  "grpc.service_config": readFileSync(`${PROTO}/tokenvault/v1/token_vault_grpc_service_config.json`, "utf8"),
  "grpc.service_config_disable_resolution": 1,
  // The sidecar is near: find out fast that it is back after a restart.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2_000,
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.keepalive_permit_without_calls": 0,
  // https_proxy is meant for the way out, not for the way to the sidecar.
  "grpc.enable_http_proxy": 0,
};
const LOOK_EVERY = 1_000;
const VARIABLES = {
  address: "TOKENVAULT_ADDRESS",
  ca: "TOKENVAULT_CA",
  certificate: "TOKENVAULT_CERT",
  privateKey: "TOKENVAULT_KEY",
};

export class Connection {
  #files;
  #options;
  #verify = {};
  #state;
  #lookAt;
  #stub;

  constructor({ address, ca, certificate, privateKey, serverName }) {
    if (!address?.includes(":")) throw new TypeError('address: write "host:port" or "unix:/path"');
    this.address = address;
    this.#files = { ca, certificate, privateKey };
    const name = serverName ?? (address.startsWith("unix:") ? "localhost" : hostOf(address));
    if (isIP(name)) {
      // RFC 6066 section 3 forbids to ask for an IP address by name; the certificate must carry it all the same
      this.#options = { ...OPTIONS, "grpc.ssl_target_name_override": "localhost" };
      this.#verify = { checkServerIdentity: (asked, certificate) => checkServerIdentity(name, certificate) };
    } else {
      this.#options = { ...OPTIONS, "grpc.ssl_target_name_override": name };
    }
    this.#state = this.#look();
    this.#lookAt = Date.now() + LOOK_EVERY;
    this.#stub = this.#open(this.#read());
  }

  /** The stub for the next call: over a new connection where the files have changed and are in order. */
  stub() {
    if (Date.now() >= this.#lookAt) {
      this.#lookAt = Date.now() + LOOK_EVERY;
      try {
        const state = this.#look();
        if (state !== this.#state) {
          const renewed = this.#open(this.#read());
          this.#stub.close(); // calls under way end on it
          [this.#stub, this.#state] = [renewed, state];
        }
      } catch {
        // half-written or broken: looked at again
      }
    }
    return this.#stub;
  }

  close() {
    this.#stub.close();
  }

  #look() {
    return Object.values(this.#files)
      .map((path) => statSync(path))
      .map((stat) => `${stat.mtimeMs} ${stat.size} ${stat.ino}`)
      .join();
  }

  #read() {
    const ca = readPem(this.#files.ca, "CERTIFICATE");
    const certificate = readPem(this.#files.certificate, "CERTIFICATE");
    const key = readPem(this.#files.privateKey, "PRIVATE KEY");
    let pair = false;
    try {
      new X509Certificate(ca);
      pair = new X509Certificate(certificate).checkPrivateKey(createPrivateKey(key));
    } catch {
      // told below, without what OpenSSL says
    }
    if (!pair) throw new TypeError(`${this.#files.certificate}, ${this.#files.privateKey}: not a pair, or broken`);
    return grpc.credentials.createSsl(ca, key, certificate, this.#verify);
  }

  #open(credentials) {
    return new Stub(this.address, credentials, this.#options);
  }
}

export function fromEnvironment(environment) {
  const missing = Object.values(VARIABLES).filter((name) => !environment[name]);
  if (missing.length) throw new TypeError(`not set in the environment: ${missing.join(", ")}`);
  return Object.fromEntries(Object.entries(VARIABLES).map(([option, name]) => [option, environment[name]]));
}

function hostOf(address) {
  return address.replace(/^(dns|ipv4|ipv6):(\/\/\/)?/, "").replace(/:\d+$/, "").replace(/^\[|\]$/g, "");
}

function readPem(path, label) {
  const content = readFileSync(path);
  if (!content.includes(`${label}-----`)) throw new TypeError(`${path}: holds no PEM ${label}`);
  return content;
}
