package codebank.connect.elasticsearch;

import java.util.LinkedHashMap;
import java.util.UUID;
import org.apache.kafka.common.MetricName;
import org.apache.kafka.common.metrics.PluginMetrics;
import org.apache.kafka.common.metrics.Sensor;
import org.apache.kafka.common.metrics.stats.CumulativeSum;
import org.apache.kafka.connect.sink.SinkTaskContext;

/** Counts, given out with Connect's own metrics where the worker is new enough for that (4.1). */
final class SinkMetrics {
    private final Sensor written;
    private final Sensor older;
    private final Sensor refused;
    private final Sensor repeated;

    private SinkMetrics(PluginMetrics metrics) {
        written = counter(metrics, "documents-written-total", "Documents that were written");
        older = counter(metrics, "documents-older-total", "Documents whose newer state was there already");
        refused = counter(metrics, "records-refused-total", "Records that went to the dead letters");
        repeated = counter(metrics, "attempts-failed-total", "Attempts that are made again");
    }

    static SinkMetrics of(SinkTaskContext context) {
        try {
            return new SinkMetrics(context.pluginMetrics());
        } catch (NoSuchMethodError | NoClassDefFoundError olderWorker) {
            return new SinkMetrics(null);
        }
    }

    private static Sensor counter(PluginMetrics metrics, String name, String description) {
        if (metrics == null) {
            return null;
        }
        // A worker's tasks share its sensors by name; only the metric itself carries the task.
        Sensor sensor = metrics.addSensor(name + "-" + UUID.randomUUID());
        MetricName full = metrics.metricName(name, description, new LinkedHashMap<>());
        sensor.add(full, new CumulativeSum());
        return sensor;
    }

    private static void count(Sensor sensor) {
        if (sensor != null) {
            sensor.record();
        }
    }

    void written() {
        count(written);
    }

    void older() {
        count(older);
    }

    void refused() {
        count(refused);
    }

    void repeated() {
        count(repeated);
    }
}
