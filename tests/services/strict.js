// A strict server, or a strict client, on Node's http and its parser (llhttp), for tests/tests/torture.rs.
// Server: prints the port, then a line for each request that it was given: method, target, bytes of its body.
// Client: takes lines of a method and a URL, and answers each: status and bytes of the body, or "error".
const http = require("http");

function serve() {
  const server = http.createServer((request, response) => {
    let bytes = 0;
    request.on("data", (data) => (bytes += data.length));
    request.on("end", () => {
      console.log(`${request.method} ${request.url} ${bytes}`);
      response.end("ok");
    });
  });
  // The test ends its half first, and then waits for the answers.
  server.httpAllowHalfOpen = true;
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
}

function call() {
  const agent = new http.Agent({ keepAlive: false });
  const lines = require("readline").createInterface({ input: process.stdin });
  lines.on("line", (line) => {
    const [method, url] = line.split(" ");
    let answered = false;
    const answer = (text) => {
      if (!answered) console.log(text);
      answered = true;
    };
    const request = http.request(url, { method, agent }, (response) => {
      let bytes = 0;
      response.on("data", (data) => (bytes += data.length));
      response.on("end", () => answer(`${response.statusCode} ${bytes}`));
      response.on("error", () => answer("error"));
      response.on("aborted", () => answer("error"));
    });
    request.on("upgrade", (response, socket) => {
      answer(`${response.statusCode} 0`);
      socket.destroy();
    });
    request.on("error", () => answer("error"));
    request.end();
  });
}

process.argv[2] === "server" ? serve() : call();
