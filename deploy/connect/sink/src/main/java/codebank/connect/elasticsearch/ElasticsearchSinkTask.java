package codebank.connect.elasticsearch;

import codebank.connect.elasticsearch.BulkClient.Answer;
import codebank.connect.elasticsearch.BulkClient.TooLarge;
import codebank.connect.elasticsearch.BulkClient.Unavailable;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.connect.errors.ConnectException;
import org.apache.kafka.connect.errors.DataException;
import org.apache.kafka.connect.errors.RetriableException;
import org.apache.kafka.connect.json.JsonConverter;
import org.apache.kafka.connect.sink.ErrantRecordReporter;
import org.apache.kafka.connect.sink.SinkRecord;
import org.apache.kafka.connect.sink.SinkTask;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Writes what it is given before it returns, so that Connect commits only positions of what Elasticsearch holds.
 *
 * <p>What can heal (no connection, too busy, an error of the server, an index that is closed or blocked) is told to
 * Connect, which delivers the same records again after a pause; the documents' versions make that harmless. What a
 * document itself causes goes to the dead letters, once the rest of its batch is written.
 */
public final class ElasticsearchSinkTask extends SinkTask {
    private static final Logger LOG = LoggerFactory.getLogger(ElasticsearchSinkTask.class);
    private static final long BACKOFF_MAX_MILLISECONDS = 30_000;

    private SinkSettings settings;
    private BulkClient client;
    private JsonConverter converter;
    private SinkMetrics metrics;
    private int failures;

    @Override
    public String version() {
        return ElasticsearchSinkConnector.VERSION;
    }

    @Override
    public void start(Map<String, String> properties) {
        settings = new SinkSettings(properties);
        client = new BulkClient(settings);
        converter = new JsonConverter();
        converter.configure(Map.of("schemas.enable", "false", "converter.type", "value"));
        metrics = SinkMetrics.of(context);
        failures = 0;
    }

    @Override
    public void put(Collection<SinkRecord> records) {
        if (records.isEmpty()) {
            return;
        }
        Map<SinkRecord, Exception> refused = new LinkedHashMap<>();
        List<Document> documents = documents(records, refused);
        int size = settings.getInt(SinkSettings.BATCH);
        try {
            for (int start = 0; start < documents.size(); start += size) {
                write(documents.subList(start, Math.min(documents.size(), start + size)), refused);
            }
        } catch (Unavailable error) {
            throw again(error);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            throw new ConnectException("interrupted", error);
        }
        failures = 0;
        refused.forEach(this::putAside);
    }

    private List<Document> documents(Collection<SinkRecord> records, Map<SinkRecord, Exception> refused) {
        List<Document> documents = new ArrayList<>(records.size());
        Instant now = Instant.now();
        boolean ignoresNull = settings.getString(SinkSettings.NULL_VALUES).equals("ignore");
        for (SinkRecord source : records) {
            if (source.value() == null && ignoresNull) {
                continue;
            }
            try {
                documents.add(Document.of(source, settings, converter, now));
            } catch (DataException error) {
                refused.put(source, error);
            }
        }
        return documents;
    }

    private void write(List<Document> documents, Map<SinkRecord, Exception> refused)
            throws Unavailable, InterruptedException {
        List<Answer> answers;
        try {
            answers = client.send(documents);
        } catch (TooLarge error) {
            if (documents.size() == 1) {
                refused.put(documents.get(0).source(), error);
                return;
            }
            int half = documents.size() / 2;
            write(documents.subList(0, half), refused);
            write(documents.subList(half, documents.size()), refused);
            return;
        }
        String busy = null;
        for (int place = 0; place < answers.size(); place++) {
            Answer answer = answers.get(place);
            switch (answer.outcome()) {
                case WRITTEN -> metrics.written();
                case OLDER -> metrics.older();
                case HEALS -> busy = answer.reason();
                case REFUSED -> refused.put(
                        documents.get(place).source(), new DataException("Elasticsearch refuses it: " + answer.reason()));
            }
        }
        if (busy != null) {
            throw new Unavailable("Elasticsearch does not take it now: " + busy, null);
        }
    }

    private RetriableException again(Unavailable error) {
        failures++;
        metrics.repeated();
        if (failures > settings.getInt(SinkSettings.RETRIES)) {
            throw new ConnectException("given up after " + failures + " attempts: " + error.getMessage(), error);
        }
        long pause = settings.getLong(SinkSettings.BACKOFF) << Math.min(failures - 1, 20);
        context.timeout(Math.min(pause, BACKOFF_MAX_MILLISECONDS));
        LOG.warn("attempt {} failed, the same records again: {}", failures, error.getMessage());
        return new RetriableException(error.getMessage(), error);
    }

    private void putAside(SinkRecord source, Exception reason) {
        ErrantRecordReporter reporter = context.errantRecordReporter();
        if (reporter == null) {
            throw new ConnectException("a record cannot be written, and no dead letters are configured", reason);
        }
        metrics.refused();
        LOG.error("put aside: {}-{} at {}: {}", source.topic(), source.kafkaPartition(), source.kafkaOffset(),
                reason.getMessage());
        reporter.report(source, reason);
    }

    @Override
    public void stop() {
        // Nothing is held between two calls.
    }
}
