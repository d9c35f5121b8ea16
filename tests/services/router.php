<?php
// A service on PHP's built-in server, in Apache or in PHP-FPM (see README.md): calls with the http stream wrapper or with curl
// (HTTP_CLIENT=curl), a connection a call.
function truth(string $kind, string $id, string|int $status): void
{
    file_put_contents(getenv("TRUTH_LOG"), "$kind " . getenv("SERVICE") . " $id $status\n", FILE_APPEND);
}

function call(string $url, string $id): string|int
{
    if (getenv("HTTP_CLIENT") === "curl") {
        $handle = curl_init($url);
        curl_setopt_array($handle, [CURLOPT_HTTPHEADER => ["x-request-id: $id"], CURLOPT_RETURNTRANSFER => true]);
        curl_exec($handle);
        $refused = curl_errno($handle) === CURLE_COULDNT_CONNECT;
        return curl_getinfo($handle, CURLINFO_RESPONSE_CODE) ?: ($refused ? "connect" : "-");
    }
    $options = ["header" => "x-request-id: $id\r\nConnection: close", "protocol_version" => 1.1, "ignore_errors" => true];
    $body = @file_get_contents($url, false, stream_context_create(["http" => $options]));
    if ($body === false) {
        return str_contains(error_get_last()["message"], "refused") ? "connect" : "-";
    }
    return (int) explode(" ", $http_response_header[0])[1];
}

$routes = [];
foreach (explode(";", getenv("ROUTES")) as $route) {
    [$segment, $status, $delayMs] = $words = explode(" ", trim($route));
    $routes[$segment] = [(int) $status, (int) $delayMs, array_slice($words, 3)];
}
$id = $_SERVER["HTTP_X_REQUEST_ID"] ?? "-";
[$status, $delayMs, $urls] = $routes["/" . explode("/", parse_url($_SERVER["REQUEST_URI"], PHP_URL_PATH))[1]] ?? [404, 0, []];
usleep($delayMs * 1000);
foreach ($urls as $index => $url) {
    $callId = "$id." . ($index + 1);
    $answer = call($url, $callId);
    truth("C", $callId, $answer);
    if (!is_int($answer) || $answer >= 500) {
        $status = 502;
    }
}
truth("S", $id, $status);
http_response_code($status);
header("Content-Type: text/plain");
echo getenv("SERVICE") . " $id\n";
