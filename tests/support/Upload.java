// Its defaults: the first request on a connection offers Upgrade: h2c, and head and content go out in separate writes.
import java.net.URI;
import java.net.http.*;
import java.nio.file.*;

public class Upload {
    public static void main(String[] given) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        Path file = Path.of(given[2]);
        HttpRequest.BodyPublisher[] bodies = {
            HttpRequest.BodyPublishers.ofFile(file),
            HttpRequest.BodyPublishers.ofByteArray(Files.readAllBytes(file)),
            HttpRequest.BodyPublishers.ofInputStream(() -> {
                try { return Files.newInputStream(file); } catch (Exception error) { throw new RuntimeException(error); }
            }),
        };
        for (HttpRequest.BodyPublisher body : bodies) {
            HttpRequest asked = HttpRequest.newBuilder(URI.create(given[0])).header("Authorization", "Bearer " + given[1])
                .header("Content-Type", "application/octet-stream").POST(body).build();
            System.out.println(client.send(asked, HttpResponse.BodyHandlers.ofString()).statusCode());
        }
    }
}
