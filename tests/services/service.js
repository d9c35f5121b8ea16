// A service on Node's http (see README.md): calls with fetch and its kept connections.
const fs = require("fs");
const http = require("http");
const { setTimeout: sleep } = require("timers/promises");

const { PORT, SERVICE, TRUTH_LOG, ROUTES } = process.env;
const routes = new Map(
  ROUTES.split(";").map((route) => {
    const [segment, status, delayMs, ...urls] = route.trim().split(/ +/);
    return [segment, { status: Number(status), delayMs: Number(delayMs), urls }];
  }),
);
const logFile = fs.openSync(TRUTH_LOG, "a");
const log = (kind, id, status) => fs.writeSync(logFile, `${kind} ${SERVICE} ${id} ${status}\n`);

async function call(url, id) {
  try {
    const response = await fetch(url, { headers: { "x-request-id": id } });
    await response.arrayBuffer();
    return response.status;
  } catch (error) {
    return error.cause?.code === "ECONNREFUSED" ? "connect" : "-";
  }
}

http
  .createServer(async (request, response) => {
    const id = request.headers["x-request-id"] ?? "-";
    const segment = "/" + request.url.split(/[/?]/)[1];
    let { status, delayMs, urls } = routes.get(segment) ?? { status: 404, delayMs: 0, urls: [] };
    if (delayMs) await sleep(delayMs);
    for (const [index, url] of urls.entries()) {
      const callId = `${id}.${index + 1}`;
      const answer = await call(url, callId);
      log("C", callId, answer);
      if (!(answer < 500)) status = 502;
    }
    log("S", id, status);
    response.writeHead(status, { "content-type": "text/plain" });
    response.end(`${SERVICE} ${id}\n`);
  })
  .listen(Number(PORT), "127.0.0.1");
