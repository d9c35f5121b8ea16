# A client (see README.md): threads with a kept Net::HTTP connection each.
require "net/http"
require "uri"

uri, count, in_flight, prefix = URI(ARGV[0]), ARGV[1].to_i, ARGV[2].to_i, ARGV[3]
log = File.open(ENV.fetch("TRUTH_LOG"), "a")
next_number = 0
lock = Mutex.new
workers = Array.new(in_flight) do
  Thread.new do
    Net::HTTP.start(uri.host, uri.port) do |http|
      until File.exist?(ENV.fetch("STOP"))
        number = lock.synchronize { (next_number += 1) - 1 }
        break if number >= count

        id = "#{prefix}-#{number}"
        began = Process.clock_gettime(Process::CLOCK_REALTIME, :nanosecond)
        status = http.get(uri.request_uri, "x-request-id" => id).code
        log.syswrite("C #{ENV.fetch("SERVICE")} #{id} #{status} #{began}\n")
      end
    end
  end
end
workers.each { |worker| worker.report_on_exception = true }
workers.each(&:join)
