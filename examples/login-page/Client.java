// Asks Portcullis before a password is checked. Java 17, standard library only; any fault lets the client in.
//
//   EDGE_KEY=… java Client.java http://127.0.0.1:8470 shop 203.0.113.9 ada@example.com [device]

import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

public final class Client {
    /** How long a login waits at most, from the question to the whole answer. */
    static final long TIMEOUT_MS = 300;

    public record Answer(String verdict, boolean answered) {}

    // Within a text of the answer the quotes would be escaped, so what a client chose is never taken for this.
    private static final Pattern VERDICT = Pattern.compile("\"verdict\":\"(allow|challenge|deny)\"");
    private static final Pattern POLICY =
        Pattern.compile("\"challenge\":\"(NOBODY|ATTACKED_TRAITS|UNKNOWN_PAIRS|EVERYBODY)\"");

    private final HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    private final String url, tenant, key;

    public Client(String url, String tenant, String key) {
        this.url = url;
        this.tenant = tenant;
        this.key = key;
    }

    /** {@code allow}, {@code challenge} or {@code deny}, and whether that is an answer and not the lack of one. */
    public Answer check(String ip, String account, String device) {
        String question = "{\"tenant\":" + json(tenant) + ",\"ip\":" + json(ip) + ",\"account\":" + json(account)
            + ",\"device\":" + json(device) + "}";
        String verdict = ask("/v1/check", question, VERDICT);
        return verdict == null ? new Answer("allow", false) : new Answer(verdict, true);
    }

    /** Whom to challenge now: NOBODY, UNKNOWN_PAIRS, …; for a page that does not know the account yet. */
    public String challenge() {
        String policy = ask("/v1/attack-status/" + URLEncoder.encode(tenant, StandardCharsets.UTF_8), null, POLICY);
        return policy == null ? "NOBODY" : policy;
    }

    private String ask(String path, String body, Pattern wanted) {
        try {
            var request = HttpRequest.newBuilder(URI.create(url + path)).header("X-Api-Key", key)
                .header("Content-Type", "application/json");
            if (body != null) request.POST(BodyPublishers.ofString(body));
            // HttpRequest's own timeout ends with the answer's head.
            var answer = http.sendAsync(request.build(), BodyHandlers.ofString()).get(TIMEOUT_MS, TimeUnit.MILLISECONDS);
            var found = wanted.matcher(answer.body());
            return answer.statusCode() == 200 && found.find() ? found.group(1) : null;
        } catch (Exception whatever) { // nobody is locked out by it
            return null;
        }
    }

    private static String json(String text) {
        if (text == null) return "null";
        var out = new StringBuilder("\"");
        text.chars().forEach(c -> out.append(c < ' ' || c > '~' || c == '"' || c == '\\' ? "\\u%04x".formatted(c) : (char) c));
        return out.append('"').toString();
    }

    public static void main(String[] args) {
        var client = new Client(args[0], args[1], System.getenv("EDGE_KEY"));
        long began = System.nanoTime();
        var answer = client.check(args[2], args[3], args.length > 4 ? args[4] : null);
        long took = (System.nanoTime() - began) / 1_000_000;
        System.out.println(answer.verdict() + (answer.answered() ? " answered " : " open ") + took + " " + client.challenge());
        System.exit(0);
    }
}
