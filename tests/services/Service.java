import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.ConnectException;
import java.net.HttpURLConnection;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;

/** A service on the JDK's own server (see README.md): a thread a request, calls with HttpURLConnection and its kept connections. */
public class Service {
    record Route(int status, long delayMs, List<String> urls) {}

    static final String NAME = System.getenv("SERVICE");
    static final Map<String, Route> ROUTES = new HashMap<>();
    static FileOutputStream log;

    public static void main(String[] args) throws Exception {
        int port = load();
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 128);
        server.createContext("/", Service::serve);
        server.setExecutor(Executors.newFixedThreadPool(32));
        server.start();
    }

    /** Reads the environment; gives the port. */
    static int load() throws IOException {
        for (String route : System.getenv("ROUTES").split(";")) {
            List<String> words = Arrays.asList(route.trim().split(" +"));
            ROUTES.put(words.get(0),
                    new Route(Integer.parseInt(words.get(1)), Long.parseLong(words.get(2)), words.subList(3, words.size())));
        }
        log = new FileOutputStream(System.getenv("TRUTH_LOG"), true);
        return Integer.parseInt(System.getenv("PORT"));
    }

    static void serve(HttpExchange exchange) throws IOException {
        String id = exchange.getRequestHeaders().getFirst("x-request-id");
        int status = answer(id, exchange.getRequestURI().getPath());
        byte[] body = body(id);
        exchange.sendResponseHeaders(status, body.length);
        exchange.getResponseBody().write(body);
        exchange.close();
    }

    /** Does what a route says; gives the status of the response. */
    static int answer(String id, String path) throws IOException {
        String[] segments = path.split("/");
        Route route = ROUTES.getOrDefault("/" + (segments.length > 1 ? segments[1] : ""), new Route(404, 0, List.of()));
        int status = route.status();
        try {
            Thread.sleep(route.delayMs());
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
        for (int k = 1; k <= route.urls().size(); k++) {
            String callId = id + "." + k;
            String answer = call(route.urls().get(k - 1), callId);
            log("C", callId, answer);
            if (answer.length() != 3 || answer.charAt(0) == '5') {
                status = 502;
            }
        }
        log("S", id, Integer.toString(status));
        return status;
    }

    static byte[] body(String id) {
        return (NAME + " " + id + "\n").getBytes(StandardCharsets.UTF_8);
    }

    static String call(String url, String id) {
        try {
            HttpURLConnection connection = (HttpURLConnection) URI.create(url).toURL().openConnection();
            connection.setRequestProperty("x-request-id", id);
            int status = connection.getResponseCode();
            // Read to the end, or the connection is not used again.
            try (InputStream body = status < 400 ? connection.getInputStream() : connection.getErrorStream()) {
                if (body != null) {
                    body.readAllBytes();
                }
            }
            return Integer.toString(status);
        } catch (ConnectException e) {
            return "connect";
        } catch (IOException e) {
            return "-";
        }
    }

    static synchronized void log(String kind, String id, String status) throws IOException {
        log.write((kind + " " + NAME + " " + id + " " + status + "\n").getBytes(StandardCharsets.UTF_8));
    }
}
