package codebank.connect.elasticsearch;

import java.net.URI;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.apache.kafka.common.config.AbstractConfig;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.common.config.ConfigDef.Importance;
import org.apache.kafka.common.config.ConfigDef.Range;
import org.apache.kafka.common.config.ConfigDef.Type;
import org.apache.kafka.common.config.ConfigDef.ValidString;
import org.apache.kafka.common.config.ConfigException;

/** The connector's configuration. Keys that Confluent's sink has too have the same names and meanings. */
final class SinkSettings extends AbstractConfig {
    static final String URLS = "connection.url";
    static final String USERNAME = "connection.username";
    static final String PASSWORD = "connection.password";
    static final String TRUSTSTORE = "elastic.https.ssl.truststore.location";
    static final String TRUSTSTORE_PASSWORD = "elastic.https.ssl.truststore.password";
    static final String TRUSTSTORE_TYPE = "elastic.https.ssl.truststore.type";
    static final String CONNECT_TIMEOUT = "connection.timeout.ms";
    static final String READ_TIMEOUT = "read.timeout.ms";
    static final String BATCH = "batch.size";
    static final String RETRIES = "max.retries";
    static final String BACKOFF = "retry.backoff.ms";
    static final String KEY_IGNORE = "key.ignore";
    static final String SCHEMA_IGNORE = "schema.ignore";
    static final String WRITE_METHOD = "write.method";
    static final String NULL_VALUES = "behavior.on.null.values";
    static final String VERSION_HEADER = "external.version.header";
    static final String INDICES = "topic.to.external.resource.mapping";
    static final String TIME_FIELD = "index.delay.from.field";
    static final String DELAY_FIELD = "index.delay.to.field";

    static final ConfigDef DEFINITION = new ConfigDef()
            .define(URLS, Type.LIST, Importance.HIGH, "Addresses of Elasticsearch; the next one is tried after an error.")
            .define(USERNAME, Type.STRING, "", Importance.MEDIUM, "Name for basic authentication; empty: none.")
            .define(PASSWORD, Type.PASSWORD, "", Importance.MEDIUM, "Password for basic authentication.")
            .define(TRUSTSTORE, Type.STRING, "", Importance.MEDIUM, "Who vouches for Elasticsearch; empty: whom Java trusts.")
            .define(TRUSTSTORE_PASSWORD, Type.PASSWORD, "", Importance.MEDIUM, "Password of the trust store.")
            .define(TRUSTSTORE_TYPE, Type.STRING, "PEM", ValidString.in("PEM", "PKCS12", "JKS"), Importance.LOW,
                    "Kind of the trust store.")
            .define(CONNECT_TIMEOUT, Type.INT, 1000, Range.atLeast(1), Importance.LOW, "Time to connect.")
            .define(READ_TIMEOUT, Type.INT, 10_000, Range.atLeast(1), Importance.LOW, "Time of one request.")
            .define(BATCH, Type.INT, 2000, Range.atLeast(1), Importance.LOW, "Documents in one request at most.")
            .define(RETRIES, Type.INT, 5, Range.atLeast(0), Importance.MEDIUM,
                    "Attempts in a row after which the task fails: what can heal is tried again so often.")
            .define(BACKOFF, Type.LONG, 100L, Range.between(1, 60_000), Importance.LOW,
                    "Pause before the first repetition; it doubles each time, up to 30 s.")
            .define(KEY_IGNORE, Type.BOOLEAN, false, only(false), Importance.LOW,
                    "Must be false: the key is the document's id.")
            .define(SCHEMA_IGNORE, Type.BOOLEAN, true, only(true), Importance.LOW,
                    "Must be true: the index has its own mapping.")
            .define(WRITE_METHOD, Type.STRING, "INSERT", ValidString.in("INSERT"), Importance.LOW,
                    "INSERT: a newer state replaces the document whole.")
            .define(NULL_VALUES, Type.STRING, "ignore", ValidString.in("ignore", "fail"), Importance.LOW,
                    "What to do with a record without a value. Nothing is ever deleted.")
            .define(VERSION_HEADER, Type.STRING, Importance.HIGH,
                    "Header that holds the document's version, a whole number that rises with every change.")
            .define(INDICES, Type.LIST, "", Importance.MEDIUM, "Pairs topic:index; else the index has the topic's name.")
            .define(TIME_FIELD, Type.STRING, "", Importance.LOW, "Field with the time of the event (ISO 8601).")
            .define(DELAY_FIELD, Type.STRING, "", Importance.LOW,
                    "Field that is given the milliseconds from then to the request; empty: none.");

    private final Map<String, String> indices = new HashMap<>();

    SinkSettings(Map<String, String> properties) {
        super(DEFINITION, properties, false);
        if (urls().isEmpty()) {
            throw new ConfigException(URLS, "", "names no server");
        }
        for (String pair : getList(INDICES)) {
            String[] sides = pair.split(":", 2);
            if (sides.length != 2) {
                throw new ConfigException(INDICES, pair, "is no pair of topic:index");
            }
            indices.put(sides[0].trim(), sides[1].trim());
        }
    }

    private static ConfigDef.Validator only(boolean wanted) {
        return (name, value) -> {
            if (!Boolean.valueOf(wanted).equals(value)) {
                throw new ConfigException(name, value, "must be " + wanted);
            }
        };
    }

    List<URI> urls() {
        return getList(URLS).stream().map(text -> URI.create(text.trim().replaceAll("/+$", ""))).toList();
    }

    String secret(String key) {
        return getPassword(key).value();
    }

    String indexOf(String topic) {
        return indices.getOrDefault(topic, topic.toLowerCase(Locale.ROOT));
    }
}
