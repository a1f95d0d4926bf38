import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.strimzi.api.kafka.model.common.UnknownPropertyPreserving;
import io.strimzi.api.kafka.model.connect.KafkaConnect;
import io.strimzi.api.kafka.model.kafka.Kafka;
import io.strimzi.api.kafka.model.nodepool.KafkaNodePool;
import io.strimzi.api.kafka.model.user.KafkaUser;
import java.lang.reflect.Method;
import java.util.Collection;
import java.util.Map;

/** Reads resources (a JSON array on standard input) as Strimzi's operator does, and prints every field that it would not know. */
public class Read {
    private static final Map<String, Class<?>> KINDS = Map.of(
            "Kafka", Kafka.class, "KafkaNodePool", KafkaNodePool.class, "KafkaUser", KafkaUser.class,
            "KafkaConnect", KafkaConnect.class);

    public static void main(String[] arguments) throws Exception {
        ObjectMapper mapper = new ObjectMapper();
        for (JsonNode node : mapper.readTree(System.in)) {
            String name = node.get("kind").asText() + "/" + node.at("/metadata/name").asText();
            // What has no place at all, or a value that an enum does not hold, ends the program here.
            Object resource = mapper.treeToValue(node, KINDS.get(node.get("kind").asText()));
            visit(name, resource);
            System.out.println("read " + name);
        }
    }

    private static void visit(String place, Object found) throws Exception {
        if (found instanceof Collection<?> items) {
            int number = 0;
            for (Object item : items) {
                visit(place + "[" + number++ + "]", item);
            }
            return;
        }
        if (found == null || found.getClass().isEnum() || !found.getClass().getName().startsWith("io.strimzi.")) {
            return;
        }
        if (found instanceof UnknownPropertyPreserving kept && kept.getAdditionalProperties() != null) {
            for (String unknown : kept.getAdditionalProperties().keySet()) {
                System.out.println("unknown " + place + "." + unknown);
            }
        }
        for (Method method : found.getClass().getMethods()) {
            if (method.getName().startsWith("get") && method.getParameterCount() == 0
                    && !method.getName().equals("getAdditionalProperties")) {
                visit(place + "." + method.getName().substring(3), method.invoke(found));
            }
        }
    }
}
