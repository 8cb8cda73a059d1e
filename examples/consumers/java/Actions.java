import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Hands campaign actions to the sender of messages: each once, whatever crashes. */
public final class Actions {
    private static final Map<String, String> ENV = System.getenv();
    private static final ObjectMapper JSON = new ObjectMapper();
    // The sender takes its work from this table, and marks it `sent`. The id is the action's: the same after any crash.
    private static final String TABLE = """
        CREATE TABLE IF NOT EXISTS messages (
            id TEXT PRIMARY KEY, customer_id TEXT NOT NULL, campaign TEXT NOT NULL, channel TEXT NOT NULL,
            action TEXT NOT NULL, sent INTEGER NOT NULL DEFAULT 0
        )""";
    private static final String STORE = """
        INSERT INTO messages (id, customer_id, campaign, channel, action) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (id) DO NOTHING""";

    private Actions() {
    }

    /** Follows the actions until the process is stopped, by whatever: the next start goes on where this one was. */
    public static void main(String[] args) throws IOException, SQLException {
        Map<String, Object> options = Map.of(
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG,
            ENV.getOrDefault("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"),
            ConsumerConfig.GROUP_ID_CONFIG, ENV.getOrDefault("GROUP", "crm-actions"),
            ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed",
            ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false,
            ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest",
            // So long does a restart after a crash wait for the partitions.
            ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG, 10_000);
        String url = "jdbc:sqlite:%s?busy_timeout=60000".formatted(ENV.getOrDefault("DATABASE", "crm.db"));
        try (var db = DriverManager.getConnection(url);
             var consumer = new KafkaConsumer<>(options, new StringDeserializer(), new ByteArrayDeserializer())) {
            try (Statement statement = db.createStatement()) {
                statement.execute(TABLE);
            }
            db.setAutoCommit(false);
            consumer.subscribe(List.of(ENV.getOrDefault("SEGSTREAM_ACTIONS_TOPIC", "campaign-actions")));
            while (true) {
                for (ConsumerRecord<String, byte[]> event : consumer.poll(Duration.ofSeconds(1))) {
                    store(db, JSON.readTree(event.value()));
                }
                db.commit();
                // Only now: before, a crash would lose the batch. After a crash between the two it comes again.
                consumer.commitSync();
            }
        }
    }

    /** Stores an action as a message to send. All else that the topic has never leads to a message. */
    private static void store(Connection db, JsonNode event) throws SQLException {
        switch (event.get("type").asText()) {
            case "campaign.action" -> {
                try (PreparedStatement store = db.prepareStatement(STORE)) {
                    int column = 0;
                    for (String field : List.of("id", "customer_id", "campaign", "channel", "action")) {
                        store.setString(++column, event.get(field).asText());
                    }
                    store.executeUpdate();
                }
            }
            default -> {
                // campaign.withheld, .scheduled, .converted and .budget say why there is no message, and what came
                // of one. Later versions may add types: skip those that you don't know.
            }
        }
    }
}
