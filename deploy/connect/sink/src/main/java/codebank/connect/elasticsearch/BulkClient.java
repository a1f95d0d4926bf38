package codebank.connect.elasticsearch;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Set;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.apache.kafka.connect.errors.ConnectException;

/** Sends bulk requests, and tells of each document how it went. */
final class BulkClient {
    /** How one document went. */
    enum Outcome { WRITTEN, OLDER, HEALS, REFUSED }

    /** One document's answer: what became of it, and why. */
    record Answer(Outcome outcome, String reason) { }

    /** Something that a repetition can heal: the server is away, or busy, or does not take anything for this index. */
    static final class Unavailable extends Exception {
        Unavailable(String message, Throwable cause) {
            super(message, cause);
        }
    }

    /** The request as a whole is refused for its size. */
    static final class TooLarge extends Exception {
        TooLarge() {
            super("the request is too large for Elasticsearch");
        }
    }

    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int BAD_REQUEST = 400;
    private static final int CONFLICT = 409;
    private static final int PAYLOAD_TOO_LARGE = 413;
    /**
     * What Elasticsearch calls a fault of the document itself, as 400. Everything else is of the index or the cluster
     * (closed, blocked, missing, full, not allowed) and heals once somebody mends it: no document is to blame.
     */
    private static final Set<String> OF_THE_DOCUMENT = Set.of(
            "document_parsing_exception", "mapper_parsing_exception", "strict_dynamic_mapping_exception",
            "parsing_exception", "parse_exception", "x_content_parse_exception", "json_parse_exception",
            "number_format_exception", "max_bytes_length_exceeded_exception", "action_request_validation_exception",
            "illegal_argument_exception");
    /** An alias without an index to write to is an illegal argument too. */
    private static final String OF_THE_INDEX = "alias";

    private final HttpClient http;
    private final List<URI> urls;
    private final String authorization;
    private final Duration readTimeout;
    private int current;

    BulkClient(SinkSettings settings) {
        urls = settings.urls();
        readTimeout = Duration.ofMillis(settings.getInt(SinkSettings.READ_TIMEOUT));
        String username = settings.getString(SinkSettings.USERNAME);
        String both = username + ":" + settings.secret(SinkSettings.PASSWORD);
        authorization = username.isEmpty()
                ? null : "Basic " + Base64.getEncoder().encodeToString(both.getBytes(StandardCharsets.UTF_8));
        HttpClient.Builder builder = HttpClient.newBuilder()
                .version(HttpClient.Version.HTTP_1_1)
                .connectTimeout(Duration.ofMillis(settings.getInt(SinkSettings.CONNECT_TIMEOUT)));
        if (!settings.getString(SinkSettings.TRUSTSTORE).isEmpty()) {
            builder.sslContext(trusting(settings));
        }
        http = builder.build();
    }

    /** Send documents, and give one answer for each, in their order. */
    List<Answer> send(List<Document> documents) throws Unavailable, TooLarge, InterruptedException {
        StringBuilder body = new StringBuilder();
        documents.forEach(document -> body.append(document.lines()));
        HttpResponse<InputStream> response = exchange(body.toString());
        int status = response.statusCode();
        try (InputStream stream = response.body()) {
            if (status == PAYLOAD_TOO_LARGE) {
                throw new TooLarge();
            }
            if (status != 200) {
                String said = new String(stream.readNBytes(1000), StandardCharsets.UTF_8);
                if (heals(status) || said.contains("cluster_block_exception")) {
                    throw elsewhere("Elasticsearch answers " + status + ": " + said, null);
                }
                throw new ConnectException("Elasticsearch refuses the request with " + status + ": " + said);
            }
            return answers(JSON.readTree(stream), documents.size());
        } catch (IOException error) {
            throw elsewhere("Elasticsearch broke off", error);
        }
    }

    private HttpResponse<InputStream> exchange(String body) throws Unavailable, InterruptedException {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(urls.get(current) + "/_bulk"))
                .timeout(readTimeout)
                .header("content-type", "application/x-ndjson")
                .POST(BodyPublishers.ofString(body));
        if (authorization != null) {
            request.header("authorization", authorization);
        }
        try {
            return http.send(request.build(), BodyHandlers.ofInputStream());
        } catch (IOException error) {
            throw elsewhere("Elasticsearch at " + urls.get(current) + " does not answer", error);
        }
    }

    private Unavailable elsewhere(String message, Throwable cause) {
        current = (current + 1) % urls.size();
        return new Unavailable(cause == null ? message : message + ": " + cause, cause);
    }

    private static List<Answer> answers(JsonNode response, int count) throws IOException {
        JsonNode items = response.path("items");
        if (items.size() != count) {
            throw new IOException("the answer tells of " + items.size() + " documents of " + count);
        }
        List<Answer> answers = new ArrayList<>(count);
        for (JsonNode item : items) {
            JsonNode index = item.path("index");
            JsonNode error = index.path("error");
            answers.add(new Answer(outcome(index.path("status").asInt(), error), error.toString()));
        }
        return answers;
    }

    private static Outcome outcome(int status, JsonNode error) {
        String type = error.path("type").asText();
        if (status >= 200 && status < 300) {
            return Outcome.WRITTEN;
        }
        if (status == CONFLICT && type.equals("version_conflict_engine_exception")) {
            return Outcome.OLDER;
        }
        boolean own = status == BAD_REQUEST && OF_THE_DOCUMENT.contains(type)
                && !(type.equals("illegal_argument_exception") && error.path("reason").asText().contains(OF_THE_INDEX));
        return own ? Outcome.REFUSED : Outcome.HEALS;
    }

    private static boolean heals(int status) {
        return status == 429 || status == 408 || status >= 500;
    }

    private static SSLContext trusting(SinkSettings settings) {
        Path place = Path.of(settings.getString(SinkSettings.TRUSTSTORE));
        try (InputStream stream = Files.newInputStream(place)) {
            String type = settings.getString(SinkSettings.TRUSTSTORE_TYPE);
            KeyStore trusted;
            if (type.equals("PEM")) {
                trusted = KeyStore.getInstance(KeyStore.getDefaultType());
                trusted.load(null, null);
                int number = 0;
                for (Certificate one : CertificateFactory.getInstance("X.509").generateCertificates(stream)) {
                    trusted.setCertificateEntry("authority-" + number++, one);
                }
            } else {
                trusted = KeyStore.getInstance(type);
                trusted.load(stream, settings.secret(SinkSettings.TRUSTSTORE_PASSWORD).toCharArray());
            }
            TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
            managers.init(trusted);
            SSLContext context = SSLContext.getInstance("TLS");
            context.init(null, managers.getTrustManagers(), null);
            return context;
        } catch (IOException | GeneralSecurityException error) {
            throw new ConnectException("the trust store " + place + " cannot be read", error);
        }
    }
}
