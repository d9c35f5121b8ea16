<?php
// A client (see README.md): so many curl handles at once in one process, with kept connections.
[, $url, $count, $inFlight, $prefix] = $argv;
$log = fopen(getenv("TRUTH_LOG"), "a");
stream_set_write_buffer($log, 0);
$multi = curl_multi_init();
$next = 0;
$begin = function () use (&$next, $multi, $url, $count, $prefix): bool {
    if ($next >= $count || file_exists(getenv("STOP"))) {
        return false;
    }
    $id = "$prefix-" . $next++;
    $handle = curl_init($url);
    curl_setopt_array($handle, [
        CURLOPT_HTTPHEADER => ["x-request-id: $id"],
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_PRIVATE => "$id " . (int) (microtime(true) * 1e6) . "000",
    ]);
    curl_multi_add_handle($multi, $handle);
    return true;
};
$running = 0;
while ($running < $inFlight && $begin()) {
    $running++;
}
while ($running > 0) {
    curl_multi_exec($multi, $active);
    while ($done = curl_multi_info_read($multi)) {
        [$id, $began] = explode(" ", curl_getinfo($done["handle"], CURLINFO_PRIVATE));
        $status = curl_getinfo($done["handle"], CURLINFO_RESPONSE_CODE) ?: "-";
        fwrite($log, "C " . getenv("SERVICE") . " $id $status $began\n");
        curl_multi_remove_handle($multi, $done["handle"]);
        $running--;
        while ($running < $inFlight && $begin()) {
            $running++;
        }
    }
    curl_multi_select($multi, 0.1);
}
