# A Rack service (see README.md): Net::HTTP, a connection a call.
require "net/http"
require "uri"

SERVICE = ENV.fetch("SERVICE")
ROUTES = ENV.fetch("ROUTES").split(";").to_h do |route|
  segment, status, delay_ms, *urls = route.split
  [segment, [status.to_i, delay_ms.to_i / 1000.0, urls.map { |url| URI(url) }]]
end
LOG = File.open(ENV.fetch("TRUTH_LOG"), "a")

def log(kind, id, status)
  LOG.syswrite("#{kind} #{SERVICE} #{id} #{status}\n")
end

def call(uri, id)
  Net::HTTP.start(uri.host, uri.port) { |http| http.get(uri.request_uri, "x-request-id" => id) }.code.to_i
rescue Errno::ECONNREFUSED
  "connect"
rescue StandardError
  "-"
end

run lambda { |env|
  id = env.fetch("HTTP_X_REQUEST_ID", "-")
  status, delay, uris = ROUTES.fetch("/#{env["PATH_INFO"].split("/")[1]}", [404, 0, []])
  sleep(delay) if delay.positive?
  uris.each.with_index(1) do |uri, k|
    answer = call(uri, "#{id}.#{k}")
    log("C", "#{id}.#{k}", answer)
    status = 502 unless answer.is_a?(Integer) && answer < 500
  end
  log("S", id, status)
  [status, { "Content-Type" => "text/plain" }, ["#{SERVICE} #{id}\n"]]
}
