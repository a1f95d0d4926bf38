package codebank.connect.elasticsearch;

import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.connector.Task;
import org.apache.kafka.connect.sink.SinkConnector;

/**
 * Writes JSON records into Elasticsearch: the record's key is the document's id, a header its version. A state that is
 * delivered again, or late, never overwrites a newer one.
 */
public final class ElasticsearchSinkConnector extends SinkConnector {
    static final String VERSION = "1.0.0";

    private Map<String, String> properties = Map.of();

    @Override
    public void start(Map<String, String> given) {
        new SinkSettings(given);
        properties = given;
    }

    @Override
    public Class<? extends Task> taskClass() {
        return ElasticsearchSinkTask.class;
    }

    @Override
    public List<Map<String, String>> taskConfigs(int maxTasks) {
        return Collections.nCopies(maxTasks, properties);
    }

    @Override
    public void stop() {
        // Nothing is held.
    }

    @Override
    public ConfigDef config() {
        return SinkSettings.DEFINITION;
    }

    @Override
    public String version() {
        return VERSION;
    }
}
