# A service (see README.md) of one event loop: fibers of `async`. A request waits for a second; a task beside it, which serves
# nobody, calls `URL` every 100 ms.

require "async"
require "async/io"
require "async/io/stream"
require "uri"

uri = URI(ENV["URL"])
leaf = Async::IO::Endpoint.tcp(uri.host, uri.port)
service = Async::IO::Endpoint.tcp("127.0.0.1", Integer(ENV["PORT"]))

# Reads up to the empty line.
def head(stream)
  nil until stream.gets.to_s.strip.empty?
end

Async do |task|
  task.async do
    (0..).each do |number|
      leaf.connect do |socket|
        stream = Async::IO::Stream.new(socket)
        stream.write("GET #{uri.path} HTTP/1.1\r\nHost: leaf\r\nConnection: close\r\nx-request-id: background-#{number}\r\n\r\n")
        stream.flush
        stream.read
      end
      task.sleep(0.1)
    end
  end
  service.accept do |socket|
    stream = Async::IO::Stream.new(socket)
    head(stream)
    Async::Task.current.sleep(1)
    stream.write("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nwaited")
    stream.close
  end
end
