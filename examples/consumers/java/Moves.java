import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Keeps a table of every customer's segment: starts from segment-state, then follows segment-changes. */
public final class Moves {
    private static final Map<String, String> ENV = System.getenv();
    private static final String CHANGES = ENV.getOrDefault("SEGSTREAM_CHANGES_TOPIC", "segment-changes");
    private static final String STATE = ENV.getOrDefault("SEGSTREAM_STATE_TOPIC", "segment-state");
    // As long as Kafka lets a transaction take: a move that old is visible in both topics or in neither.
    private static final Duration OVERLAP = Duration.ofMinutes(15);
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final List<String> TABLES = List.of(
        """
        CREATE TABLE IF NOT EXISTS customers (
            customer_id TEXT PRIMARY KEY, segment TEXT, merged_into TEXT, sequence INTEGER NOT NULL
        )""",
        """
        CREATE TABLE IF NOT EXISTS beginning (
            kafka_partition INTEGER PRIMARY KEY, kafka_offset INTEGER NOT NULL
        )""");
    // A move that is stored already, or that comes after a later one of its customer, changes nothing.
    private static final String STORE = """
        INSERT INTO customers (customer_id, segment, merged_into, sequence) VALUES (?, ?, ?, ?)
        ON CONFLICT (customer_id) DO UPDATE
        SET segment = excluded.segment, merged_into = excluded.merged_into, sequence = excluded.sequence
        WHERE excluded.sequence > customers.sequence""";

    private final Connection db;
    private final KafkaConsumer<String, byte[]> consumer;

    private Moves(Connection db, KafkaConsumer<String, byte[]> consumer) {
        this.db = db;
        this.consumer = consumer;
    }

    public static void main(String[] args) throws IOException, SQLException {
        Map<String, Object> options = Map.of(
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG,
            ENV.getOrDefault("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"),
            ConsumerConfig.GROUP_ID_CONFIG, ENV.getOrDefault("GROUP", "crm-moves"),
            ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed",
            ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false,
            // Partitions that are added later are read whole.
            ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest",
            // So long does a restart after a crash wait for the partitions.
            ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG, 10_000);
        // A transaction takes the database's lock at its begin, and waits for it up to a minute.
        String url = "jdbc:sqlite:%s?transaction_mode=IMMEDIATE&busy_timeout=60000";
        try (var db = DriverManager.getConnection(url.formatted(ENV.getOrDefault("DATABASE", "crm.db")));
             var consumer = new KafkaConsumer<>(options, new StringDeserializer(), new ByteArrayDeserializer())) {
            try (Statement statement = db.createStatement()) {
                for (String table : TABLES) {
                    statement.execute(table);
                }
            }
            db.setAutoCommit(false);
            var moves = new Moves(db, consumer);
            moves.begin();
            moves.follow();
        }
    }

    /** On the first start, copies the state, and commits the noted offsets. A crash repeats what is missing. */
    private void begin() throws IOException, SQLException {
        var noted = new HashMap<TopicPartition, OffsetAndMetadata>();
        try (Statement statement = db.createStatement()) {
            // A second process waits here for the lock, and finds the copy done.
            if (!statement.executeQuery("SELECT 1 FROM beginning").next()) {
                copyState();
            }
            db.commit(); // all of the copy or nothing
            ResultSet rows = statement.executeQuery("SELECT kafka_partition, kafka_offset FROM beginning");
            while (rows.next()) {
                noted.put(new TopicPartition(CHANGES, rows.getInt(1)), new OffsetAndMetadata(rows.getLong(2)));
            }
            db.commit();
        }
        consumer.assign(noted.keySet());
        consumer.committed(noted.keySet()).forEach((partition, offset) -> {
            if (offset != null) {
                noted.remove(partition);
            }
        });
        consumer.commitSync(noted);
        consumer.unsubscribe();
    }

    /** Copies segment-state, and notes from where segment-changes must be followed. */
    private void copyState() throws IOException, SQLException {
        List<TopicPartition> changes = partitions(CHANGES);
        // The ends are asked first: after them a move may come, and a partition without a later one begins there.
        Map<TopicPartition, Long> ends = consumer.endOffsets(changes);
        long earlier = System.currentTimeMillis() - OVERLAP.toMillis();
        Map<TopicPartition, OffsetAndTimestamp> since =
            consumer.offsetsForTimes(changes.stream().collect(Collectors.toMap(tp -> tp, tp -> earlier)));
        try (PreparedStatement note = db.prepareStatement("INSERT INTO beginning VALUES (?, ?)")) {
            for (TopicPartition partition : changes) {
                OffsetAndTimestamp found = since.get(partition);
                note.setInt(1, partition.partition());
                note.setLong(2, found == null ? ends.get(partition) : found.offset());
                note.executeUpdate();
            }
        }
        consumer.assign(partitions(STATE));
        consumer.seekToBeginning(consumer.assignment());
        Map<TopicPartition, Long> last = consumer.endOffsets(consumer.assignment());
        // By position, not by record: the last offset is that of a transaction's marker.
        while (last.entrySet().stream().anyMatch(end -> consumer.position(end.getKey()) < end.getValue())) {
            for (ConsumerRecord<String, byte[]> row : consumer.poll(Duration.ofSeconds(1))) {
                if (row.value() != null) {
                    store(row.value());
                    continue;
                }
                // The customer was erased, or merged into another.
                try (PreparedStatement delete = db.prepareStatement("DELETE FROM customers WHERE customer_id = ?")) {
                    delete.setString(1, row.key());
                    delete.executeUpdate();
                }
            }
        }
    }

    /** Follows the moves until the process is stopped, by whatever: the next start goes on where this one was. */
    private void follow() throws IOException, SQLException {
        consumer.subscribe(List.of(CHANGES));
        while (true) {
            var batch = consumer.poll(Duration.ofSeconds(1));
            for (ConsumerRecord<String, byte[]> move : batch) {
                store(move.value());
            }
            db.commit();
            // Only now: before, a crash would lose the batch. After a crash between the two it comes again.
            consumer.commitSync();
        }
    }

    /** Stores a move. An erased or merged id keeps its number, so that no older move brings it back. */
    private void store(byte[] value) throws IOException, SQLException {
        JsonNode move = JSON.readTree(value);
        try (PreparedStatement store = db.prepareStatement(STORE)) {
            store.setString(1, move.get("customer_id").asText());
            store.setString(2, move.get("to").textValue());
            store.setString(3, move.path("merged_into").textValue());
            store.setLong(4, move.get("sequence").asLong());
            store.executeUpdate();
        }
    }

    private List<TopicPartition> partitions(String topic) {
        return consumer.partitionsFor(topic).stream().map(p -> new TopicPartition(topic, p.partition())).toList();
    }
}
