import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, beforeEach, test } from "node:test";
import { TokenSource } from "../src/index.js";

let api;
let url;
let came = [];

before(async () => {
  api = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    came.push([request.headers.authorization, body]);
    response.writeHead(request.headers.authorization === "Bearer t1" ? 401 : 200).end();
  }).listen(0, "127.0.0.1");
  await once(api, "listening");
  url = `http://127.0.0.1:${api.address().port}/`;
});
beforeEach(() => (came = []));
after(() => {
  api.closeAllConnections();
  api.close();
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
