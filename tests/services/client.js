// A client (see README.md): fetch, or with HTTP_CLIENT=http Node's older http with an agent that keeps connections; so many at once.
const fs = require("fs");
const http = require("http");

const [url, count, inFlight, prefix] = process.argv.slice(2);
const { HTTP_CLIENT, SERVICE, STOP, TRUTH_LOG } = process.env;
const logFile = fs.openSync(TRUTH_LOG, "a");
const agent = new http.Agent({ keepAlive: true });
let next = 0;

async function withFetch(headers) {
  const response = await fetch(url, { headers });
  await response.arrayBuffer();
  return response.status;
}

function withHttp(headers) {
  return new Promise((resolve, reject) => {
    const request = http.get(url, { agent, headers }, (response) => {
      response.on("end", () => resolve(response.statusCode)).on("error", reject).resume();
    });
    request.on("error", reject);
  });
}

const get = HTTP_CLIENT === "http" ? withHttp : withFetch;

async function work() {
  while (next < Number(count) && !fs.existsSync(STOP)) {
    const id = `${prefix}-${next++}`;
    const began = BigInt(Date.now()) * 1000000n;
    const status = await get({ "x-request-id": id });
    fs.writeSync(logFile, `C ${SERVICE} ${id} ${status} ${began}\n`);
  }
}

Promise.all(Array.from({ length: Number(inFlight) }, work)).then(() => agent.destroy());
