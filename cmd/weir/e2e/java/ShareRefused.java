import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.serialization.*;

/** A consumer of a share group (KIP-932) says what it was told. Argument: bootstrap. */
public class ShareRefused {
    public static void main(String[] args) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("group.id", "share");
        try (KafkaShareConsumer<String, String> c = new KafkaShareConsumer<>(p, new StringDeserializer(), new StringDeserializer())) {
            c.subscribe(List.of("telemetry"));
            for (long end = System.nanoTime() + 20_000_000_000L; System.nanoTime() < end; ) c.poll(Duration.ofMillis(200));
            System.out.println("was told nothing");
        } catch (Exception e) {
            System.out.println("refused: " + e.getClass().getSimpleName() + ": " + e.getMessage());
        }
    }
}
