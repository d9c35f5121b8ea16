// A client (see README.md): fetch, so many at once.
const fs = require("fs");

const [url, count, inFlight, prefix] = process.argv.slice(2);
const logFile = fs.openSync(process.env.TRUTH_LOG, "a");
let next = 0;

async function work() {
  while (next < Number(count)) {
    const id = `${prefix}-${next++}`;
    const response = await fetch(url, { headers: { "x-request-id": id } });
    await response.arrayBuffer();
    fs.writeSync(logFile, `C ${process.env.SERVICE} ${id} ${response.status}\n`);
  }
}

Promise.all(Array.from({ length: Number(inFlight) }, work));
