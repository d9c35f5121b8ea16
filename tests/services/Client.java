import java.io.FileOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.concurrent.atomic.AtomicInteger;

/** A client (see README.md): threads that share one HttpClient. */
public class Client {
    public static void main(String[] args) throws Exception {
        URI uri = URI.create(args[0]);
        int count = Integer.parseInt(args[1]);
        FileOutputStream log = new FileOutputStream(System.getenv("TRUTH_LOG"), true);
        Path stop = Path.of(System.getenv("STOP"));
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        AtomicInteger next = new AtomicInteger();
        Runnable work = () -> {
            int number;
            while (!Files.exists(stop) && (number = next.getAndIncrement()) < count) {
                String id = args[3] + "-" + number;
                try {
                    long began = Duration.between(Instant.EPOCH, Instant.now()).toNanos();
                    HttpRequest request = HttpRequest.newBuilder(uri).header("x-request-id", id).build();
                    int status = client.send(request, HttpResponse.BodyHandlers.ofByteArray()).statusCode();
                    String line = "C " + System.getenv("SERVICE") + " " + id + " " + status + " " + began + "\n";
                    log.write(line.getBytes(StandardCharsets.UTF_8));
                } catch (Exception error) {
                    error.printStackTrace();
                    Runtime.getRuntime().halt(1);
                }
            }
        };
        Thread[] threads = new Thread[Integer.parseInt(args[2])];
        for (int i = 0; i < threads.length; i++) {
            threads[i] = new Thread(work);
            threads[i].start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        System.exit(0);
    }
}
