package codebank.connect.elasticsearch;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.time.DateTimeException;
import java.time.Duration;
import java.time.Instant;
import java.time.OffsetDateTime;
import org.apache.kafka.connect.errors.DataException;
import org.apache.kafka.connect.header.Header;
import org.apache.kafka.connect.json.JsonConverter;
import org.apache.kafka.connect.sink.SinkRecord;

/** A record as two lines of a bulk request: what shall be done, and the document. */
record Document(SinkRecord source, String lines) {
    private static final ObjectMapper JSON = new ObjectMapper();

    /** Read a record. Throws DataException where it cannot become a document: no repetition would heal that. */
    static Document of(SinkRecord source, SinkSettings settings, JsonConverter converter, Instant now) {
        if (source.key() == null || source.key().toString().isEmpty()) {
            throw new DataException("the record has no key to be the document's id");
        }
        ObjectNode body = body(source, converter);
        addDelay(body, settings, now);
        ObjectNode index = JSON.createObjectNode();
        index.put("_index", settings.indexOf(source.topic()));
        index.put("_id", source.key().toString());
        index.put("version", version(source, settings.getString(SinkSettings.VERSION_HEADER)));
        index.put("version_type", "external");
        ObjectNode action = JSON.createObjectNode();
        action.set("index", index);
        try {
            return new Document(source, JSON.writeValueAsString(action) + "\n" + JSON.writeValueAsString(body) + "\n");
        } catch (JsonProcessingException error) {
            throw new DataException("the record cannot be written as JSON", error);
        }
    }

    private static ObjectNode body(SinkRecord source, JsonConverter converter) {
        byte[] json = converter.fromConnectData(source.topic(), source.valueSchema(), source.value());
        try {
            JsonNode value = JSON.readTree(json);
            if (value instanceof ObjectNode object) {
                return object;
            }
        } catch (IOException error) {
            throw new DataException("the record's value is no JSON", error);
        }
        throw new DataException("the record's value is no JSON object");
    }

    private static long version(SinkRecord source, String name) {
        Header header = source.headers().lastWithName(name);
        if (header == null || header.value() == null) {
            throw new DataException("the record has no header " + name);
        }
        try {
            long version = Long.parseLong(header.value().toString());
            if (version >= 0) {
                return version;
            }
        } catch (NumberFormatException error) {
            throw new DataException("header " + name + " is no whole number: " + header.value(), error);
        }
        throw new DataException("header " + name + " is negative: " + header.value());
    }

    private static void addDelay(ObjectNode body, SinkSettings settings, Instant now) {
        String target = settings.getString(SinkSettings.DELAY_FIELD);
        JsonNode from = body.get(settings.getString(SinkSettings.TIME_FIELD));
        if (target.isEmpty() || from == null || !from.isTextual()) {
            return;
        }
        try {
            Instant began = OffsetDateTime.parse(from.asText()).toInstant();
            body.put(target, Math.max(0, Duration.between(began, now).toMillis()));
        } catch (DateTimeException error) {
            throw new DataException(from + " is no time", error);
        }
    }
}
