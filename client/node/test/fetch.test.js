import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, beforeEach, test } from "node:test";
import { ConsentRequired, TokenSource } from "../src/index.js";

let api, elsewhere, url;
let came = [];

const address = (server) => `http://127.0.0.1:${server.address().port}/`;

before(async () => {
  elsewhere = createServer((request, response) => {
    came.push([request.headers.authorization]);
    response.writeHead(401).end();
  }).listen(0, "127.0.0.1");
  api = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    came.push([request.headers.authorization, body]);
    if (request.url === "/away") response.writeHead(302, { location: address(elsewhere) }).end();
    else response.writeHead(request.headers.authorization === "Bearer t1" ? 401 : 200).end();
  }).listen(0, "127.0.0.1");
  await Promise.all([once(api, "listening"), once(elsewhere, "listening")]);
  url = address(api);
});
beforeEach(() => (came = []));
after(() => {
  for (const server of [api, elsewhere]) {
    server.closeAllConnections();
    server.close();
  }
});

function source(reports) {
  return new TokenSource(async (rejected) => {
    const n = reports.push(rejected);
    return { accessToken: `t${n}`, tokenVersion: `v${n}`, expireTime: null, degraded: false };
  });
}

test("on 401 the version is reported and the request sent once more", async () => {
  const reports = [];
  const answer = await source(reports).fetch(url, { method: "POST", body: "order" });
  assert.equal(answer.status, 200);
  assert.deepEqual(came, [["Bearer t1", "order"], ["Bearer t2", "order"]]);
  assert.deepEqual(reports, [null, "v1"]);
});

test("a body that is a stream is sent once, and the version reported", async () => {
  const reports = [];
  const body = new Blob(["order"]).stream();
  const answer = await source(reports).fetch(url, { method: "POST", body, duplex: "half" });
  assert.equal(answer.status, 401);
  assert.deepEqual(came, [["Bearer t1", "order"]]);
  assert.deepEqual(reports, [null, "v1"]);
});

test("a redirect to another origin goes without the token, and a 401 from there reports nothing", async () => {
  const reports = [];
  assert.equal((await source(reports).fetch(`${url}away`)).status, 401);
  assert.deepEqual(came, [["Bearer t1", ""], [undefined]]);
  assert.deepEqual(reports, [null]);
});

test("where there is no other token the 401 is given, and not sent again for", async () => {
  const same = new TokenSource(async () => ({ accessToken: "t1", tokenVersion: "v1", expireTime: null, degraded: true }));
  assert.equal((await same.fetch(url)).status, 401);
  assert.deepEqual(came, [["Bearer t1", ""]]);
});

test("a consent that was withdrawn is told instead of the 401", async () => {
  const withdrawn = new TokenSource(async (rejected) => {
    if (rejected) throw new ConsentRequired("withdrawn");
    return { accessToken: "t1", tokenVersion: "v1", expireTime: null, degraded: false };
  });
  await assert.rejects(withdrawn.fetch(url), ConsentRequired);
});
